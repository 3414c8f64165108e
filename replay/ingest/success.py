"""Episodes that end in success: find the per-step column, cut the episode at its first success.

Where the source records no such column but its rewards are sparse, the column follows from the rewards: 1 at success
and 0 before (mazes), or 0 at success and -1 before (Fetch). Which of the two holds is settled by the first reward in
the source that is not 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replay.ingest.source import SourceEpisode, SourceFormatError

SUCCESS_NAMES = ("success", "is_success")


def find_column(infos: Any, name: str) -> str | None:
    """The key of `infos` that holds the column `name`; "success" is also found as "is_success"."""
    names = SUCCESS_NAMES if name in SUCCESS_NAMES else (name,)
    return next((key for key in names if infos is not None and key in infos), None)


def sparse_success_reward(rewards: Iterable[NDArray[Any]], where: str) -> float:
    """The reward that marks success, 1.0 or 0.0, from reward arrays in order; reads no further than it must.

    Raises:
        SourceFormatError: the rewards are not sparse, so success cannot be read off them.
    """
    for array in rewards:
        other = array[array != 0]
        if len(other) and other[0] in (1, -1):
            return 1.0 if other[0] == 1 else 0.0
        if len(other):
            raise SourceFormatError(
                f"{where}: nothing marks success: no per-step info 'success' or 'is_success' is recorded and the "
                f"rewards are not sparse (one is {float(other[0]):g}); ingest with --terminate-on none"
            )
    raise SourceFormatError(
        f"{where}: nothing marks success: no per-step info 'success' is recorded and every reward is 0; "
        "ingest with --terminate-on none"
    )


def success_from_rewards(rewards: NDArray[Any], success_reward: float, where: str) -> NDArray[np.float32]:
    """Column [T] that is 1 where the sparse reward marks success.

    Raises:
        SourceFormatError: a reward belongs to neither value of the sparse pair.
    """
    # A NaN is left to the check of values, which names it as one.
    sparse = (rewards == success_reward) | (rewards == success_reward - 1) | ~np.isfinite(rewards)
    if not sparse.all():
        step = int(np.argmin(sparse))
        raise SourceFormatError(
            f"{where}: reward at step {step} is {float(rewards[step]):g}, but success was read from sparse rewards "
            f"({success_reward:g} at success, {success_reward - 1:g} before); ingest with --terminate-on none"
        )
    return np.asarray(rewards == success_reward, np.float32)


def cut_at_first(episode: SourceEpisode, name: str) -> tuple[SourceEpisode, int]:
    """The episode up to its first non-zero `info[name]`, terminated there; and how many steps were left out."""
    hits = np.flatnonzero(episode.info[name])
    if not len(hits):
        return episode, 0
    steps = int(hits[0]) + 1
    return (
        replace(
            episode,
            observations=episode.observations[: steps + 1],
            actions=episode.actions[:steps],
            rewards=episode.rewards[:steps],
            terminated=True,
            # A time limit met in the same step stays recorded; one met later was never reached.
            truncated=False,
            info={key: column[:steps] for key, column in episode.info.items()},
        ),
        len(episode.rewards) - steps,
    )
