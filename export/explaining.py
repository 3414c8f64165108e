"""Words for a fault that ended a flight: what was wrong with the observation, and what would have been right.

Made once, after the robot has been stopped from going on; no step of the loop waits for it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from export.contract import Contract

WIDE_S = 60.0
"""A time stamp so far off is on another clock, not late."""


def entry_name(contract: Contract, index: int) -> str:
    """Entry `index` of the flat observation as its owner knows it: `joint_velocity[2]`."""
    term = next(each for each in contract.observation if each.offset <= index < each.offset + each.length)
    return f"{term.name}[{index - term.offset}]"


def wrong_shape(observation: Any, size: int) -> str:
    """Why `observation` is not [O] numbers."""
    if not isinstance(observation, np.ndarray):
        return f"the observation is a {type(observation).__name__}, not an array of {size} numbers"
    if observation.dtype.kind not in "fiu":
        return f"the observation holds {observation.dtype}, not numbers"
    if observation.ndim != 1:
        return f"the observation has the shape {list(observation.shape)}, [{size}] is wanted"
    return f"{len(observation)} numbers, {size} wanted"


def wrong_range(observation: np.ndarray, contract: Contract, low: np.ndarray, high: np.ndarray) -> str:
    """The first entry of `observation` outside [low, high], all [O] float32, and how many more there are."""
    wrong = np.flatnonzero(~((observation >= low) & (observation <= high)))
    first = int(wrong[0])
    name, value = entry_name(contract, first), f"{float(observation[first]):g}"
    bounded = max(-float(low[first]), float(high[first])) < float(np.finfo(np.float32).max)
    wanted = f"must lie in {low[first]:g} to {high[first]:g}" if bounded else "must be finite"
    more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    return f"{name} is {value} but {wanted}{more}"


def wrong_time(t_obs: float, now: float, last: float) -> str:
    """Why the time stamp `t_obs` runs backwards, `last` being the one before and `now` the clock's; all in s."""
    must = "Reading.t_mono must be time.monotonic() at the measurement"
    if t_obs < last:
        return f"measured {last - t_obs:.3g} s before the reading before it: {must}"
    if t_obs - now > WIDE_S:
        return f"t_mono is {t_obs:.0f}, on another clock (time.time()?): {must}, which is {now:.0f} now"
    if t_obs > now:
        return f"measured {t_obs - now:.3g} s in the future: {must}"
    return f"t_mono is {t_obs}: {must}"
