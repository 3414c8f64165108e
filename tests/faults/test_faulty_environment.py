"""An environment that raises, returns NaN or hangs: its episodes are cut before the fault, and the run goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replay.store import Store
from tests.faults.agent import events, lines
from tests.faults.faulty_cart import FAULT_EVERY, TIME_LIMIT
from tests.integration.command import ROOT, outcome, run

MODULE = "tests.faults.faulty_cart"
EXTRA = {"PYTHONPATH": str(ROOT)}
ONLINE_STEPS = 500
SMALL = (
    "--algorithm.hidden", 16, "--algorithm.batch-size", 16, "--pretrain-steps", 20, "--online-steps", ONLINE_STEPS,
    "--online.warmup-steps", 100, "--online.utd", 0.2, "--evaluation.final-episodes", 2, "--evaluation.every-steps", 0,
)  # fmt: skip


@pytest.fixture(scope="module")
def cart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data of the sound cart."""
    folder = tmp_path_factory.mktemp("cart")
    env = f"{MODULE}:SoundCart-v0"
    outcome(
        "collect", "--env", env, "--policy", "random", "--steps", 300, "--out", "data.zarr", cwd=folder, extra=EXTRA
    )
    return folder


def train(env: str, out: str) -> tuple[object, ...]:
    return ("train", "--replay", "data.zarr", "--env", f"{MODULE}:{env}", "--out", out, *SMALL)


@pytest.fixture(scope="module")
def faulty(cart: Path) -> tuple[Path, dict[str, Any]]:
    """A run in the faulty environment, and what it said at its end."""
    extra = {**EXTRA, "FAULTS": str(cart / "faults")}
    return cart / "faulty", outcome(*train("FaultyCart-v0", "faulty"), cwd=cart, extra=extra)


def test_a_run_completes_in_spite_of_faults(faulty: tuple[Path, dict[str, Any]]) -> None:
    path, said = faulty
    assert said["finished"] is True
    assert {"pretrained", "finetuned"} <= said.keys()
    assert json.loads((path / "status.json").read_text())["online_steps"] == ONLINE_STEPS


def test_every_fault_is_an_incident_that_says_what_happened(faulty: tuple[Path, dict[str, Any]]) -> None:
    path, _ = faulty
    faults = [event for event in events(path) if event["kind"] == "env_fault"]
    assert len(faults) == ONLINE_STEPS // (FAULT_EVERY - 1)
    assert json.loads((path / "status.json").read_text())["collectors"][0]["faults"] == len(faults)
    for fault, words in zip(
        faults, ("not finite|nan", "reward is inf", "shape", "RuntimeError: the gripper"), strict=False
    ):
        assert "FaultyCart-v0" in fault["message"]
        assert any(word in fault["message"] for word in words.split("|")), fault["message"]
        assert "\n" not in fault["message"]
    assert not [event for event in events(path) if event["kind"] == "restart"], "a fault took its collector down"


def test_episodes_are_cut_before_the_fault_and_never_sampled_through(faulty: tuple[Path, dict[str, Any]]) -> None:
    path, _ = faulty
    store = Store.open(path / "replay.zarr")
    episodes = list(store.episodes())
    interrupted = [episode for episode in episodes if episode.interrupted]
    faults = sum(event["kind"] == "env_fault" for event in events(path))
    # Beside those that a fault cut at most the one that the end of the run did.
    assert faults - 1 <= len(interrupted) <= faults + 1
    for episode in episodes:
        assert np.isfinite(episode.observations).all()
        assert np.isfinite(episode.rewards).all()
        steps, number = episode.observations[:, 2], episode.observations[:, 3]
        np.testing.assert_allclose(np.diff(steps), 0.1, atol=1e-5)
        assert (number == number[0]).all(), "a transition leads from one episode into another"
        assert steps[0] == 0.0
        assert not episode.terminated, "a fault or a time limit was stored as an end of the task"
        assert episode.truncated == (len(episode.rewards) == TIME_LIMIT)
    # All that can be sampled is in those episodes, and thanks to the cut rows it is every step that was made.
    assert store.num_steps == sum(len(episode.rewards) for episode in episodes) == ONLINE_STEPS


def test_an_environment_that_only_fails_ends_the_run_with_its_message(cart: Path) -> None:
    done = run(*train("BrokenCart-v0", "broken"), cwd=cart, extra=EXTRA)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("slipway")]
    assert "BrokenCart-v0" in error
    assert "the motor is disconnected" in error
    assert "resumes" in error
    faults = [event for event in events(cart / "broken") if event["kind"] == "env_fault"]
    assert 1 < len(faults) < 10


def test_the_shortest_warm_up_waits_for_a_step_whose_successor_is_known(cart: Path) -> None:
    short = ("--online-steps", 40, "--online.warmup-steps", 1, "--online.rate", 20, "--online.tolerance-steps", 5)
    said = outcome(*train("SoundCart-v0", "short"), *short, cwd=cart, extra=EXTRA)
    assert said["finished"] is True


@pytest.mark.full
@pytest.mark.parametrize(("env", "kind"), [("HangingCart-v0", "env_hung"), ("DyingCart-v0", "env_fault")])
def test_an_environment_that_hangs_or_dies_is_replaced_without_a_restart(cart: Path, env: str, kind: str) -> None:
    extra = {**EXTRA, "HANG_FLAG": str(cart / kind)}
    # One episode a score: an evaluation must not be the first to come to the step that fails.
    few = ("--evaluation.final-episodes", 1, "--online.step-deadline-seconds", 1)
    said = outcome(*train(env, env), *few, cwd=cart, extra=extra)
    assert said["finished"] is True
    assert (cart / kind).exists(), "it never failed"
    incidents = [event for event in events(cart / env) if event["kind"] in ("env_hung", "env_fault", "restart")]
    assert [event["kind"] for event in incidents] == [kind]
    store = Store.open(cart / env / "replay.zarr")
    assert json.loads((cart / env / "status.json").read_text())["online_steps"] == ONLINE_STEPS
    for episode in store.episodes():
        assert (episode.observations[:, 3] == episode.observations[0, 3]).all()
    assert lines(cart / env / "metrics.jsonl")


def test_collect_goes_on_after_a_fault_and_ends_the_episode_before_it(tmp_path: Path) -> None:
    outcome(
        "collect", "--env", f"{MODULE}:FaultyCart-v0", "--policy", "random", "--steps", 300, "--out", "faulty.zarr",
        cwd=tmp_path, extra={**EXTRA, "FAULTS": str(tmp_path / "faults")},
    )  # fmt: skip
    store = Store.open(tmp_path / "faulty.zarr")
    assert store.info()["interrupted"] >= 1
    assert store.info()["steps"] >= 300
    for episode in store.episodes():
        assert np.isfinite(episode.observations).all()
        assert np.isfinite(episode.rewards).all()
