"""What a guarded step is held to: the observation before the run, the action after it, and what each breach is called.

Neither guard raises on what a sensor or a network delivered; each says in `Flag`s what it noticed.

Shape legend: O observation entries, A action entries.
"""

from __future__ import annotations

import enum
import time
from typing import Any

import numpy as np

from export.contract import Contract
from export.errors import ExportError
from export.explaining import wrong_range, wrong_shape, wrong_time

F32 = np.float32


class Flag(enum.IntFlag):
    """What a guarded step noticed. Everything in FAULT means that the returned action is not the policy's."""

    OK = 0
    STALE = 1  # older than control.max_obs_age_ms
    BACKWARDS = 2  # measured before the previous observation, or in the future
    SHAPE = 4  # not [O] numbers
    RANGE = 8  # NaN, infinity, or outside valid_min..valid_max
    RUN = 16  # onnxruntime refused
    NOT_FINITE = 32  # the policy gave NaN or infinity, or nothing
    BOUNDS = 64  # the policy left its own bounds
    RATE_LIMITED = 128  # note, no fault: the action was moved towards the last executed one
    LATE = 256  # note, no fault: the step took longer than control.deadline_ms
    FROZEN = 512  # the same numbers with new time stamps, `frozen_after` times in a row


FAULT = int(
    Flag.STALE | Flag.BACKWARDS | Flag.SHAPE | Flag.RANGE | Flag.RUN | Flag.NOT_FINITE | Flag.BOUNDS | Flag.FROZEN,
)
_PLAIN_WORDS = {
    Flag.RUN: "onnxruntime refused to run the policy",
    Flag.NOT_FINITE: "the policy gave NaN or infinity",
    Flag.BOUNDS: "the policy left its own action bounds",
}
_CLOCK_SLACK_S = 1e-3  # a time stamp may be this far in the future: clocks of two processes are read at two moments


class ObservationGuard:
    """Age, order, range and motion of the observations, as the contract allows them.

    `frozen_after`: this many identical observations in a row with new time stamps are a fault; None: a robot may stand
    still. Raises ExportError where it is below 2.
    """

    def __init__(self, contract: Contract, frozen_after: int | None) -> None:
        if frozen_after is not None and frozen_after < 2:
            raise ExportError(f"frozen_after is {frozen_after}: give at least 2 identical observations, or None")
        self._contract, self._frozen_after = contract, frozen_after
        size = contract.observation_size
        low, high = float(np.finfo(F32).min), float(np.finfo(F32).max)
        self._min_O, self._max_O = np.full(size, low, F32), np.full(size, high, F32)
        for term in contract.observation:
            part = slice(term.offset, term.offset + term.length)
            # A limit beyond float32 would become infinity here, and let infinity pass.
            if term.valid_min is not None:
                self._min_O[part] = np.clip(term.valid_min, low, high)
            if term.valid_max is not None:
                self._max_O[part] = np.clip(term.valid_max, low, high)
        age = contract.control.max_obs_age_ms
        self._max_age_s = np.inf if age is None else age / 1e3
        self._last_t = -np.inf
        self._previous_O = np.full(size, np.nan, F32)
        self._previous_t: float | None = None
        self._same = 0

    def reset(self) -> None:
        """Begin a new episode: forget the last time stamp and the last observation."""
        self._last_t = -np.inf
        self._same = 0
        self._previous_O.fill(np.nan)

    def take_over(self, previous: ObservationGuard) -> None:
        """Go on where `previous`, of the same layout, stands."""
        self._last_t, self._previous_t = previous._last_t, previous._previous_t
        self._same = previous._same
        self._previous_O[:] = previous._previous_O

    def order_and_age(self, now: float, t_obs: float) -> int:
        """BACKWARDS or STALE for an observation measured at `t_obs`; both in s of time.monotonic()."""
        if not t_obs <= now + _CLOCK_SLACK_S or t_obs < self._last_t:
            return int(Flag.BACKWARDS)
        self._last_t = t_obs
        return self.age(now, t_obs)

    def age(self, now: float, t_obs: float) -> int:
        """STALE where the observation is too old by `now`."""
        return int(Flag.STALE) if now - t_obs > self._max_age_s else 0

    def range(self, observation_O: np.ndarray) -> int:
        """RANGE where an entry of [O] float32 is not in its bounds; NaN and infinity are in none."""
        within = (observation_O >= self._min_O) & (observation_O <= self._max_O)
        return 0 if within.all() else int(Flag.RANGE)

    def motion(self, observation_O: np.ndarray, t_obs: float | None) -> int:
        """FROZEN after too many identical observations; the same sample seen twice, under one stamp, counts once."""
        if self._frozen_after is None:
            return 0
        if not np.array_equal(observation_O, self._previous_O):
            self._previous_O[:] = observation_O
            self._same = 1
        elif t_obs is None or t_obs != self._previous_t:
            self._same += 1
        self._previous_t = t_obs
        return int(Flag.FROZEN) if self._same >= self._frozen_after else 0

    def explain(self, flags: int, observation: Any, observation_O: np.ndarray, t_obs: float | None) -> str:
        """What the faults in `flags` mean here: which entry, which bound.

        `observation` is what came and `observation_O` what was made of it, the last one that had the right shape.
        """
        now = time.monotonic()
        words = []
        if flags & Flag.STALE and t_obs is not None:
            words.append(f"{1e3 * (now - t_obs):.0f} ms old by now, at most {1e3 * self._max_age_s:g} ms are allowed")
        if flags & Flag.BACKWARDS and t_obs is not None:
            words.append(wrong_time(t_obs, now, self._last_t))
        if flags & Flag.SHAPE:
            words.append(wrong_shape(observation, self._contract.observation_size))
        if flags & Flag.RANGE:
            words.append(wrong_range(observation_O, self._contract, self._min_O, self._max_O))
        words += [what for flag, what in _PLAIN_WORDS.items() if flags & flag]
        if flags & Flag.FROZEN:
            words.append(f"the same numbers {self._same} times in a row, each with a new time stamp")
        return "; ".join(words)


