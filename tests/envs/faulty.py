"""Small registered environments that really misbehave: `make_env("tests.envs.faulty:Faulty-v0", kwargs=...)`."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class FaultyEnv(gymnasium.Env[Any, Any]):
    """Counts its steps in the observation [3] (one buffer, reused), and fails in the way asked for at step `at`."""

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(
        self,
        fault: str = "none",
        at: int = 3,
        action_space: str = "box",
        observation_space: str = "box",
        terminate_at: int = 0,
    ) -> None:
        self.fault, self.at, self.terminate_at = fault, at, terminate_at
        self.observation_space = {
            "box": spaces.Box(-np.inf, np.inf, (3,), np.float64),
            "image": spaces.Box(0, 255, (8, 8, 3), np.uint8),
            "nested image": spaces.Dict({"camera": spaces.Box(0, 255, (8, 8), np.uint8)}),
            "text": spaces.Dict({"note": spaces.Text(5)}),
            "empty": spaces.Dict({}),
        }[observation_space]
        self.action_space = {
            "box": spaces.Box(np.array([-2.0, -0.1]), np.array([2.0, 0.3]), dtype=np.float64),
            "matrix": spaces.Box(-1.0, 1.0, (2, 3), np.float32),
            "discrete": spaces.Discrete(4),
            "integer": spaces.Box(0, 3, (2,), np.int64),
            "unbounded": spaces.Box(-np.inf, np.inf, (2,), np.float32),
        }[action_space]
        self.actions: list[Any] = []
        self._buffer = np.zeros(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._buffer[:] = 0.0
        if self.fault == "raise at reset":
            raise RuntimeError("no contact\nwith the robot")
        return self._buffer, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.actions.append(action)
        self._buffer += 1.0
        step = int(self._buffer[0])
        observation: Any = self._buffer
        reward = 1.0
        figure: float | str = 0.5
        if step == self.at:
            match self.fault:
                case "raise":
                    raise RuntimeError("the gripper\nfell off")
                case "nan":
                    self._buffer[1] = np.nan
                case "inf":
                    self._buffer[2] = -np.inf
                case "too large":
                    self._buffer[0] = 1e300
                case "shape":
                    observation = np.zeros(4)
                case "reward":
                    reward = float("nan")
                case "large reward":
                    reward = 1e39
                case "figure":
                    figure = float("nan")
                case "word":
                    figure = "none"
        return observation, reward, step == self.terminate_at, False, {"note": "kept", "figure": figure}


gymnasium.register("Faulty-v0", FaultyEnv, max_episode_steps=20, disable_env_checker=True)
