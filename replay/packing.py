"""Episodes as packed rows: T steps become T + 1 rows, the last with the final observation and not valid to sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from replay.errors import SchemaError
from replay.schema import META_COLUMNS, StoreSpec


def to_float32(values: NDArray[Any]) -> NDArray[np.float32]:
    """Convert; what exceeds float32 becomes an infinity, which the writer refuses."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def pack_episode(
    spec: StoreSpec,
    observations: ArrayLike,
    actions: ArrayLike,
    rewards: ArrayLike,
    *,
    terminated: bool,
    truncated: bool,
    info: Mapping[str, ArrayLike],
    policy_version: int | NDArray[np.int64] = 0,
    intervention: bool | NDArray[np.bool_] = False,
    synthetic: bool | NDArray[np.bool_] = False,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Pack one episode; arguments as for `StreamWriter.append_episode`.

    Returns:
        rows float32 [T + 1, W] and meta int64 [T + 1, 5], of which only the policy version is filled.

    Raises:
        SchemaError: shapes that do not fit, or an info column is missing.
    """
    o, a, at = spec.observation_size, spec.action_size, spec.offsets
    observations, actions, rewards = np.asarray(observations), np.asarray(actions), np.asarray(rewards)
    steps = len(rewards) if rewards.ndim == 1 else -1
    if steps < 1 or observations.shape != (steps + 1, o) or actions.shape != (steps, a):
        raise SchemaError(
            f"an episode needs observations [T+1, {o}], actions [T, {a}] and rewards [T] with T >= 1, "
            f"got {list(observations.shape)}, {list(actions.shape)} and {list(rewards.shape)}"
        )
    rows = np.zeros((steps + 1, spec.row_width), np.float32)
    rows[:, :o] = to_float32(observations)
    rows[:-1, o : o + a] = to_float32(actions)
    rows[:-1, at["reward"]] = to_float32(rewards)
    for name in spec.info:
        values = np.asarray(info.get(name, ()))
        if values.shape != (steps,):
            raise SchemaError(f"info column {name!r} needs one value a step ({steps}), got {list(values.shape)}")
        rows[:-1, at[name]] = to_float32(values)
    rows[0, at["first"]] = 1.0
    rows[-2, at["terminated"]] = terminated
    rows[-2, at["truncated"]] = truncated
    rows[-1, at["interrupted"]] = not (terminated or truncated)
    rows[:-1, at["intervention"]] = intervention
    rows[:-1, at["synthetic"]] = synthetic
    rows[:-1, at["valid"]] = 1.0
    meta = np.zeros((steps + 1, len(META_COLUMNS)), np.int64)
    meta[:-1, 0] = policy_version
    meta[-1, 0] = meta[-2, 0]
    return rows, meta
