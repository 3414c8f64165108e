"""What is computed depends on the configuration and the data: never on an environment variable."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from replay.store import Store
from tests.integration.command import succeed
from tests.integration.conftest import ENV, Made

ANOTHER = {
    "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2", "PYTHONHASHSEED": "7",
    "TZ": "Asia/Tokyo", "LC_ALL": "C", "LANG": "C", "COLUMNS": "40", "TERM": "dumb", "USER": "somebody",
    "SEED": "9", "SLIPWAY_SEED": "9", "SLIPWAY_PRETRAIN_STEPS": "5", "CUDA_VISIBLE_DEVICES": "",
}  # fmt: skip
STEPS = 60


def trained(folder: Path, data: Path, extra: dict[str, str]) -> tuple[str, list[float]]:
    """The weights' digest and the score of a small pretraining."""
    folder.mkdir()
    succeed(
        "pretrain", "--replay", data, "--out", "run", "--pretrain-steps", STEPS, "--algorithm.hidden", 32, 32,
        "--evaluation.final-episodes", 2, cwd=folder, extra=extra,
    )  # fmt: skip
    (tensors,) = (folder / "run" / "checkpoints").glob(f"*{STEPS}/tensors.safetensors")
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    scores = [[line["mean"], line["length"]] for line in lines if line["kind"] == "evaluation"]
    return hashlib.sha256(tensors.read_bytes()).hexdigest(), scores[0]


def collected(folder: Path, extra: dict[str, str]) -> str:
    """The digest of what a scripted expert logs."""
    succeed("collect", "--env", ENV, "--steps", 200, "--max-episode-steps", 50, "--out", "log", cwd=folder, extra=extra)
    digest = hashlib.sha256()
    for episode in Store.open(folder / "log").episodes():
        digest.update(episode.observations.tobytes() + episode.actions.tobytes() + episode.rewards.tobytes())
    return digest.hexdigest()


def test_environment_variables_never_change_results(tmp_path: Path, data: Made) -> None:
    plain = trained(tmp_path / "plain", data.path, {}), collected(tmp_path / "plain", {})
    other = trained(tmp_path / "other", data.path, ANOTHER), collected(tmp_path / "other", ANOTHER)
    assert plain == other
