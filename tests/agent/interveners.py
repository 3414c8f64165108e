"""Who acts in the policy's place in tests: `online.intervention = "tests.agent.interveners:NAME"`."""

from __future__ import annotations

import os

import numpy as np


class Push:
    """On every fourth step of an episode, twice the force that there is."""

    def __init__(self) -> None:
        self.steps = -1

    def reset(self) -> None:
        self.steps = 0

    def __call__(self, observation: np.ndarray, action: np.ndarray) -> np.ndarray | None:
        self.steps += 1
        observation[:], action[:] = np.nan, np.nan  # its own copies
        return np.full(action.shape, 2.0) if self.steps % 4 == 0 else None


def no_device() -> Push:
    raise ConnectionError("the gamepad is not plugged in")


def nothing() -> None:
    """Returns nothing that can be called."""


def leaves() -> None:
    """Ends its process without a word."""
    os._exit(3)


def too_wide() -> object:
    return lambda observation, action: np.zeros(7)


def not_finite() -> object:
    return lambda observation, action: action * np.nan


def words() -> object:
    return lambda observation, action: "left"


def unplugged() -> object:
    def act(observation: np.ndarray, action: np.ndarray) -> np.ndarray:
        raise ConnectionError("the gamepad was unplugged")

    return act


number = 3
