"""The scripts in examples/ run as they are, in one folder, each with what the ones before it made."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.command import ROOT, SLIPWAY, environment

EXAMPLES = ROOT / "examples"
SAID = {
    "first_policy.py": ("logged", "pretrained: mean return", "differs from the network by"),
    "look_into_a_store.py": ("steps", "transitions: (256, 8), (256, 2)", "terminated"),
    "run_a_policy.py": ("8 observations, 2 actions", "return"),
    "fly_and_learn_again.py": ("OK:", "of 3 episodes back"),
}
LINES = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("examples")


def play(folder: Path, *command: str) -> str:
    done = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", SAID)
def test_an_example_runs_and_says_what_it_did(name: str, folder: Path) -> None:
    said = play(folder, sys.executable, str(EXAMPLES / name))
    assert not [words for words in SAID[name] if words not in said], said


def test_the_environment_of_the_example_can_be_logged(folder: Path) -> None:
    command = ("collect", "--env", "my_environment:Line-v0", "--policy", "random", "--steps", "120", "--out", "line")
    said = play(folder, "env", f"PYTHONPATH={EXAMPLES}:{ROOT}", str(SLIPWAY), *command)
    assert "150 steps, 3 episodes" in said


def test_every_example_is_tried_and_short() -> None:
    scripts = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in EXAMPLES.glob("*.py")}
    # The robot is driven by tests/integration/test_flight.py.
    assert set(scripts) == {*SAID, "my_environment.py", "my_robot.py"}
    assert all(lines < LINES for name, lines in scripts.items() if name != "my_robot.py"), scripts
