"""Ingest and export take memory by the block and the episode, never by the size of the source."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

h5py = pytest.importorskip("h5py", reason="needs the train extra")

LIMIT = 500 << 20
MEASURE = """
import sys, threading, time
from pathlib import Path
from replay.ingest import ingest
peak = 0
def anonymous():
    # Pages of mapped files are the kernel's to take back; what the process itself holds is RssAnon.
    return 1024 * int(next(l for l in Path("/proc/self/status").open() if l.startswith("RssAnon")).split()[1])
def watch():
    global peak
    while True:
        peak = max(peak, anonymous())
        time.sleep(0.01)
threading.Thread(target=watch, daemon=True).start()
steps = ingest(sys.argv[1], sys.argv[2])["steps"]
print(max(peak, anonymous()), steps)
"""


def generate(path: Path, rows: int, width: int = 60) -> Path:
    """A D4RL file of float32 rows in episodes of 1,000, written in blocks."""
    rng = np.random.default_rng(1)
    with h5py.File(path, "w") as file:
        observations = file.create_dataset("observations", (rows, width), "f4", chunks=(1000, width))
        block = rng.normal(size=(50_000, width)).astype(np.float32)
        for start in range(0, rows, len(block)):
            observations[start : start + len(block)] = block[: rows - start]
        file["actions"] = rng.uniform(-1, 1, (rows, 4)).astype(np.float32)
        file["rewards"] = np.zeros(rows, np.float32)
        file["terminals"] = np.zeros(rows, bool)
        file["timeouts"] = np.arange(rows) % 1000 == 999
    return path


def peak(folder: Path, rows: int) -> int:
    """Peak anonymous bytes of a process that ingests a generated file of so many rows."""
    folder.mkdir()
    source = generate(folder / "data.hdf5", rows)
    try:
        run = subprocess.run(
            [sys.executable, "-c", MEASURE, str(source), str(folder / "store")],
            cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True,
        )  # fmt: skip
    finally:
        source.unlink()
    used, steps = map(int, run.stdout.split())
    assert steps == rows - rows // 1000
    return used


def test_memory_of_an_ingest_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """80 MB and 320 MB: three more times the data may not take a tenth of it."""
    small, large = peak(tmp_path / "small", 300_000), peak(tmp_path / "large", 1_200_000)
    assert large < LIMIT
    assert large - small < 24e6, (small, large)


@pytest.mark.full
def test_memory_of_a_two_gigabyte_ingest_stays_below_500_mb(tmp_path: Path) -> None:
    assert peak(tmp_path / "huge", 8_000_000) < LIMIT
