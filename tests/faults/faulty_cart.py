"""Pure-Python environments for `--env tests.faults.faulty_cart:ID`: one sound, the others failing in real ways.

SoundCart-v0 never fails. FaultyCart-v0 returns NaN, then an infinite reward, then a wrong shape, then raises, at every
97th step of its process; the files $FAULTS-PARENT count them over the processes that one parent starts. BrokenCart-v0
raises at every first step. HangingCart-v0 hangs once, at the 60th step of its process. DyingCart-v0 takes its process
down with it, likewise.

The observation [4] float64 is position, velocity, steps of this episode / 10, number of this episode: enough to tell
whether two stored observations belong together.
"""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

TIME_LIMIT = 30
FAULT_EVERY = 97
HANG_AT = 60


class Cart(gymnasium.Env[Any, Any]):
    """A cart on a line; the reward is minus its distance from zero."""

    metadata = {"render_modes": []}  # noqa: RUF012
    steps_of_process = itertools.count(1)

    def __init__(self, fault: str = "none") -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float64)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.fault = fault
        self._state = np.zeros(4)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._state = np.array([*self.np_random.uniform(-1.0, 1.0, 2), 0.0, self.np_random.uniform()])
        return self._state.copy(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        count = next(Cart.steps_of_process)
        if self.fault == "broken":
            raise RuntimeError("the motor is disconnected")
        if self.fault in ("hang", "die") and count == HANG_AT and not (flag := Path(os.environ["HANG_FLAG"])).exists():
            flag.touch()
            if self.fault == "die":
                os.abort()
            time.sleep(3600.0)
        self._state += [0.1 * self._state[1], 0.1 * float(action[0]), 0.1, 0.0]
        observation, reward = self._state.copy(), -abs(float(self._state[0]))
        if self.fault == "now and then" and count % FAULT_EVERY == 0:
            match faults_so_far() % 4:
                case 0:
                    raise RuntimeError("the gripper\nfell off")
                case 1:
                    observation[0] = np.nan
                case 2:
                    reward = float("inf")
                case 3:
                    observation = np.zeros(5)
        return observation, reward, False, False, {}


def faults_so_far() -> int:
    """How many faults there have been among the children of this process's parent, with this one."""
    with Path(f"{os.environ['FAULTS']}-{os.getppid()}").open("a") as file:
        file.write("x")
        return file.tell()


CARTS = {"Sound": "none", "Faulty": "now and then", "Broken": "broken", "Hanging": "hang", "Dying": "die"}
for name, fault in CARTS.items():
    gymnasium.register(
        f"{name}Cart-v0", Cart, max_episode_steps=TIME_LIMIT, kwargs={"fault": fault}, disable_env_checker=True
    )
