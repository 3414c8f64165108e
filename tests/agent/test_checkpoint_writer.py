"""Checkpoints in the background: a snapshot of the moment, at a small price, and a disk that fails ends no training."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from agent import checkpoint
from agent.checkpoint_writer import CheckpointWriter

FLOATS = 1_500_000  # about what a learner at 2×256 holds, moments included


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[CheckpointWriter]:
    writer = CheckpointWriter(tmp_path, keep=3)
    yield writer
    writer.close()


def nothing_first() -> dict[str, Any]:
    return {}


def newest(folder: Path) -> checkpoint.Checkpoint:
    found = checkpoint.load_latest(folder, on_fallback=pytest.fail)
    assert found is not None
    return found


def test_what_is_written_is_the_moment_of_the_snapshot(writer: CheckpointWriter, tmp_path: Path) -> None:
    weights, go = torch.zeros(1000), threading.Event()

    def wait_first() -> dict[str, Any]:
        assert go.wait(10)
        return {"watermark": {"a": 3}}

    writer.submit(1, {"weights": weights}, {"step": 1}, first=wait_first)
    weights += 1.0  # training goes on before anything is written
    go.set()
    assert writer.wait() is None
    assert newest(tmp_path).state == {"step": 1, "watermark": {"a": 3}}
    assert float(newest(tmp_path).tensors["weights"].sum()) == 0.0


def test_the_loop_pays_for_the_snapshot_and_not_for_the_disk(
    writer: CheckpointWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def slow_disk(descriptor: int) -> None:
        time.sleep(0.1)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", slow_disk)
    blocked = []
    for step in range(1, 8):
        started = time.perf_counter()
        writer.submit(step, {"weights": torch.full((FLOATS,), float(step))}, {}, first=nothing_first)
        blocked.append(time.perf_counter() - started)
    assert sorted(blocked)[len(blocked) // 2] < 0.05
    # The disk is slower than they come: the one in progress ends, of those that wait the newest is written.
    assert writer.wait() is None
    names = [path.name for path in checkpoint.complete(tmp_path)]
    assert names[-1] == "000000007"
    assert len(names) < 7
    assert float(newest(tmp_path).tensors["weights"][0]) == 7.0


def test_a_failing_write_is_told_and_the_next_one_succeeds(
    writer: CheckpointWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.submit(1, {"weights": torch.ones(3)}, {}, first=nothing_first)
    assert writer.wait() is None

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", full)
        writer.submit(2, {"weights": torch.ones(3)}, {}, first=nothing_first)
        failure = writer.wait()
    assert failure is not None
    assert "checkpoint 2" in failure
    assert "No space left" in failure
    assert str(tmp_path) in failure
    assert "\n" not in failure
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["000000001"]
    writer.submit(3, {"weights": torch.ones(3)}, {}, first=nothing_first)
    assert writer.wait() is None
    assert newest(tmp_path).name == "000000003"


def test_a_defect_in_the_writing_thread_is_no_full_disk(writer: CheckpointWriter) -> None:
    writer.submit(1, {}, {"unserializable": object()}, first=nothing_first)
    with pytest.raises(TypeError, match="not JSON serializable"):
        writer.wait()


PROGRAM = """
import sys, torch
from pathlib import Path
from agent.checkpoint_writer import CheckpointWriter
writer = CheckpointWriter(Path(sys.argv[1]), keep=2)
weights = torch.zeros(200_000)
for step in range(1, 10_000):
    weights += 1.0
    writer.submit(step, {"weights": weights}, {"step": step}, first=dict)
    if step == 1:
        writer.wait()
        print("saved", flush=True)
    torch.mm(torch.ones(200, 200), torch.ones(200, 200))
"""


def kill_during_writes(folder: Path, after: float) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder)], cwd=Path(__file__).parents[2], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    with process.stdout as said:
        assert said.readline() == b"saved\n"
        time.sleep(after)
        process.send_signal(signal.SIGKILL)
        process.wait()
    found = newest(folder)
    assert found.tensors["weights"].unique().tolist() == [float(found.state["step"])]


@pytest.mark.parametrize("after", [0.0, 0.0137, 0.051])
def test_a_process_killed_while_its_thread_writes_leaves_a_checkpoint_that_loads(after: float, tmp_path: Path) -> None:
    kill_during_writes(tmp_path, after)


@pytest.mark.full
def test_a_process_killed_at_fifty_instants_leaves_a_checkpoint_that_loads(tmp_path: Path) -> None:
    for instant in range(50):
        kill_during_writes(tmp_path / str(instant), 0.003 * instant)
