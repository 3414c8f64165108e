"""An environment of your own: a mass on a line that is to come to rest in the middle.

slipway collect --env my_environment:Line-v0 --policy random --steps 2000 --out line.zarr
"""

import gymnasium as gym
import numpy as np


class Line(gym.Env):
    """Observation [position, velocity], action [thrust]; the reward is minus the distance from the middle."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self._state = np.array([self.np_random.uniform(-1.0, 1.0), 0.0], np.float32)
        return self._state.copy(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        position, velocity = self._state
        velocity = 0.9 * velocity + 0.1 * float(action[0])
        self._state = np.array([position + velocity, velocity], np.float32)
        # The time limit (truncated) is the registration's; terminated would mean that no reward can follow.
        return self._state.copy(), -abs(float(self._state[0])), False, False, {}


gym.register("Line-v0", entry_point=Line, max_episode_steps=50)
