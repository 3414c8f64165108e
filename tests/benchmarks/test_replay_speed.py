"""The replay benchmark runs from start to end, and its rows are what DESIGN names."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.integration.command import ROOT


def test_quick_rows_compare_with_numpy_pwrite_and_a_plain_mapping(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.replay_speed", "--quick", "--json", tmp_path / "r.json"]
    command += ["--folder", tmp_path, "--only", "memory", "append", "open", "cold", "visibility"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads((tmp_path / "r.json").read_text())["rows"]}
    assert {
        "sample_vs_numpy_fancy_100k_256", "sample_vs_numpy_packed_take_200k_256", "append_vs_pwrite",
        "append_block_vs_pwrite", "append_block_vs_pwrite_fdatasync", "open_200k_ms", "cold_vs_plain_mapping",
        "visibility_ms",
    } <= set(rows)  # fmt: skip
    # Whatever else the machine does: a gather is not slower than five, a mapping opens in no time.
    assert rows["sample_vs_numpy_fancy_100k_256"]["ratio"] > 1.0
    assert rows["open_200k_ms"]["ratio"] < 1.0
    assert not list(tmp_path.glob("replay_speed-*"))
