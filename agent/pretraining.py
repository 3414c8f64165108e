"""The offline phase."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from agent.transitions import Transitions


class Feed(Protocol):
    """Anything that hands out prepared batches."""

    def next(self) -> Transitions:
        """The next batch, valid until the following call."""
        ...


class Algorithm(Protocol):
    """Anything that learns from batches and counts its updates."""

    updates: int

    def update(self, batch: Transitions) -> dict[str, Tensor]:
        """One gradient step; tensors for the log."""
        ...


def pretrain(
    algorithm: Algorithm,
    feed: Feed,
    *,
    steps: int,
    stopping: Callable[[], bool],
    after_update: Callable[[dict[str, Tensor]], None],
) -> bool:
    """Update on offline batches until `algorithm.updates` reaches `steps`; False if stopped before."""
    while algorithm.updates < steps:
        if stopping():
            return False
        after_update(algorithm.update(feed.next()))
    return True
