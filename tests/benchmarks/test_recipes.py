"""What the recipes' benchmark says of curves, and that it runs whole."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.run_directory import RunDirectory
from benchmarks.recipes import Curve, longest_below, run_path, train
from tests.integration.command import ROOT


def evaluation(mean: float) -> dict[str, Any]:
    return {"mean": mean, "std": 10.0, "episodes": 101}


def test_the_longest_row_below_counts_evaluations_that_follow_each_other() -> None:
    # The standard error of a difference of two such means is √2, so that 97 is within two of them and 96 is not.
    means = [100.0, 96.0, 97.5, 96.0, 90.0, 96.5, 120.0, 80.0]
    assert longest_below([evaluation(mean) for mean in means]) == 3


def test_the_area_weighs_each_evaluation_by_the_steps_that_it_stands_for() -> None:
    curve = Curve(
        dataset="d", recipe="safe", seed=0, below=0, alarms=0,
        steps=np.array([0, 100, 400]), scores=np.array([0.0, 10.0, 20.0]),
    )  # fmt: skip
    assert curve.area == pytest.approx((100 * 5.0 + 300 * 15.0) / 400)


def test_a_run_scored_over_another_number_of_episodes_is_refused(tmp_path: Path) -> None:
    args = argparse.Namespace(out=tmp_path, pretrain_steps=200, online_steps=200, final_episodes=100)
    path = run_path(args, "door", "safe", 0)
    path.mkdir(parents=True)
    record = {"kind": "evaluation", "label": "finetuned", "online_steps": 200, **evaluation(1.0)}
    RunDirectory(path).metrics.write_text(json.dumps(record) + "\n")
    with pytest.raises(SystemExit, match="scored over 101 episodes, not 100"):
        train(args, "door", "safe", 0)
    train(argparse.Namespace(**{**vars(args), "final_episodes": 101}), "door", "safe", 0)


@pytest.mark.full
def test_a_smoke_run_reports_each_recipe_and_a_second_one_trains_nothing(tmp_path: Path) -> None:
    data = os.environ.get("SLIPWAY_DATA")
    if data is None:
        pytest.skip("needs the shared datasets: set SLIPWAY_DATA")
    command = [
        sys.executable, "-m", "benchmarks.recipes", "--quick", "--data", data, "--datasets", "dapg-door-human-v0",
        "--out", str(tmp_path / "out"), "--json", str(tmp_path / "rows.json"), "--picture", str(tmp_path / "p.svg"),
    ]  # fmt: skip
    first = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    rows = {row["name"]: row["runs"] for row in json.loads((tmp_path / "rows.json").read_text())["rows"]}
    assert {f"dapg-door-human-v0_{recipe}_final" for recipe in ("safe", "default")} <= set(rows)
    assert (tmp_path / "p.svg").stat().st_size > 1000
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "started" in first.stdout and "started" not in again.stdout
    assert {row["name"]: row["runs"] for row in json.loads((tmp_path / "rows.json").read_text())["rows"]} == rows
