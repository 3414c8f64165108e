"""When collectors of a real run take a newer policy: at a step, or only where an episode begins."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from replay.store import Store
from tests.integration.command import ROOT, outcome

ENV = "tests.faults.faulty_cart:SoundCart-v0"
EXTRA = {"PYTHONPATH": str(ROOT)}
SMALL = (
    "--algorithm.hidden", 16, "--algorithm.batch-size", 16, "--pretrain-steps", 20, "--online-steps", 600,
    "--online.warmup-steps", 60, "--evaluation.final-episodes", 1, "--evaluation.every-steps", 0,
    # Three seconds of episodes of 0.15 s, and twenty versions a second.
    "--online.rate", 200, "--online.publish-seconds", 0.05,
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("swap")
    outcome("collect", "--env", ENV, "--policy", "random", "--steps", 200, "--out", "data.zarr", cwd=place, extra=EXTRA)
    return place


@pytest.fixture(scope="module", params=["episode", "step"])
def swapped(place: Path, request: pytest.FixtureRequest) -> tuple[str, Path]:
    """A finished run with each value of `online.swap`."""
    swap: str = request.param
    said = outcome(
        "train", "--replay", "data.zarr", "--env", ENV, "--out", swap, "--online.swap", swap, *SMALL, cwd=place,
        extra=EXTRA,
    )  # fmt: skip
    assert said["finished"] is True
    return swap, place / swap


def test_a_run_whose_updates_are_ahead_waits_for_its_last_steps(swapped: tuple[str, Path]) -> None:
    # The rate holds the steps back; the tolerance lets all the updates through before.
    status = json.loads((swapped[1] / "status.json").read_text())
    assert (status["online_steps"], status["online_updates"]) == (600, 540)


def test_versions_beside_the_rows_change_where_online_swap_says(swapped: tuple[str, Path]) -> None:
    swap, run = swapped
    store = Store.open(run / "replay.zarr")
    reader = store.reader()
    ((name, head),) = reader.heads.items()
    versions = reader.meta(name, 0, head)[:, 0]
    began = reader.rows(name, 0, head)[1:, store.spec.offsets["first"]] > 0
    changed = versions[1:] != versions[:-1]
    assert changed.sum() > 5
    assert bool(began[changed].all()) == (swap == "episode")
    assert (np.diff(versions) >= 0).all()
    assert json.loads((run / "status.json").read_text())["collectors"][0]["policy_version"] == versions[-1]
