"""Limiter: how many gradient updates may go with how many online environment steps.

With x = utd * steps - updates (both since the base), the two sides keep

    -slack <= x <= slack,    slack = max(utd * tolerance_steps, (1 + utd) / 2):

the learner takes an update only while x >= 1 - slack, the collectors a step only while x <= slack - utd. (1 + utd) / 2
is the least slack with which one of the two is always allowed, so they cannot block each other for good.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from replay.errors import ReplayError


class Limiter:
    """Pure arithmetic on two counters that their owners keep; no locks, no clock."""

    def __init__(self, *, utd: float, tolerance_steps: float, base_steps: int = 0, base_updates: int = 0) -> None:
        """
        Args:
            utd: gradient updates wanted for each environment step, > 0.
            tolerance_steps: how many environment steps either side may be ahead.
            base_steps: steps that do not count (preloaded data, warm-up).
            base_updates: updates that do not count (pretraining).

        Raises:
            ReplayError: an argument out of range.
        """
        if not (math.isfinite(utd) and utd > 0):
            raise ReplayError(f"utd is {utd}: it must be finite and above 0")
        if not (math.isfinite(tolerance_steps) and tolerance_steps >= 0):
            raise ReplayError(f"tolerance_steps is {tolerance_steps}: it must be finite and at least 0")
        self.utd = float(utd)
        self.tolerance_steps = float(tolerance_steps)
        self.slack = max(self.utd * self.tolerance_steps, (1.0 + self.utd) / 2.0)
        self.base_steps = base_steps
        self.base_updates = base_updates

    def deficit(self, steps: int, updates: int) -> float:
        """Updates that the learner is behind; negative: ahead."""
        return self.utd * (steps - self.base_steps) - (updates - self.base_updates)

    def may_update(self, steps: int, updates: int) -> bool:
        """Learner side: whether one more update keeps within the tolerance."""
        return self.deficit(steps, updates) >= 1.0 - self.slack

    def may_collect(self, steps: int, updates: int) -> bool:
        """Collector side: whether one more step keeps within the tolerance."""
        # The second term only matters where rounding would leave both sides refused.
        return self.deficit(steps, updates) <= self.slack - self.utd or not self.may_update(steps, updates)

    def forgive(self, steps: int) -> float:
        """Let so many steps more not count; returns the updates that they would have asked for."""
        self.base_steps += steps
        return self.utd * steps

    def state_dict(self) -> dict[str, Any]:
        """Settings and base, JSON-able."""
        return {
            "utd": self.utd,
            "tolerance_steps": self.tolerance_steps,
            "base_steps": self.base_steps,
            "base_updates": self.base_updates,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the base; `utd` and tolerance stay as constructed."""
        self.base_steps, self.base_updates = int(state["base_steps"]), int(state["base_updates"])
