"""Episodes of sources that record no next observations: what becomes of the last step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replay.ingest.source import SourceEpisode


def close_episode(
    label: str,
    rows: Mapping[str, NDArray[Any]],
    *,
    terminated: bool,
    truncated: bool,
    info: Mapping[str, NDArray[Any]],
    terminate_on: str | None,
    notes: Counter[str],
) -> Iterator[SourceEpisode]:
    """T rows of "observations" [T, O], "actions" [T, A], "rewards" [T] as one episode, or none.

    A terminated episode keeps its last step; its final observation, which nothing bootstraps from, repeats the last
    one. So does an episode whose last step has a non-zero `info[terminate_on]`, which the caller will terminate there.
    Any other ends one step early, and its last observation becomes the final one.
    """
    observations, steps = rows["observations"], len(rows["rewards"])
    if terminated or (terminate_on is not None and info[terminate_on][-1]):
        notes["final_observations_repeated"] += 1
        observations = np.concatenate([observations, observations[-1:]])
    else:
        notes["last_steps_without_next_observation"] += 1
        steps -= 1
    if steps:
        yield SourceEpisode(
            label=label,
            observations=observations,
            actions=rows["actions"][:steps],
            rewards=rows["rewards"][:steps],
            terminated=terminated,
            truncated=truncated,
            info={name: column[:steps] for name, column in info.items()},
        )


def done_means_terminated(reward: float) -> bool:
    """What a lone "done" on an episode's last step says (robomimic, LeRobot): success if it was rewarded.

    Both formats set it at success, at the end of every recording, or at either, and do not say which.
    """
    return bool(reward != 0)
