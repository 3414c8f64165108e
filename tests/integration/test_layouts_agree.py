"""A dataset and the environment it was recorded in have one layout: what is learned from one acts in the other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from envs.make import describe, make_env
from replay.ingest import ingest
from replay.schema import StoreSpec
from replay.store import Store
from tests.replay import make_minari


@pytest.mark.parametrize("dataset_id", list(make_minari.SHAPES))
def test_store_and_environment_have_one_fingerprint(dataset_id: str, tmp_path: Path) -> None:
    ingest(make_minari.make_d4rl_shaped(tmp_path, dataset_id, episodes=1, steps=3), tmp_path / "store")
    check(Store.open(tmp_path / "store").spec)


@pytest.mark.data
@pytest.mark.parametrize("name", ["dapg/door/human-v0", "local/pointmaze/umaze-v0"])
def test_real_datasets_fit_the_installed_environments(
    name: str, slipway_data: Callable[[str], Path], tmp_path: Path
) -> None:
    ingest(slipway_data(name.replace("/", "-")) / name, tmp_path / "store")
    check(Store.open(tmp_path / "store").spec)


def check(stored: StoreSpec) -> None:
    assert stored.env is not None
    env = make_env(stored.env["id"], kwargs=stored.env["kwargs"], max_episode_steps=stored.env["max_episode_steps"])
    try:
        described = describe(env)
        observation, _ = env.reset(seed=0)
    finally:
        env.close()
    acting = StoreSpec.from_terms(described["observation"], described["action_low"], described["action_high"])
    assert stored.layout_fingerprint == acting.layout_fingerprint
    assert np.shape(observation) == (stored.observation_size,)
