"""What a learner holds beyond the mapping of its store stays below 600 MB, however large the store."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from agent.run_directory import RunDirectory
from replay.processes import alive
from replay.schema import StoreSpec
from replay.store import Store

ROOT = Path(__file__).parents[2]
MOST_BYTES = 600e6
ENV = {"id": "Hopper-v5", "kwargs": {}, "max_episode_steps": 1000}


def make_store(path: Path, episodes: int) -> Store:
    """Random Hopper rows, 1,000 steps an episode; 80 bytes a row and 0.1 MB an episode."""
    terms = [{"name": "observation", "offset": 0, "length": 11, "dtype": "float32"}]
    store = Store.create(path, StoreSpec.from_terms(terms, [-1.0] * 3, [1.0] * 3, env=ENV))
    rng = np.random.default_rng(0)
    with store.writer("data", durability="process") as writer:
        for _ in range(episodes):
            writer.append_episode(
                rng.standard_normal((1001, 11)), rng.uniform(-1, 1, (1000, 3)), rng.standard_normal(1000),
                terminated=False, truncated=True, info=None,
            )  # fmt: skip
    return store


def learner_of(parent: int) -> int | None:
    """Process id of the learner among the children of `parent`."""
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if b"agent.learner" in Path(f"/proc/{child}/cmdline").read_bytes():
            return int(child)
    return None


def anonymous_bytes(pid: int) -> int:
    """Memory of its own: pages of mapped files are the kernel's to take back."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next((int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0)


@pytest.mark.parametrize("executor", ["eager", pytest.param("compiled", marks=pytest.mark.full)])
def test_the_learners_own_memory_stays_below_600_mb(tmp_path: Path, executor: str) -> None:
    make_store(tmp_path / "large.zarr", 1000)
    run = RunDirectory(tmp_path / "run")
    process = subprocess.Popen(
        [sys.executable, "-m", "agent.cli", "pretrain", "--replay", tmp_path / "large.zarr", "--out", run.path,
         "--pretrain-steps", "100000", "--executor", executor, "--checkpoint.every-updates", "50", "--log-every", "25"],
        cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    largest, checkpoints = 0, 0
    deadline = time.monotonic() + 180
    try:
        while checkpoints < 3:
            assert process.poll() is None
            assert time.monotonic() < deadline, "no third checkpoint in time"
            if (pid := learner_of(process.pid)) is not None:
                largest = max(largest, anonymous_bytes(pid))
            checkpoints = len(list(run.checkpoints.glob("0*"))) if run.checkpoints.exists() else 0
            time.sleep(0.05)
    finally:
        process.terminate()
        process.wait()
    assert 50e6 < largest < MOST_BYTES
    assert pid is None or not alive(pid)