class ActionGuard:
    """Bounds and rate limit of the actions, and the last executed one, which a hold repeats."""

    def __init__(self, contract: Contract) -> None:
        constants = contract.constants()
        self._low_A, self._high_A = constants["action.low"], constants["action.high"]
        self._neutral_A = np.clip(constants["action.shift"], self._low_A, self._high_A)
        self._last_A: np.ndarray = self._neutral_A.copy()
        self._executed = False
        self._reach_A: np.ndarray | None = None
        if contract.action.rate_limit is not None and contract.control.hz is not None:
            self._reach_A = np.asarray(contract.action.rate_limit, F32) / F32(contract.control.hz)

    @property
    def last(self) -> np.ndarray | None:
        """The last executed action [A], a copy; None before the first."""
        return self._last_A.copy() if self._executed else None

    @property
    def hold(self) -> np.ndarray:
        """What to do instead of acting [A], a copy: the last executed action, or the middle of the bounds."""
        return self._last_A.copy()

    def reset(self) -> None:
        """Begin a new episode: forget the last executed action."""
        self._last_A[:] = self._neutral_A
        self._executed = False

    def take_over(self, previous: ActionGuard) -> None:
        """Go on where `previous`, of the same layout, stands."""
        self._last_A[:] = previous._last_A
        self._executed = previous._executed

    def executed(self, action_A: np.ndarray) -> None:
        """This action [A], finite in float32, was executed last; a hold and the rate limit start within the bounds."""
        np.maximum(action_A, self._low_A, out=self._last_A)
        np.minimum(self._last_A, self._high_A, out=self._last_A)
        self._executed = True

    def refuse(self, action_A: np.ndarray) -> int:
        """NOT_FINITE or BOUNDS for an action [A] that must not be executed."""
        if not np.isfinite(action_A).all():
            return int(Flag.NOT_FINITE)
        if (action_A < self._low_A).any() or (action_A > self._high_A).any():
            return int(Flag.BOUNDS)
        return 0

    def limit(self, action_A: np.ndarray) -> tuple[np.ndarray, int]:
        """The action [A] no further from the last executed one than the rate allows, and RATE_LIMITED if it was."""
        if self._reach_A is None or not self._executed:
            return action_A, 0
        limited_A = np.clip(action_A, self._last_A - self._reach_A, self._last_A + self._reach_A)
        if (limited_A != action_A).any():
            return limited_A, int(Flag.RATE_LIMITED)
        return action_A, 0
