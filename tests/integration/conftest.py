"""One small store, run, bundle and recording, made once through the command and shared by the integration tests."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.export.conftest import model, pristine_bundle  # noqa: F401 - fixtures
from tests.integration.command import ROOT, SLIPWAY, environment, outcome

ENV = "PointMaze_UMaze-v3"
PRETRAIN_STEPS = 300
ONLINE_STEPS = 900
WARMUP_STEPS = 200
TOLERANCE_STEPS = 100
SMALL = (
    "--algorithm.hidden", 32, 32, "--algorithm.batch-size", 32, "--pretrain-steps", PRETRAIN_STEPS,
    "--online.warmup-steps", WARMUP_STEPS, "--online.tolerance-steps", TOLERANCE_STEPS,
    "--online.publish-seconds", 0.4, "--evaluation.final-episodes", 5, "--evaluation.episodes", 3,
    "--evaluation.every-steps", 300, "--log-every", 50,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Made:
    """Something that the command made, and the JSON that it printed."""

    path: Path
    """Where it lies."""
    said: dict[str, Any]
    """What `--json` said."""


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which everything is made: the working directory of the commands."""
    return tmp_path_factory.mktemp("place")


@pytest.fixture(scope="session")
def log(place: Path) -> Made:
    """Logged by the scripted expert."""
    said = outcome("collect", "--env", ENV, "--max-episode-steps", 100, "--steps", 1500, "--out", "log.zarr", cwd=place)
    return Made(path=place / "log.zarr", said=said)


@pytest.fixture(scope="session")
def data(place: Path, log: Made) -> Made:
    """The log, ingested."""
    return Made(path=place / "data.zarr", said=outcome("ingest", "log.zarr", "--out", "data.zarr", cwd=place))


@pytest.fixture(scope="session")
def trained(place: Path, data: Made) -> Made:
    """A run through both phases."""
    command = ("train", "--replay", "data.zarr", "--out", "run", "--online-steps", ONLINE_STEPS, *SMALL)
    return Made(path=place / "run", said=outcome(*command, cwd=place))


@pytest.fixture(scope="session")
def bundle(place: Path, trained: Made) -> Made:
    """The trained policy, exported."""
    return Made(path=place / "maze.policy", said=outcome("export", "run", "--out", "maze.policy", cwd=place))


@pytest.fixture(scope="session")
def flights(place: Path, bundle: Made) -> Made:
    """Five episodes of the bundle in the control loop, recorded."""
    command = ("deploy", "maze.policy", "--episodes", 5, "--seed", 0, "--record", "flights.zarr")
    return Made(path=place / "flights.zarr", said=outcome(*command, cwd=place))


# --- the README -------------------------------------------------------------------------------------------------------

MARKED = re.compile(r"^<!-- tested -->[ \t]*\n(?:[ \t]*\n)*```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHELL_SECONDS = 400.0


@dataclass(frozen=True, kw_only=True)
class Played:
    """The folder in which the README's commands have run, for the tutorials that go on from there."""

    folder: Path
    """Where."""
    commands: str
    """Which."""
    failed: str
    """The shell's trace where a command failed, else nothing."""


def marked_blocks(text: str) -> list[str]:
    """The contents of the fenced sh blocks that the marker stands directly before."""
    return MARKED.findall(text)


def play_shell(block: str, folder: Path, extra: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a block of commands in `folder` until one fails, tracing each; `extra` goes into the environment."""
    extra = {"PATH": f"{SLIPWAY.parent}:/usr/local/bin:/usr/bin:/bin", **(extra or {})}
    return subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", block],
        cwd=folder, env=environment(extra), capture_output=True, text=True, timeout=SHELL_SECONDS,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.fixture(scope="session")
def readme(tmp_path_factory: pytest.TempPathFactory) -> Played:
    """The README's marked commands, run once."""
    folder = tmp_path_factory.mktemp("readme")
    commands = "".join(marked_blocks((ROOT / "README.md").read_text(encoding="utf-8")))
    done = play_shell(commands, folder)
    return Played(folder=folder, commands=commands, failed=done.stderr if done.returncode else "")
