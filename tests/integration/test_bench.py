"""`slipway bench` finds the benchmarks of a checkout and says so where there are none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import benchmarks
from agent.cli import main
from agent.commands.bench import MODULES
from tests.integration.command import ROOT


def bench(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agent.cli", "bench", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_a_name_runs_its_benchmark_with_what_follows() -> None:
    done = bench("deploy", "--help", cwd=ROOT)
    assert done.returncode == 0 and "benchmarks.deploy_latency [--quick] [--json FILE]" in done.stdout


def test_the_list_is_of_benchmarks_and_each_of_them_explains_itself() -> None:
    """Not of the peers' programs, which run elsewhere; and every short name is a benchmark's."""
    names = benchmarks.listed()
    assert {"deploy_latency", "replay_speed", "learner_speed", "online_speed"} <= names.keys()
    assert not names.keys() & {"peers", "measure", "learner_peers", "replay_peers", "online_peers", "online_serial"}
    assert set(MODULES.values()) <= names.keys()
    done = subprocess.run([sys.executable, "-m", "benchmarks"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(names)
    assert all(len(measures) > 20 for measures in names.values())
    for name in names:
        text = (ROOT / "benchmarks" / f"{name}.py").read_text()
        assert "add_argument" in text, f"{name} takes no flag"


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    done = bench("nonsense", cwd=ROOT)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "no benchmark 'nonsense'" in done.stderr and "deploy" in done.stderr


def test_without_a_name_it_asks_for_one() -> None:
    done = bench(cwd=ROOT)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "which benchmark? here are" in done.stderr and "replay" in done.stderr


def test_outside_a_checkout_it_says_where_to_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["bench", "deploy"]) == 2
    assert "in the root of a checkout" in capsys.readouterr().err
