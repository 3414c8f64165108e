"""A pretraining on a disk that fills up and is freed again: it goes on, says so, and its checkpoints are sound."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import checkpoint
from agent.board import Slot
from agent.files import read_lines
from tests.faults.agent import Agent
from tests.faults.conftest import SMALL
from tests.small_disk import mounted


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path, "64m", instead="; tests/agent/test_checkpoint_writer.py covers the failing write") as disk:
        yield disk


def fill(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def test_pretraining_goes_on_over_a_full_disk_and_saves_again_when_there_is_space(
    place: Path, small_disk: Path
) -> None:
    run, filler = small_disk / "run", small_disk / "filler"
    # So many updates would be worth a compilation, which is not what the first checkpoint should wait for.
    steps = ("--pretrain-steps", 1_000_000, "--executor", "eager")
    command = ("pretrain", "--replay", "data.zarr", "--out", run, *SMALL, *steps)
    with Agent(*command, "--json", cwd=place, run=run) as agent:
        agent.wait_for("the first checkpoint", lambda: (run / "checkpoints" / "LATEST").exists())
        fill(filler)
        filled_at = int((run / "checkpoints" / "LATEST").read_text())
        board = agent.board()
        agent.wait_for("updates on the full disk", lambda: int(board[Slot.PRETRAIN_STEP]) > filled_at + 1500)
        filler.unlink()
        agent.wait_for(
            "a word", lambda: any(event["kind"] == "checkpoint_failed" for event in read_lines(run / "events.jsonl"))
        )
        agent.wait_for(
            "a checkpoint after it", lambda: int((run / "checkpoints" / "LATEST").read_text()) > filled_at + 1500
        )
        assert agent.stop()[0] == 0
    (first, *_) = [event for event in read_lines(run / "events.jsonl") if event["kind"] == "checkpoint_failed"]
    assert "No space left" in first["message"]
    assert "restart" not in {event["kind"] for event in read_lines(run / "events.jsonl")}
    assert checkpoint.load_latest(run / "checkpoints", on_fallback=pytest.fail) is not None
