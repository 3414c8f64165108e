"""A small store and a run pretrained from it, made once; the fault tests attack copies."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.command import outcome

PRETRAIN_STEPS = 600
CHECKPOINT_STEPS = 200
WARMUP_STEPS = 200
UTD = 0.5
TOLERANCE_STEPS = 100
SMALL = (
    "--algorithm.hidden", 32, 32, "--algorithm.batch-size", 32, "--pretrain-steps", PRETRAIN_STEPS,
    "--online.warmup-steps", WARMUP_STEPS, "--online.utd", UTD, "--online.tolerance-steps", TOLERANCE_STEPS,
    "--online.publish-seconds", 0.2, "--evaluation.final-episodes", 3, "--evaluation.every-steps", 0,
    "--log-every", 25, "--checkpoint.every-updates", CHECKPOINT_STEPS, "--checkpoint.keep", 4,
)  # fmt: skip


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data.zarr`: the working directory of the commands."""
    place = tmp_path_factory.mktemp("faults")
    outcome(
        "collect", "--env", "PointMaze_UMaze-v3", "--max-episode-steps", 100, "--steps", 1000, "--out", "data.zarr",
        cwd=place,
    )  # fmt: skip
    return place


@pytest.fixture(scope="session")
def pretrained(place: Path) -> Path:
    """A run whose offline phase went through undisturbed; leave it as it is."""
    said = outcome("pretrain", "--replay", "data.zarr", "--out", "pretrained", *SMALL, cwd=place)
    assert said["finished"] is True
    return place / "pretrained"


@pytest.fixture(scope="session")
def copy_of_pretrained(place: Path, pretrained: Path) -> Callable[[str], Path]:
    """Copies the pretrained run to a name beside it."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(pretrained, place / name))

    return copy
