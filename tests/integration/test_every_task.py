"""Every family of tasks goes through the arcs: steps, a store, updates, and an exported policy back in the env."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from agent.algorithms.iql import IQL
from agent.algorithms.iql_config import IQLConfig
from agent.config import TrainConfig
from agent.config_files import load_preset, merge
from agent.exporting import network_reference
from agent.policy_contract import make_contract
from agent.preparation import make_preparation
from agent.transitions import Preparer
from envs.catalog import CATALOG, lookup
from envs.experts import RandomExpert
from envs.make import describe, make_env
from envs.rollout import rollout
from export.onnx_writer import export_policy
from export.runner import PolicyRunner
from export.template import Template
from replay.schema import StoreSpec
from replay.statistics import observation_moments
from replay.store import Store

# One of each family in every run; the others differ from them in mazes, sizes and goals only.
FAMILIES = (
    "Hopper-v5", "HalfCheetah-v5", "Walker2d-v5", "Ant-v5",
    "AdroitHandPen-v1", "AdroitHandHammer-v1", "AdroitHandDoor-v1", "AdroitHandRelocate-v1",
    "FrankaKitchen-v1", "AntMaze_UMaze-v4", "PointMaze_UMaze-v3", "FetchReach-v4",
)  # fmt: skip
STEPS, LIMIT = 60, 20


@pytest.mark.parametrize(
    "env_id",
    [*FAMILIES, *(pytest.param(name, marks=pytest.mark.full) for name in CATALOG if name not in FAMILIES)],
)
def test_a_task_goes_from_steps_to_an_exported_policy_that_acts_in_it(env_id: str, tmp_path: Path) -> None:
    env = make_env(env_id, max_episode_steps=LIMIT)
    described = describe(env)
    spec = StoreSpec.from_terms(
        described["observation"], described["action_low"], described["action_high"], env=described["env"]
    )
    store = Store.create(tmp_path / "store.zarr", spec, chunk_rows=1024)
    expert = RandomExpert(env, np.random.default_rng(0))
    with store.writer("random", durability="process") as writer:
        for count, step in enumerate(rollout(env, expert.act, seed_rng=np.random.default_rng(1)), start=1):
            writer.append(
                step.observation, step.action, step.reward,
                terminated=step.terminated, truncated=step.truncated,
                next_observation=step.next_observation, first=step.first,
            )  # fmt: skip
            if count >= STEPS and (step.terminated or step.truncated):
                break

    preset = merge(TrainConfig(), load_preset(lookup(env_id).preset), where="preset")
    config = IQLConfig(**{**preset.algorithm.__dict__, "hidden": (16, 16), "batch_size": 16})
    preparation = make_preparation(
        moments=observation_moments(store.reader()), action_low=np.asarray(spec.action_low),
        action_high=np.asarray(spec.action_high), normalize=True, clip=10.0, reward_scale=1.0,
        reward_shift=preset.reward_shift, discount=config.discount,
    )  # fmt: skip
    iql = IQL(
        config, observation_size=spec.observation_size, action_size=spec.action_size, offline_steps=20,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    sampler = store.sampler(16, rng=np.random.default_rng(2))
    prepare = Preparer(preparation, torch.device("cpu"))
    before = {name: weight.copy() for name, weight in iql.actor.exported_weights().items()}
    losses = [iql.update(prepare(sampler.next())) for _ in range(20)]
    assert all(bool(tensor.isfinite().all()) for result in losses for tensor in result.values())
    assert any(not np.array_equal(before[name], weight) for name, weight in iql.actor.exported_weights().items())

    contract = make_contract(spec, preparation, run="test", algorithm="iql", env=described["env"])
    model = export_policy(iql.actor.trunk, log_std=iql.actor.clamped_log_std(), contract=contract)
    assert Template.from_bytes(model).patch(iql.actor.exported_weights(), contract) == model
    runner = PolicyRunner(model)
    observation, _ = env.reset(seed=3)
    reference = network_reference(iql.actor, preparation)
    for _ in range(5):
        action = runner.act(observation)
        np.testing.assert_allclose(action, reference(observation[None])[0][0], atol=2e-5)
        assert (action >= env.action_low).all() and (action <= env.action_high).all()
        observation = env.step(action)[0]
    env.close()
