"""A small task that imitation of its data does not solve, and how a policy fares in it after a short training.

A point in a corridor from -1 to 1, moved by at most STRIDE a step, starts at the left end and is done at GOAL. Each
step costs 1; after LIMIT steps the episode is cut off. The shortest way takes 17 or 18 steps.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from agent import algorithms
from agent.algorithms.config import AlgorithmConfig
from agent.feeding import Feed
from agent.preparation import make_preparation
from agent.pretraining import pretrain
from agent.transitions import Preparer
from replay.schema import StoreSpec
from replay.statistics import observation_moments
from replay.store import Store

STRIDE, GOAL, LIMIT = 0.1, 0.8, 40
POINT = {"name": "position", "offset": 0, "length": 1, "dtype": "float32"}
Act = Callable[[np.ndarray], np.ndarray]
"""[E] → [E]."""


def move(position: np.ndarray, action: np.ndarray) -> np.ndarray:
    return np.clip(position + STRIDE * np.clip(action, -1, 1), -1, 1)


def start(rng: np.random.Generator, episodes: int) -> np.ndarray:
    return rng.uniform(-1.0, -0.9, episodes)


def mean_return(act: Act, rng: np.random.Generator, episodes: int = 100) -> float:
    position, steps, going = start(rng, episodes), np.zeros(episodes), np.ones(episodes, bool)
    for _ in range(LIMIT):
        steps += going
        position = move(position, act(position))
        going &= position < GOAL
    return float(-steps.mean())


def write_aimless_episodes(path: Path) -> Store:
    """Episodes whose action wanders with a random drift for the whole episode; few reach the goal."""
    rng = np.random.default_rng(0)
    store = Store.create(path, StoreSpec.from_terms([POINT], [-1.0], [1.0]))
    with store.writer("data", durability="process") as writer:
        for episode in range(150):
            drift = rng.uniform(-0.5, 0.7)
            # Not all begin at the left end: what is worth doing near the goal must be stitched to what leads there.
            positions, actions = [rng.uniform(-1.0, 0.7) if episode % 3 else start(rng, 1)[0]], []
            while len(actions) < LIMIT and positions[-1] < GOAL:
                actions.append(np.clip(drift + rng.normal(scale=0.7), -1, 1))
                positions.append(move(positions[-1], actions[-1]))
            terminated = bool(positions[-1] >= GOAL)
            writer.append_episode(
                np.array(positions)[:, None], np.array(actions)[:, None], -np.ones(len(actions)),
                terminated=terminated, truncated=not terminated, info=None,
            )  # fmt: skip
    return store


def learned(store: Store, config: AlgorithmConfig, updates: int) -> Act:
    """The mean action after a short offline training."""
    preparation = make_preparation(
        moments=observation_moments(store.reader()),
        action_low=np.array([-1.0]), action_high=np.array([1.0]),
        normalize=True, clip=10.0, reward_scale=1.0, reward_shift=0.0, discount=config.discount,
    )  # fmt: skip
    algorithm = algorithms.make(
        config, observation_size=1, action_size=1, offline_steps=updates, generator=torch.Generator().manual_seed(0)
    )
    prepare = Preparer(
        preparation, torch.device("cpu"), next_action=config.needs_next_action, returns=config.needs_return_to_go
    )
    sampler = store.sampler(
        config.batch_size, rng=np.random.default_rng(1), returns_to_go=prepare.returns_to_go(), **config.sampling()
    )
    with Feed(sampler, prepare) as feed:
        assert pretrain(algorithm, feed, steps=updates, stopping=lambda: False, after_update=lambda result: None)

    def act(position: np.ndarray) -> np.ndarray:
        observation = (position[:, None].astype(np.float32) - preparation.mean) / preparation.std
        with torch.no_grad():
            action: np.ndarray = torch.tanh(algorithm.actor.raw(torch.from_numpy(observation)))[:, 0].numpy()
        return action

    return act
