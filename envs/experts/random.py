"""The policy that knows nothing: uniform actions within the bounds. Every normalised score counts from it."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from envs.errors import EnvError


class RandomExpert:
    """Uniform actions, independent of the observation."""

    def __init__(self, env: gymnasium.Env[Any, Any], rng: np.random.Generator) -> None:
        if not isinstance(env.action_space, spaces.Box):
            raise EnvError("the random expert needs bounded continuous actions: use an environment made by make_env")
        self._low, self._high = env.action_space.low, env.action_space.high
        self._rng = rng

    def reset(self, observation: npt.NDArray[np.float32]) -> None:
        """Nothing to forget."""

    def act(self, observation: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """A uniform action [A] float32."""
        return self._rng.uniform(self._low, self._high).astype(np.float32)
