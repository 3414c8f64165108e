"""What a run does until its first online step: environments are built while the learner starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.command import ROOT, outcome

ENV = "tests.faults.faulty_cart:SoundCart-v0"
EXTRA = {"PYTHONPATH": str(ROOT)}
SMALL = (
    "--algorithm.hidden", 16, "--algorithm.batch-size", 16, "--online-steps", 120, "--online.warmup-steps", 60,
    "--evaluation.final-episodes", 1, "--evaluation.every-steps", 0,
)  # fmt: skip


@pytest.mark.parametrize(("pretrain_steps", "early"), [(0, True), (20, False)])
def test_collectors_start_before_the_first_policy_only_with_nothing_to_pretrain(
    tmp_path: Path, pretrain_steps: int, early: bool
) -> None:
    outcome(
        "collect", "--env", ENV, "--policy", "random", "--steps", 200, "--out", "data.zarr", cwd=tmp_path, extra=EXTRA
    )
    said = outcome(
        "train", "--replay", "data.zarr", "--env", ENV, "--out", "run", "--pretrain-steps", pretrain_steps, *SMALL,
        cwd=tmp_path, extra=EXTRA,
    )  # fmt: skip
    assert said["finished"] is True
    log = tmp_path / "run" / "logs" / "collector-000.log"
    assert log.read_text() == ""  # so that its time of change is that of the start
    published = tmp_path / "run" / "policies" / "v000001.onnx"
    assert (log.stat().st_mtime < published.stat().st_mtime) == early


def test_a_warm_up_longer_than_the_staleness_limit_is_no_incident(tmp_path: Path) -> None:
    outcome(
        "collect", "--env", ENV, "--policy", "random", "--steps", 200, "--out", "data.zarr", cwd=tmp_path, extra=EXTRA
    )
    said = outcome(
        "train", "--replay", "data.zarr", "--env", ENV, "--out", "run", "--pretrain-steps", 20, *SMALL,
        "--online.rate", 30, "--online.max-staleness-seconds", 1.0, cwd=tmp_path, extra=EXTRA,
    )  # fmt: skip
    assert said["finished"] is True
    assert "collection_paused" not in (tmp_path / "run" / "events.jsonl").read_text()
