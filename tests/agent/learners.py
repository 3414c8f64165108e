"""Small learners, random batches for them, and one number for all that a learner holds."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from agent import algorithms
from agent.algorithms.base import Algorithm
from agent.algorithms.iql import IQL
from agent.algorithms.iql_config import IQLConfig
from agent.transitions import Transitions

OBSERVATIONS, ACTIONS = 5, 2
SMALL = IQLConfig(hidden=(16, 16), batch_size=32, learning_rate=1e-3)


def make_learner(*, seed: int = 0, offline_steps: int = 1000, **changes: Any) -> IQL:
    return IQL(
        replace(SMALL, **changes),
        observation_size=OBSERVATIONS,
        action_size=ACTIONS,
        offline_steps=offline_steps,
        generator=torch.Generator().manual_seed(seed),
    )


def make_algorithm(name: str, *, seed: int = 0, offline_steps: int = 1000, **changes: Any) -> Algorithm[Any]:
    """A small learner of any registered algorithm."""
    small = {"hidden": (16, 16), "batch_size": 32, "learning_rate": 1e-3}
    return algorithms.make(
        replace(algorithms.config_class(name)(), **{**small, **changes}),
        observation_size=OBSERVATIONS,
        action_size=ACTIONS,
        offline_steps=offline_steps,
        generator=torch.Generator().manual_seed(seed),
    )


def random_transitions(rng: np.random.Generator, rows: int = 32) -> Transitions:
    def normal(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))

    return Transitions(
        observation=normal(rows, OBSERVATIONS),
        action=normal(rows, ACTIONS).tanh(),
        reward=normal(rows),
        discount=torch.from_numpy(np.float32(0.99) * rng.integers(0, 2, rows).astype(np.float32)),
        next_observation=normal(rows, OBSERVATIONS),
        next_action=normal(rows, ACTIONS).tanh(),
        next_action_known=torch.from_numpy(rng.integers(0, 2, rows).astype(np.float32)),
        return_to_go=torch.where(torch.arange(rows) % 5 == 0, torch.nan, normal(rows)),
    )


def learn(algorithm: Algorithm[Any], rng: np.random.Generator, updates: int) -> None:
    for _ in range(updates):
        algorithm.update(random_transitions(rng))


def digest(algorithm: Algorithm[Any]) -> str:
    """sha256 over every tensor and number of the learner's state, optimisers and generator included."""
    state = algorithm.state_dict()
    hashed = hashlib.sha256(repr(sorted(state["numbers"].items())).encode())
    for name, tensor in sorted(state["tensors"].items()):
        hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        hashed.update(tensor.detach().contiguous().numpy().tobytes())
    return hashed.hexdigest()
