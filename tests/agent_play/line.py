"""An environment that is none of MuJoCo's: a dot on a line, drawn by hand, from a start that its reset draws."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Line(gymnasium.Env[np.ndarray, np.ndarray]):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.observation_space = spaces.Box(-10, 10, (1,), np.float32)
        self.action_space = spaces.Box(-1, 1, (1,), np.float32)
        self._place = 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._place = float(self.np_random.uniform(-1, 1))
        return np.array([self._place], np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self._place += 0.1 * float(action[0])
        return np.array([self._place], np.float32), 0.0, False, False, {}

    def render(self) -> np.ndarray:  # type: ignore[override]
        picture = np.zeros((31, 41, 3), np.uint8)
        picture[:, int(np.clip(20 + 10 * self._place, 0, 40))] = 255
        return picture


gymnasium.register("Line-v0", Line)
