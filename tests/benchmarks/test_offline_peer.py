"""A peer trains on what our learner sees, with the final observation of episodes cut by time, and is scored as ours."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from agent.algorithms.iql_config import IQLConfig
from agent.comparison.plan import Run
from agent.config import TrainConfig
from agent.files import write_atomic
from agent.preparation import Preparation, make_preparation
from agent.run_directory import RunDirectory
from benchmarks import offline_peer
from benchmarks.offline_peer import arrays, d3rlpy_scores, normalized, training_settings
from envs.catalog import evaluation_spec, training_spec
from envs.make import describe, make_env
from replay.schema import StoreSpec
from replay.statistics import observation_moments
from replay.store import Store


def test_terminated_episodes_end_at_their_last_action_and_others_at_their_final_observation(tmp_path: Path) -> None:
    terms = [{"name": "x", "offset": 0, "length": 1, "dtype": "float32"}]
    store = Store.create(tmp_path / "ends.zarr", StoreSpec.from_terms(terms, low=[0.0], high=[4.0]))
    with store.writer("log") as writer:
        for step, ends in enumerate([(False, False), (True, False), (False, False), (False, True)]):
            x = np.array([float(step)], np.float32)
            writer.append(x, np.array([1.0]), 1.0 + step, terminated=ends[0], truncated=ends[1],
                          next_observation=x + 0.5, first=step in (0, 2))  # fmt: skip
    p = make_preparation(
        moments=observation_moments(store.reader()), action_low=np.zeros(1, np.float32),
        action_high=np.full(1, 4.0, np.float32), normalize=True, clip=10.0, reward_scale=2.0, reward_shift=-1.0,
        discount=0.99,
    )  # fmt: skip
    made = arrays(Store.open(tmp_path / "ends.zarr"), p)
    observed = np.array([[0.0], [1.0], [2.0], [3.0], [3.5]], np.float32)
    np.testing.assert_allclose(made["observations"], normalized(observed, p))
    np.testing.assert_allclose(made["actions"][:, 0], [-0.5, -0.5, -0.5, -0.5, 0.0])
    np.testing.assert_allclose(made["rewards"], [1.0, 3.0, 5.0, 7.0, 0.0])
    np.testing.assert_array_equal(made["terminals"], [0, 1, 0, 0, 0])
    np.testing.assert_array_equal(made["timeouts"], [0, 0, 0, 0, 1])


KITCHEN = {"id": "FrankaKitchen-v1", "kwargs": {}, "max_episode_steps": 3}


def finished_run(out: Path, *, episodes: int) -> Run:
    """One of IQL in the kitchen as far as a peer looks at it; the environment's rewards are the training's."""
    env = training_spec(KITCHEN)
    made = make_env(env["id"], kwargs=env["kwargs"], max_episode_steps=env["max_episode_steps"])
    described = describe(made)
    made.close()
    sizes = described["observation"][-1]["offset"] + described["observation"][-1]["length"]
    spec = StoreSpec.from_terms(described["observation"], described["action_low"], described["action_high"], env=env)
    Store.create(out / "kitchen.zarr", spec)
    config = TrainConfig(replay=out / "kitchen.zarr", out=out / "kitchen" / "iql" / "seed-0", algorithm=IQLConfig())
    config = replace(config, evaluation=replace(config.evaluation, final_episodes=episodes))
    run = RunDirectory(config.out)
    run.save_config(config)
    preparation = Preparation(
        mean=np.zeros(sizes, np.float32), std=np.ones(sizes, np.float32), clip=None, count=1, reward_scale=1.0,
        action_low=np.asarray(spec.action_low), action_high=np.asarray(spec.action_high), reward_shift=0.0,
        discount=0.99,
    )  # fmt: skip
    write_atomic(run.preparation, json.dumps(preparation.to_json()).encode())
    write_atomic(run.env, json.dumps(env).encode())
    run.metric("evaluation", label="pretrained", online_steps=0, episodes=episodes, mean=0.0, normalized=0.0)
    return Run(task="kitchen", variant="iql", seed=0, config=config)


# TorchScript is what d3rlpy saves.
TORCHSCRIPT = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


class Still(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(x.shape[0], 9)


@TORCHSCRIPT
def test_a_peer_is_scored_as_ours_and_again_where_it_was_scored_otherwise(tmp_path: Path) -> None:
    run = finished_run(tmp_path, episodes=2)
    kept = tmp_path / "kitchen" / "d3rlpy_iql" / "seed-0" / "score.json"
    kept.parent.mkdir(parents=True)
    torch.jit.script(Still()).save(kept.parent / "policy.pt")
    as_others = {"env": evaluation_spec(KITCHEN), "episodes": 2}
    assert as_others["env"] != training_spec(KITCHEN)
    for scored_by in ({**as_others, "episodes": 1}, {**as_others, "env": training_spec(KITCHEN)}):
        kept.write_text(json.dumps({"score": 77.0, "trained_by": training_settings(run), "scored_by": scored_by}))
        assert d3rlpy_scores([run]) == [0.0]
        assert json.loads(kept.read_text())["scored_by"] == as_others
    kept.write_text(json.dumps({"score": 77.0, "trained_by": training_settings(run), "scored_by": as_others}))
    assert d3rlpy_scores([run]) == [77.0]


@TORCHSCRIPT
def test_a_peer_is_trained_again_by_other_settings_and_for_no_run_of_ours_that_has_not_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished_run(tmp_path, episodes=1)
    unfinished = replace(run, seed=1, config=replace(run.config, out=run.config.out.with_name("seed-1")))
    assert d3rlpy_scores([unfinished]) == [None]
    kept = tmp_path / "kitchen" / "d3rlpy_iql" / "seed-0" / "score.json"
    kept.parent.mkdir(parents=True)
    kept.write_text('{"score": 77.0}')  # of which nobody knows how it was made

    def train(run: Run, folder: Path, settings: dict[str, object]) -> None:  # d3rlpy is not installed for the tests
        assert not kept.exists() and settings == training_settings(run)
        torch.jit.script(Still()).save(folder / "policy.pt")

    monkeypatch.setattr(offline_peer, "train_peer", train)
    assert d3rlpy_scores([run]) == [0.0]
    assert json.loads(kept.read_text())["trained_by"] == training_settings(run)
