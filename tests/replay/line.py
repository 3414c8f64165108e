"""The smallest environment with a one-dimensional observation and action, for tests that need a registered one."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box


class Line(gymnasium.Env[Any, Any]):
    """A point on a line that moves by its action; never ends by itself."""

    observation_space = Box(-99.0, 99.0, (1,))
    action_space = Box(-2.0, 2.0, (1,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.at = np.zeros(1, np.float32)
        return self.at.copy(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.at = self.at + np.asarray(action, np.float32)
        return self.at.copy(), float(-abs(self.at[0])), False, False, {}
