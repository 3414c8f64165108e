"""Scripted controllers that produce data. `EXPERTS[name](env, rng)` builds one for a wrapped environment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import gymnasium
import numpy as np
import numpy.typing as npt

from envs.experts.random import RandomExpert
from envs.experts.waypoint import WaypointExpert


class Expert(Protocol):
    """What produces actions for `rollout`: told of each episode's start, asked at each step."""

    def reset(self, observation: npt.NDArray[np.float32]) -> None:
        """An episode begins with `observation` [O]."""

    def act(self, observation: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The action [A] for `observation` [O]."""
        ...


EXPERTS: dict[str, Callable[[gymnasium.Env[Any, Any], np.random.Generator], Expert]] = {
    "random": RandomExpert,
    "waypoint": WaypointExpert,
}

__all__ = ["EXPERTS", "Expert", "RandomExpert", "WaypointExpert"]
