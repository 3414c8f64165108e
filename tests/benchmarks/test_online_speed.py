"""The benchmark of concurrent fine-tuning runs from start to end, and its rows are what DESIGN names."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.command import ROOT


@pytest.mark.full
def test_rows_of_one_task_and_the_overheads(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.online_speed", "--quick", "--json", tmp_path / "r.json"]
    done = subprocess.run(
        [*command, "--only", "adroit", "--no-peer"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads((tmp_path / "r.json").read_text())["rows"]}
    assert {"overlap_adroit", "publish_ms", "staleness_s_p99", "collector_mb", "first_step_s"} <= set(rows)
    # Whatever else the machine does.
    assert rows["overlap_adroit"]["ratio"] > 0.1
    assert rows["staleness_s_p99"]["ratio"] < 1.0
