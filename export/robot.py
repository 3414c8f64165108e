"""What a robot offers the control loop, and what its sensors say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What the sensors said, and for a simulated robot what became of the last action."""

    observation: np.ndarray
    "Flat observation [O], float32; may be reused by the robot after the next `read`."
    t_mono: float
    "When it was measured: seconds on time.monotonic's clock."
    reward: float = 0.0
    "Reward of the action written before this reading."
    terminated: bool = False
    "The task ended here: no action follows, the next reading begins an episode."
    truncated: bool = False
    "The episode was cut here, by a time limit for instance: as above, but the task was not over."
    first: bool = False
    "First reading of an episode: no action led here."
    executed: np.ndarray | None = None
    "Action [A] done since the last reading where it was another than the one written: a person's. None: the written."


class Robot(Protocol):
    """What a robot offers. Only the loop's thread calls it; the caller of the loop closes it.

    It may also have these attributes:
        contract: dict, the part of a policy's contract that must agree (`slipway deploy` refuses a policy otherwise),
            e.g. `{"observation": [{"name": "joint_position"}, ...], "action": {"names": ["shoulder", "elbow"]}}`.
        frozen_after: int, this many identical observations in a row with new time stamps are the fault FROZEN.
        lockstep: bool, its world waits for the action (a simulation): a late loop misses nothing of it.
    And its module `watchdog_stop() -> None`: stops the hardware from another process (`export.watchdog`).
    """

    def read(self) -> Reading:
        """The newest observation, within less than the control period. A simulated robot steps its world here."""

    def write(self, action: np.ndarray) -> None:
        """Execute an action [A] float32 in the contract's units, within the contract's bounds."""

    def safe_stop(self) -> None:
        """Bring the robot to a safe state; called at the end of every run, so it must be harmless when repeated."""

    def close(self) -> None:
        """Release the robot."""
