"""A pretraining that is stopped and resumed, or falls back a checkpoint, ends bit by bit as an undisturbed one does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent import checkpoint
from tests.faults.agent import Agent, events, lines
from tests.faults.conftest import CHECKPOINT_STEPS, PRETRAIN_STEPS, SMALL
from tests.integration.command import outcome, run

FINAL = f"checkpoints/{PRETRAIN_STEPS:09d}"


def same_checkpoint(one: Path, other: Path) -> bool:
    """Equal weights, targets, optimiser moments and generator; equal sampler and limiter."""
    assert (one / "tensors.safetensors").stat().st_size > 10_000
    return all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in ("tensors.safetensors", "state.json")
    )


@dataclass(frozen=True, kw_only=True)
class Stopped:
    """A pretraining stopped in the middle by SIGTERM and resumed by the same command."""

    run: Path
    code: int
    """Exit code of the stopped command."""
    seconds: float
    """From SIGTERM to its end."""
    said: dict[str, Any]
    """Its JSON."""
    stopped_at: int
    """Update of the checkpoint that it left."""
    status: dict[str, Any]
    """status.json that it left."""
    resumed: dict[str, Any]
    """JSON of the resumed command."""


@pytest.fixture(scope="module")
def stopped(place: Path) -> Stopped:
    path = place / "stopped"
    command = ("pretrain", "--replay", "data.zarr", "--out", "stopped", *SMALL)
    with Agent(*command, "--json", cwd=place, run=path) as agent:
        agent.wait_for("the first updates", lambda: len(lines(path / "metrics.jsonl")) > 0)
        code, seconds = agent.stop()
        said = json.loads(agent.process.communicate()[0])
    stopped_at = int((path / "checkpoints" / "LATEST").read_text())
    status = json.loads((path / "status.json").read_text())
    return Stopped(
        run=path, code=code, seconds=seconds, said=said, stopped_at=stopped_at, status=status,
        resumed=outcome(*command, cwd=place),
    )  # fmt: skip


def test_sigterm_saves_and_exits_0_within_ten_seconds(stopped: Stopped) -> None:
    assert stopped.code == 0
    assert stopped.seconds < 10.0
    assert stopped.said["finished"] is False
    assert 0 < stopped.stopped_at < PRETRAIN_STEPS
    assert stopped.status["pretrain_step"] == stopped.stopped_at
    assert stopped.status["stopped"] is True


def test_the_same_command_resumes_where_it_stopped(stopped: Stopped) -> None:
    assert stopped.resumed["finished"] is True
    assert "pretrained" in stopped.resumed
    (resumed,) = [event for event in events(stopped.run) if event["kind"] == "resumed"]
    assert resumed["updates"] == stopped.stopped_at
    updates = [record["updates"] for record in lines(stopped.run / "metrics.jsonl") if record["kind"] == "train"]
    assert updates == list(range(25, PRETRAIN_STEPS + 1, 25)), "updates were repeated or left out"


def test_offline_resume_is_bit_exact(stopped: Stopped, pretrained: Path) -> None:
    assert same_checkpoint(pretrained / FINAL, stopped.run / FINAL)


def test_a_resumed_run_scores_as_the_undisturbed(stopped: Stopped, pretrained: Path) -> None:
    one, other = (
        next(record for record in lines(run / "metrics.jsonl") if record["kind"] == "evaluation")
        for run in (pretrained, stopped.run)
    )
    varies = ("time", "seconds")
    assert {k: v for k, v in one.items() if k not in varies} == {k: v for k, v in other.items() if k not in varies}


def test_a_corrupt_newest_checkpoint_falls_back_to_the_one_before_and_says_so(
    place: Path, pretrained: Path, copy_of_pretrained: Callable[[str], Path]
) -> None:
    """In a run that was renamed, too."""
    copy = copy_of_pretrained("corrupt")
    damaged = copy / FINAL / "tensors.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-9] ^= 1
    damaged.write_bytes(content)
    assert outcome("pretrain", "--replay", "data.zarr", "--out", "corrupt", *SMALL, cwd=place)["finished"] is True
    started, fallback, resumed = events(copy)
    assert started["kind"] == "executor"  # of the run that was copied
    assert fallback["kind"] == "checkpoint_fallback"
    assert str(damaged) in fallback["message"]
    assert resumed["updates"] == PRETRAIN_STEPS - CHECKPOINT_STEPS
    assert same_checkpoint(pretrained / FINAL, copy / FINAL)


def test_a_checkpoint_of_another_version_is_refused_in_one_line_and_not_tried_again(
    place: Path, copy_of_pretrained: Callable[[str], Path]
) -> None:
    copy = copy_of_pretrained("another-version")
    for folder in sorted((copy / "checkpoints").glob("0*")):
        contents = checkpoint.load(folder)
        state = {**contents.state, "guard": {"paused": 0}}
        shutil.rmtree(folder)
        checkpoint.save(copy / "checkpoints", int(folder.name), contents.tensors, state, keep=9)
    (copy / "status.json").unlink()  # it has not ended
    done = run("pretrain", "--replay", "data.zarr", "--out", copy.name, *SMALL, cwd=place)
    assert done.returncode == 2
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("slipway")]
    assert "has no 'since', so another version of Slipway wrote it: resume with that one" in error
    assert [event["kind"] for event in events(copy)] == ["executor"]  # of the run that was copied


def test_where_every_checkpoint_is_corrupt_the_run_is_refused(
    place: Path, copy_of_pretrained: Callable[[str], Path]
) -> None:
    copy = copy_of_pretrained("all-corrupt")
    for tensors in copy.glob("checkpoints/*/tensors.safetensors"):
        tensors.write_bytes(tensors.read_bytes()[:1000])
    before = {path.name for path in (copy / "checkpoints").iterdir()}
    for command in (
        ("pretrain", "--replay", "data.zarr", "--out", copy.name, *SMALL),
        ("export", copy.name, "--out", "never.policy"),
    ):
        done = run(*command, cwd=place)
        assert done.returncode == 2
        (error,) = [line for line in done.stderr.splitlines() if line.startswith("slipway")]
        assert "Traceback" not in done.stderr
        assert f"{FINAL}/tensors.safetensors" in error
        assert "backup" in error
        assert "another --out" in error
    assert {path.name for path in (copy / "checkpoints").iterdir()} == before
    assert not (place / "never.policy").exists()
