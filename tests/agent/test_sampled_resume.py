"""Every algorithm, over batches drawn as it asks for them, goes on bit for bit from where learner and sampler stood."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agent import algorithms
from agent.algorithms import ALGORITHMS, config_class
from agent.algorithms.base import Algorithm
from agent.algorithms.config import AlgorithmConfig
from agent.feeding import Feed
from agent.preparation import make_preparation
from agent.transitions import Preparer
from replay.statistics import observation_moments
from replay.store import Store
from tests.agent.corridor import write_aimless_episodes
from tests.agent.learners import digest

UPDATES, STOP = 24, 11


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path: Path = tmp_path_factory.mktemp("corridor") / "store"
    return write_aimless_episodes(path)


def make(config: AlgorithmConfig, seed: int) -> Algorithm[Any]:
    return algorithms.make(
        config, observation_size=1, action_size=1, offline_steps=UPDATES, generator=torch.Generator().manual_seed(seed)
    )


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_learner_and_sampler_go_on_bit_for_bit(store: Store, name: str) -> None:
    config = config_class(name)(hidden=(16, 16), batch_size=32)
    preparation = make_preparation(
        moments=observation_moments(store.reader()),
        action_low=np.array([-1.0]), action_high=np.array([1.0]),
        normalize=True, clip=10.0, reward_scale=1.0, reward_shift=-0.5, discount=config.discount,
    )  # fmt: skip
    prepare = Preparer(
        preparation, torch.device("cpu"), next_action=config.needs_next_action, returns=config.needs_return_to_go
    )

    def learn(algorithm: Algorithm[Any], state: dict[str, Any] | None, updates: int) -> dict[str, Any]:
        sampler = store.sampler(
            32, rng=np.random.default_rng(5), returns_to_go=prepare.returns_to_go(), **config.sampling()
        )
        if state is not None:
            sampler.load_state_dict(state)
        with Feed(sampler, prepare) as feed:
            for _ in range(updates):
                algorithm.update(feed.next())
            return feed.state_dict()

    whole, first, second = make(config, 0), make(config, 0), make(config, 99)
    learn(whole, None, UPDATES)
    drawn = learn(first, None, STOP)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    learn(second, drawn, UPDATES - STOP)
    assert digest(second) == digest(whole) != digest(first)
