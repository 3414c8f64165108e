"""kill -9 of a writer at random moments: no committed row is lost, doubled or torn, and the stream goes on.

Two reader processes check every row all the while.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from replay import Store
from tests.replay import formula

ROOT = Path(__file__).parents[2]


def run_and_kill(path: Path, durability: str, delay: float, *options: str) -> int:
    """Let a child append for `delay` seconds after its first report, kill it, return the last head it reported."""
    command = [sys.executable, "-m", "tests.replay.formula", str(path), "live", durability, *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        report = child.stdout.readline()
        assert report, "the child could not open its stream"
        os.set_blocking(child.stdout.fileno(), False)
        deadline = time.monotonic() + delay
        while time.monotonic() < deadline:
            report = (report + (child.stdout.read(1 << 16) or b""))[-64:]
        child.kill()
        child.wait()
        os.set_blocking(child.stdout.fileno(), True)
        report += child.stdout.read()
    # The last line may be half-written: the head before it is certain.
    return int(report.split(b"\n")[-2])


@contextmanager
def two_readers(path: Path, violations: list[str]) -> Iterator[None]:
    """Two processes that check every row against the formula all the while, and add what they found."""
    command = [sys.executable, "-m", "tests.replay.watch", str(path), "live"]
    children = [subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for child in children:
            assert child.stdout is not None and child.stdout.readline() == b"watching\n"
        yield
        for number, child in enumerate(children):
            said, _ = child.communicate(timeout=60)
            if child.returncode:
                violations.append(f"reader {number} failed")
                continue
            report = json.loads(said)
            violations += [f"reader {number}, meanwhile: {each}" for each in report["wrong"]]
            if not report["checks"]:
                violations.append(f"reader {number} saw nothing")
    finally:
        for child in children:
            child.kill()
            child.communicate()


def kill_cycles(path: Path, cycles: int, *options: str, seed: int = 7) -> list[str]:
    """Kill and recover `cycles` times beside two checking readers; returns what was wrong."""
    Store.create(path, formula.spec(), chunk_rows=formula.CHUNK_ROWS)
    violations: list[str] = []
    with two_readers(path, violations):
        violations += kill_often(path, cycles, *options, seed=seed)
    return violations


def kill_often(path: Path, cycles: int, *options: str, seed: int) -> list[str]:
    """Kill and recover `cycles` times; returns what was wrong."""
    rng = np.random.default_rng(seed)
    violations = []
    for cycle in range(cycles):
        durability = ("process", "interval", "block")[cycle % 3]
        reported = run_and_kill(path, durability, rng.uniform(0.0, 0.12), *options)
        with_reader = Store.open(path).reader()
        seen = with_reader.heads.get("live", 0)
        if wrong := formula.wrong_rows(with_reader, "live"):
            violations.append(f"cycle {cycle} ({durability}): a reader sees wrong rows {wrong[:5]} of {seen}")
        with Store.open(path).writer("live", durability="process") as writer:
            if not reported <= writer.head or writer.head != seen:
                violations.append(f"cycle {cycle}: reported {reported}, readers saw {seen}, recovered {writer.head}")
            steps = writer.steps
        reader = Store.open(path).reader()
        if formula.wrong_rows(reader, "live"):
            violations.append(f"cycle {cycle}: wrong rows after recovery")
        rows = np.concatenate([rows for _, _, rows in reader.blocks("live")] or [np.empty((0, reader.spec.row_width))])
        if steps != int(rows[:, reader.spec.offsets["valid"]].sum()):
            violations.append(f"cycle {cycle}: the step counter says {steps}")
        if reader.num_steps != reader.count_sampleable():
            violations.append(f"cycle {cycle}: {reader.num_steps} sampleable by counter, not by count")
    return violations


def test_no_committed_row_is_lost_doubled_or_torn_by_kill_9(tmp_path: Path) -> None:
    assert kill_cycles(tmp_path / "s.zarr", 20) == []
    assert Store.open(tmp_path / "s.zarr").num_rows > 20 * 3


@pytest.mark.full
def test_no_committed_row_is_lost_doubled_or_torn_by_200_kills(tmp_path: Path) -> None:
    for store in range(10):  # every kill is followed by a check of all rows so far: small stores keep that short
        assert kill_cycles(tmp_path / f"{store}.zarr", 20, seed=store) == []


def test_the_checker_notices_a_commit_that_precedes_its_rows(tmp_path: Path) -> None:
    for attempt in range(10):
        if kill_cycles(tmp_path / f"{attempt}.zarr", 2, "--broken"):
            return
    pytest.fail("a broken commit protocol passed the kill test")


def test_after_kill_9_the_step_without_successor_stays_stored_and_unsampleable(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s.zarr", formula.spec(), chunk_rows=formula.CHUNK_ROWS)
    script = (
        "import os, signal; from replay import Store; from tests.replay import formula as f\n"
        f"w = Store.open({str(store.path)!r}).writer('live', durability='process')\n"
        "for i in range(3): w.append(f.observation(i), f.action(i), float(i), first=i == 0, terminated=False,\n"
        "                            truncated=False, next_observation=None)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == -9
    reader = store.reader()
    assert (reader.num_rows, reader.num_steps) == (3, 2)
    with store.writer("live", durability="process") as writer:
        assert (writer.head, writer.steps, writer.in_episode) == (3, 3, False)
        writer.append(
            formula.observation(3), formula.action(3), 3.0,
            first=True, terminated=True, truncated=False, next_observation=formula.observation(4),
        )  # fmt: skip
    reader.refresh()
    assert (reader.num_rows, reader.num_steps, reader.count_sampleable()) == (5, 3, 3)
    sampler = store.sampler(64, rng=np.random.default_rng(0))
    assert set(sampler.next().rewards.tolist()) == {0.0, 1.0, 3.0}
    lost, whole = store.episodes()
    assert (lost.interrupted, lost.terminated, len(lost.rewards), len(lost.observations)) == (True, False, 2, 3)
    assert (whole.interrupted, whole.terminated, whole.episode_id) == (False, True, 1)
