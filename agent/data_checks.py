"""What is odd about a run's data without being wrong: said as an event before the first update."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from agent.preparation import STD_FLOOR, Preparation

LARGE_REWARD = 1e4


def oddities(
    preparation: Preparation, *, transitions: int, batch_size: int, largest_reward: float
) -> Iterator[tuple[str, str]]:
    """(kind of event, message) for each."""
    if batch_size > transitions:
        yield (
            "small_dataset",
            f"a batch of {batch_size} is drawn with replacement from {transitions} transitions: each comes up many "
            "times; add data, or lower --algorithm.batch-size",
        )
    if preparation.clip is not None and bool(np.all(preparation.std <= np.float32(STD_FLOOR))):
        yield (
            "constant_observations",
            f"no observation varies over the {preparation.count} rows: the policy has nothing to go by; check the data",
        )
    if largest_reward > LARGE_REWARD:
        yield (
            "large_rewards",
            f"rewards reach {largest_reward:.3g} after scale and shift: values grow by up to 1/(1 − γ) on top, which "
            "trains slowly and imprecisely; scale them, e.g. with --reward-scaling return_range",
        )
