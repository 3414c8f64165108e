"""IQL solves a small task from mediocre data, where imitation of that data does not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from agent.algorithms.iql import IQL
from agent.algorithms.iql_config import IQLConfig
from agent.feeding import Feed
from agent.preparation import make_preparation
from agent.pretraining import pretrain
from agent.transitions import Preparer
from replay.schema import StoreSpec
from replay.statistics import observation_moments, returns
from replay.store import Store

# A point in a corridor from -1 to 1, moved by at most STRIDE a step, starts at the left end and is done at GOAL. Each
# step costs 1; after LIMIT steps the episode is cut off. The shortest way takes 17 or 18 steps.
STRIDE, GOAL, LIMIT = 0.1, 0.8, 40
POINT = {"name": "position", "offset": 0, "length": 1, "dtype": "float32"}
UPDATES = 1200


def move(position: np.ndarray, action: np.ndarray) -> np.ndarray:
    return np.clip(position + STRIDE * np.clip(action, -1, 1), -1, 1)


def start(rng: np.random.Generator, episodes: int) -> np.ndarray:
    return rng.uniform(-1.0, -0.9, episodes)


def mean_return(act: Callable[[np.ndarray], np.ndarray], rng: np.random.Generator, episodes: int = 100) -> float:
    """Of a policy [E] → [E]."""
    position, steps, going = start(rng, episodes), np.zeros(episodes), np.ones(episodes, bool)
    for _ in range(LIMIT):
        steps += going
        position = move(position, act(position))
        going &= position < GOAL
    return float(-steps.mean())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Aimless episodes, whose action wanders with a random drift for the whole episode; few reach the goal."""
    rng = np.random.default_rng(0)
    store = Store.create(tmp_path_factory.mktemp("corridor") / "store", StoreSpec.from_terms([POINT], [-1.0], [1.0]))
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


def learned(store: Store, *, beta: float) -> Callable[[np.ndarray], np.ndarray]:
    """The mean action after a short offline training."""
    preparation = make_preparation(
        moments=observation_moments(store.reader()),
        action_low=np.array([-1.0]), action_high=np.array([1.0]),
        normalize=True, clip=10.0, reward_scale=1.0, reward_shift=0.0, discount=0.99,
    )  # fmt: skip
    algorithm = IQL(
        IQLConfig(hidden=(32, 32), batch_size=64, learning_rate=2e-3, expectile=0.9, beta=beta, target_rate=0.05),
        observation_size=1,
        action_size=1,
        offline_steps=UPDATES,
        generator=torch.Generator().manual_seed(0),
    )
    sampler = store.sampler(64, rng=np.random.default_rng(1))
    with Feed(sampler, Preparer(preparation, torch.device("cpu"))) as feed:
        assert pretrain(
            algorithm, feed, steps=UPDATES, stopping=lambda: False, after_update=lambda result: None
        )  # fmt: skip

    def act(position: np.ndarray) -> np.ndarray:
        observation = (position[:, None].astype(np.float32) - preparation.mean) / preparation.std
        with torch.no_grad():
            action: np.ndarray = torch.tanh(algorithm.actor(torch.from_numpy(observation)))[:, 0].numpy()
        return action

    return act


def test_iql_turns_aimless_data_into_a_policy_that_goes_straight_to_the_goal(store: Store) -> None:
    from_the_left_end = returns(store)[::3]
    assert from_the_left_end.mean() < -35.0  # the data are bad
    assert mean_return(learned(store, beta=10.0), np.random.default_rng(2)) > -21.0


def test_imitation_of_the_same_data_does_not(store: Store) -> None:
    # The negative control: with β = 0 the weights are all 1, which is behaviour cloning.
    assert mean_return(learned(store, beta=0.0), np.random.default_rng(2)) < -35.0


def test_the_shortest_way_is_as_long_as_stated() -> None:
    assert -18.0 <= mean_return(np.ones_like, np.random.default_rng(2)) <= -17.0
