"""`slipway ingest` on a log: the dry run says what the run does, and a bad file exits 2 with one line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from replay.ingest.source import MENDED
from tests.integration.command import ROOT


def slipway(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agent.cli", "ingest", *map(str, arguments)],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
        env={**os.environ, "COLUMNS": "400"},
    )  # fmt: skip


def test_every_change_that_an_importer_counts_has_words() -> None:
    code = "".join(path.read_text() for path in (ROOT / "replay" / "ingest").glob("*.py"))
    assert set(re.findall(r'notes\["(\w+)"\]', code)) == set(MENDED)


def test_a_csv_log_is_looked_at_and_then_ingested(tmp_path: Path) -> None:
    log, out = tmp_path / "log.csv", tmp_path / "arm.zarr"
    rows = [f"{e},{t},{t / 10},{e - t},{int(t == 3)}" for e in range(3) for t in range(4)]
    log.write_text("\n".join(["episode,x,v,fx,done", *rows]) + "\n")
    columns = tmp_path / "map.toml"
    columns.write_text('observation = ["x", "v"]\naction = ["fx"]\nreward = "done"\nterminated = "done"\n')
    dry = slipway(log, "--columns", columns, "--out", out, "--dry-run", "--json")
    assert dry.returncode == 0, dry.stderr
    assert not out.exists()
    told = slipway(log, "--columns", columns, "--out", tmp_path / "told.zarr")
    assert "told.zarr: ingested 12 steps, 3 episodes\n" in told.stdout
    assert "mended: 3 × last observation of a terminated episode repeated as the final one" in told.stdout
    run = slipway(log, "--columns", columns, "--out", out, "--json")
    assert run.returncode == 0, run.stderr
    looked, stored = json.loads(dry.stdout), json.loads(run.stdout)
    for field in ("steps", "episodes", "terminated", "truncated", "observation", "action_low", "mended"):
        assert looked[field] == stored[field], field
    assert (stored["steps"], stored["terminated"]) == (12, 3)

    log.write_text(log.read_text().replace("\n1,2,", "\n1,nan,"))
    refused = slipway(log, "--columns", columns, "--out", out, "--dry-run")
    assert refused.returncode == 2
    assert "log.csv: would take nothing: 1 of 3 episodes is refused (table)" in refused.stdout
    assert "column 'x' in row 6 is empty or NaN" in refused.stdout
    columns.write_text(columns.read_text().replace('"fx"', '"fxx"'))
    named = slipway(log, "--columns", columns, "--out", tmp_path / "other")
    assert named.returncode == 2
    assert "did you mean 'fx'" in named.stderr
    assert not (tmp_path / "other").exists()
