"""A robot of your own, in one file: a cart on a table that two thrusters drive to a goal.

    slipway deploy maze.policy --robot examples.my_robot:make_robot --rate 50 --steps 1000 --record flights.zarr

It offers what a policy for PointMaze reads and writes, so that the line above works with the README's policy. Replace
the physics in `_advance` by your driver and keep the four methods: `read`, `write`, `safe_stop`, `close`
(`export.robot.Robot`). Nothing here needs more than the device install: numpy and Slipway's runner.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np

from export.control_loop import Reading

TABLE_METRES = 1.4
"""The cart stays within ± this of the middle, in both axes."""
GOAL_METRES = 0.45
"""An episode succeeds within this distance of the goal."""
EPISODE_SECONDS = 6.0
"""An episode that has not succeeded by then is cut."""
FULL_THRUST = 10.0
"""m/s² at an action of 1."""
DRAG = 1.0
"""1/s, the share of the velocity that is lost each second."""


class Cart:
    """A double integrator with drag, in real time: what happens between two reads takes as long as it takes.

    Observation, float32 [8], in the order of the policy's contract (`slipway verify` checks the layout's size, and
    the loop that every value is finite): position [2], goal [2], position [2], velocity [2]; metres and m/s.
    Action, float32 [2]: thrust in x and y, −1 to 1.
    """

    contract: dict[str, Any] = {  # noqa: RUF012 - never changed
        "observation": [
            {"name": "achieved_goal", "length": 2},
            {"name": "desired_goal", "length": 2},
            {"name": "observation", "length": 4},
        ],
        "action": {"low": [-1.0, -1.0], "high": [1.0, 1.0]},
    }
    """What a policy must have been made for: `slipway deploy` refuses any other."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._thrust = np.zeros(2)
        self._episode_due = True

    def read(self) -> Reading:
        """Measure, and tell what became of the last action. Must return well within the control period."""
        if self._episode_due:
            return self._begin_episode()
        now = time.monotonic()
        self._advance(now - self._measured_at)
        self._measured_at = now
        arrived = bool(np.linalg.norm(self._position - self._goal) <= GOAL_METRES)
        late = now - self._began_at >= EPISODE_SECONDS
        # After a reading that ends the episode no action follows: the next reading begins another one.
        self._episode_due = arrived or late
        return Reading(
            observation=self._observation(), t_mono=now, reward=float(arrived), terminated=arrived,
            truncated=late and not arrived,
        )  # fmt: skip

    def write(self, action: np.ndarray) -> None:
        """Execute `action`; it is within the contract's bounds, and reused by the caller, hence the copy."""
        self._thrust = action.astype(np.float64)

    def safe_stop(self) -> None:
        """Bring the robot to rest. Called at the end of every run and after faults, so it may come twice."""
        self._thrust = np.zeros(2)

    def close(self) -> None:
        """Release the driver; a simulated cart has none."""

    def _begin_episode(self) -> Reading:
        self._episode_due = False
        self._position, self._goal = self._rng.uniform(-TABLE_METRES, TABLE_METRES, size=(2, 2))
        self._velocity = np.zeros(2)
        self._thrust = np.zeros(2)
        self._began_at = self._measured_at = time.monotonic()
        return Reading(observation=self._observation(), t_mono=self._measured_at, first=True)

    def _advance(self, seconds: float) -> None:
        self._velocity += (FULL_THRUST * self._thrust - DRAG * self._velocity) * seconds
        self._position = np.clip(self._position + self._velocity * seconds, -TABLE_METRES, TABLE_METRES)

    def _observation(self) -> np.ndarray:
        return np.concatenate([self._position, self._goal, self._position, self._velocity]).astype(np.float32)


def make_robot() -> Cart:
    """What `--robot examples.my_robot:make_robot` calls."""
    return Cart(np.random.default_rng())


def watchdog_stop() -> None:
    """What `--watchdog` calls, in a process of its own, when the loop stalls or dies.

    Open the relay of the drives here, or tell their controller to brake: whatever works while the loop's process still
    holds the robot. A simulated cart stands still when its loop does.
    """
    sys.stderr.write("cart: the watchdog cut the power of the drives\n")
