"""The online phase: the learner's side of concurrent fine-tuning.

Collectors append to their streams while this loop samples offline and online data in fixed shares. Nobody waits for
anybody except at the limiter: whichever side is ahead of the update-to-data ratio by more than the tolerance pauses.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from agent.pretraining import Algorithm, Feed
from replay.limiter import Limiter


class Publication(Protocol):
    """Hands new weights to collectors when due."""

    def maybe(self) -> None:
        """Publish if enough time has passed."""


def finetune(
    algorithm: Algorithm,
    feed: Feed,
    *,
    limiter: Limiter,
    collected_steps: Callable[[], int],
    first_update: int,
    last_update: int,
    publication: Publication,
    stopping: Callable[[], bool],
    waiting: Callable[[float], None],
    after_update: Callable[[dict[str, Tensor]], None],
    pause_seconds: float = 0.001,
) -> bool:
    """Update while collectors collect, from total update `first_update` on, until `last_update`.

    Returns False if stopped before. `waiting(seconds)` hears of every pause at the limiter.
    """
    while algorithm.updates < last_update:
        if stopping():
            return False
        publication.maybe()
        if not limiter.may_update(collected_steps(), algorithm.updates - first_update):
            time.sleep(pause_seconds)
            waiting(pause_seconds)
            continue
        after_update(algorithm.update(feed.next()))
    return True
