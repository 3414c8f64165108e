"""kill -9 in the middle of an ingest leaves no half store, and the same command completes it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from replay.ingest import OutputExistsError, ingest
from replay.store import Store

COMMAND = """
import sys
from replay.ingest import ingest

def progress(done, total):
    print(done, flush=True)
    if done == int(sys.argv[3]):
        sys.stdin.read()

ingest(sys.argv[1], sys.argv[2], progress=progress)
"""
"""Its third argument says after which episode to wait, where it is killed."""


def make_source(path: Path, episodes: int = 400) -> Path:
    rng = np.random.default_rng(3)
    rows = 20 * episodes
    np.savez(
        path,
        observations=rng.normal(size=(rows, 6)),
        actions=rng.uniform(-1, 1, (rows, 2)),
        rewards=rng.normal(size=rows),
        terminals=np.arange(rows) % 20 == 19,
        timeouts=np.zeros(rows, bool),
    )
    return path


@pytest.mark.parametrize("after", [1, 150, 399])
def test_kill_in_mid_ingest_leaves_no_half_store_and_the_same_command_completes(after: int, tmp_path: Path) -> None:
    source, out = make_source(tmp_path / "data.npz"), tmp_path / "out" / "store"
    arguments = [sys.executable, "-c", COMMAND, str(source), str(out)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([*arguments, str(after)], **pipes, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        for _ in range(after):
            assert process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not out.exists()
    assert [entry.name for entry in out.parent.iterdir()] == [f"store.partial-{process.pid}"]
    subprocess.run([*arguments, "0"], check=True, stdout=subprocess.DEVNULL, cwd=Path(__file__).parents[2])
    assert [entry.name for entry in out.parent.iterdir()] == ["store"]
    ingest(source, tmp_path / "undisturbed")
    for ours, theirs in zip(Store.open(out).episodes(), Store.open(tmp_path / "undisturbed").episodes(), strict=True):
        np.testing.assert_array_equal(ours.observations, theirs.observations)
        np.testing.assert_array_equal(ours.rewards, theirs.rewards)
        assert ours.terminated == theirs.terminated
    assert ingest(source, out)["already"]


def test_leftovers_of_living_processes_are_left_alone(tmp_path: Path) -> None:
    mine, theirs = tmp_path / f"store.partial-{os.getpid()}", tmp_path / f"store.partial-{os.getppid()}"
    mine.mkdir()
    theirs.mkdir()
    ingest(make_source(tmp_path / "data.npz", 2), tmp_path / "store")
    assert not mine.exists()
    assert theirs.exists()


def test_an_output_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    source, out = make_source(tmp_path / "data.npz", 2), tmp_path / "store"

    def appear(done: int, total: int | None) -> None:
        out.mkdir(exist_ok=True)
        (out / "mine").touch()

    with pytest.raises(OutputExistsError, match="appeared while"):
        ingest(source, out, progress=appear)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["data.npz", "store"]
    assert [entry.name for entry in out.iterdir()] == ["mine"]


def test_an_interrupt_leaves_nothing(tmp_path: Path, interrupting: Callable[[int, int | None], None]) -> None:
    source = make_source(tmp_path / "data.npz", 5)
    with pytest.raises(KeyboardInterrupt):
        ingest(source, tmp_path / "store", progress=interrupting)
    assert [entry.name for entry in tmp_path.iterdir()] == ["data.npz"]


@pytest.fixture
def interrupting() -> Iterator[Callable[[int, int | None], None]]:
    """Ctrl-C, as Python delivers it in a terminal, after the second episode."""
    # A shell's background job inherits an ignored SIGINT.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def progress(done: int, total: int | None) -> None:
        if done == 40:
            signal.raise_signal(signal.SIGINT)

    yield progress
    signal.signal(signal.SIGINT, before)
