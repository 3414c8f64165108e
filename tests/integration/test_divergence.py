"""Training on data that no learner can make sense of, and training that goes wrong, through the real command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent import checkpoint
from replay.schema import StoreSpec
from replay.store import Store
from tests.integration.command import outcome, run

OBSERVATIONS, ACTIONS = 4, 1
ENV = "InvertedPendulum-v5"
FAST = (
    "--algorithm.hidden", 16, 16, "--pretrain-steps", 120, "--evaluation.final-episodes", 1, "--log-every", 20,
    "--checkpoint.every-updates", 40, "--reward-scaling", "none",
)  # fmt: skip


def make_store(path: Path, *, episodes: int = 5, steps: int = 20, scale: float = 1.0, **changes: Any) -> None:
    """Random episodes in the pendulum's layout."""
    rng = np.random.default_rng(0)
    terms = [{"name": "observation", "offset": 0, "length": OBSERVATIONS, "dtype": "float32"}]
    env = {"id": ENV, "kwargs": {}, "max_episode_steps": 1000}
    store = Store.create(path, StoreSpec.from_terms(terms, [-3.0] * ACTIONS, [3.0] * ACTIONS, env=env))
    with store.writer("data", durability="process") as writer:
        for _ in range(episodes):
            observations = rng.normal(size=(steps + 1, OBSERVATIONS)) * scale
            rewards = changes.get("reward", 1.0) * rng.uniform(0.5, 1.0, steps)
            writer.append_episode(
                observations, rng.uniform(-3, 3, (steps, ACTIONS)), rewards, terminated=True, truncated=False, info=None
            )


def events(path: Path) -> dict[str, str]:
    file = path / "events.jsonl"
    lines = map(json.loads, file.read_text().splitlines()) if file.exists() else []
    return {line["kind"]: line["message"] for line in lines}


def diverges(place: Path, *flags: object) -> str:
    """The one line of a training that ends with exit code 2."""
    done = run("pretrain", "--replay", "data.zarr", "--out", "run", *FAST, *flags, cwd=place)
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("slipway pretrain:")]
    assert "Traceback" not in done.stderr
    return line


def test_exploding_values_end_the_run_before_the_last_good_checkpoint_is_replaced(tmp_path: Path) -> None:
    make_store(tmp_path / "data.zarr")
    outcome("pretrain", "--replay", "data.zarr", "--out", "run", *FAST, cwd=tmp_path)
    path = tmp_path / "run"
    # The run goes on from there under a rate that no network stands: as if training had gone wrong of itself.
    config = (path / "config.toml").read_text()
    assert "learning_rate = 0.0003" in config and "pretrain_steps = 120" in config
    config = config.replace("learning_rate = 0.0003", "learning_rate = 8.0")
    (path / "config.toml").write_text(config.replace("pretrain_steps = 120", "pretrain_steps = 240"))
    (path / "status.json").unlink()
    line = diverges(tmp_path, "--algorithm.learning-rate", 8.0, "--pretrain-steps", 240, "--log-every", 1)
    assert "has exploded" in line
    assert "--algorithm.learning-rate" in line
    assert 120 < int(line.partition(" updates")[0].split()[-1]) < 160
    good = checkpoint.load_latest(path / "checkpoints", on_fallback=pytest.fail)
    assert good is not None
    assert good.name == "000000120"


def test_rewards_that_overflow_name_the_tensor_that_is_not_finite(tmp_path: Path) -> None:
    # (1e30)² is beyond float32: the critic's loss is infinite, its gradients are infinite or NaN.
    make_store(tmp_path / "data.zarr", reward=1e30)
    line = diverges(tmp_path)
    assert "is not finite after 20 updates" in line
    assert "critic_loss" in line or "value_loss" in line
    assert "rewards' scale" in line
    assert "large_rewards" in events(tmp_path / "run")
    assert not list((tmp_path / "run" / "checkpoints").glob("0*"))


# name: (store, flags, event, words of it)
ODD: dict[str, tuple[dict[str, Any], tuple[object, ...], str, str]] = {
    "rewards of 1e9": ({"reward": 1e9}, (), "large_rewards", "reach 9."),
    "single transition": ({"episodes": 1, "steps": 1}, (), "small_dataset", "from 1 transitions"),
    "zero variance": ({"scale": 0.0}, (), "constant_observations", "no observation varies"),
    "batch larger than the data": ({}, ("--algorithm.batch-size", 1000), "small_dataset", "batch of 1000"),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_data_are_trained_on_and_said_to_be_odd(name: str, tmp_path: Path) -> None:
    made, flags, kind, words = ODD[name]
    make_store(tmp_path / "data.zarr", **made)
    said = outcome("pretrain", "--replay", "data.zarr", "--out", "run", *FAST, *flags, cwd=tmp_path)
    assert said["finished"] is True
    assert np.isfinite(said["pretrained"]["mean"])
    told = events(tmp_path / "run")
    assert words in told[kind]
    figures = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in figures if line["kind"] == "train"]
    assert {line["updates"] for line in trained} == set(range(20, 121, 20))
    for line in trained:
        assert 0.0 <= line["weight_clipped_share"] <= 1.0
        assert 0.0 <= line["data_wait_fraction"] <= 1.0
    assert any(line.get("checkpoint_block_ms", 1e9) < 50.0 for line in trained)
