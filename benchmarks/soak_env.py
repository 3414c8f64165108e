"""`--env benchmarks.soak_env:CountedCheetah-v0`: HalfCheetah whose observation also counts the steps of its episode.

So the store itself can prove that no step of an episode is missing, repeated or out of place.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

TIME_LIMIT = 200
SCALE = 1 / 64
"""Of the counter, a power of two: float32 holds it exactly."""


class Counted(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Appends the number of steps taken in this episode."""

    def __init__(self) -> None:
        super().__init__(gymnasium.make("HalfCheetah-v5", max_episode_steps=-1))
        size = self.env.observation_space.shape[0] + 1  # type: ignore[index]
        self.observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float64)
        self._count = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self._count = 0
        return np.append(observation, 0.0), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._count += 1
        return np.append(observation, self._count * SCALE), reward, terminated, truncated, info


gymnasium.register("CountedCheetah-v0", Counted, max_episode_steps=TIME_LIMIT, disable_env_checker=True)
