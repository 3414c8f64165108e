"""A run whose collector explores by Q: every stored action is its version's choice for the noise of its generator."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from agent.collector import COLLECTOR_BRANCH
from agent.publish import policy_path
from export.candidates import BEST, EXPANSION, draw_noise
from export.runner import PolicyRunner
from replay.store import Store
from tests.integration.command import outcome
from tests.integration.conftest import Made

STEPS, WARMUP, PRETRAIN = 900, 200, 300
SMALL = (
    "--algorithm.hidden", 32, 32, "--algorithm.batch-size", 32, "--pretrain-steps", PRETRAIN, "--executor", "eager",
    "--online-steps", STEPS, "--online.warmup-steps", WARMUP, "--online.tolerance-steps", 50,
    "--online.publish-seconds", 0.3, "--evaluation.final-episodes", 2, "--evaluation.every-steps", 0,
    "--log-every", 50, "--max-episode-steps", 100,
)  # fmt: skip


@pytest.mark.parametrize("exploration", ["best_of_n", pytest.param("expansion", marks=pytest.mark.full)])
def test_each_stored_action_is_the_choice_of_the_version_that_it_names(
    place: Path, data: Made, exploration: str
) -> None:
    said = outcome(
        "train", "--replay", data.path, "--out", exploration, *SMALL, "--online.exploration", exploration,
        "--online.candidates", 6, "--seed", 5, cwd=place,
    )  # fmt: skip
    assert said["finished"] is True
    run = place / exploration
    reader = Store.open(run / "replay.zarr").reader()
    ((stream, head),) = reader.heads.items()
    o, a, offsets = reader.spec.observation_size, reader.spec.action_size, reader.spec.offsets
    rows, versions = reader.rows(stream, 0, head), reader.meta(stream, 0, head)[:, 0]
    assert versions.max() > 2
    rng = np.random.default_rng(np.random.SeedSequence([5, COLLECTOR_BRANCH, 0]))
    runners: dict[int, PolicyRunner | None] = {}
    compared, chosen = 0, []
    for row, version in zip(rows, versions, strict=True):
        if row[offsets["first"]]:
            rng.integers(2**31)  # the reset's seed
        if not row[offsets["valid"]]:
            continue
        if version not in runners:
            path = policy_path(run / "policies", int(version))
            runners[version] = PolicyRunner(path) if path.exists() else None  # the first and the newest are kept
        runner = runners[version] or runners[1]
        assert runner is not None
        noise = draw_noise(runner.contract, rng, 1)
        if runners[version] is not None:
            action = runner.act(row[:o], noise[0])
            np.testing.assert_array_equal(np.clip(action, -1.0, 1.0), row[o : o + a])
            compared += 1
            if exploration == "best_of_n":
                chosen.append(int(runner.infer_candidates(row[None, :o], noise)[2].argmax()))
    assert compared > STEPS / 2
    first = runners[1]
    assert first is not None
    candidates = first.contract.candidates
    assert candidates is not None
    assert candidates.choice == (BEST if exploration == "best_of_n" else EXPANSION)
    if chosen:
        assert set(chosen) == set(range(6)), "each candidate is the best now and then"
    scored = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {"pretrained", "finetuned"} == {line["label"] for line in scored if line["kind"] == "evaluation"}
