"""The ablations' command trains, resumes, tabulates and draws; on the hand-made chain luck wins without V."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from agent.cli import main as slipway
from agent.comparison.plan import Variant
from agent.run_directory import RunDirectory
from benchmarks import lucky_chain
from benchmarks.ablation_figures import LIGHT, read_curves
from benchmarks.ablations import QUESTIONS, SETTINGS, mean_of, parse, span
from tests.integration.command import ROOT

# --- the chain --------------------------------------------------------------------------------------------------------


def test_the_chains_last_state_is_as_by_hand() -> None:
    for tau in (0.5, 0.7, 0.9):
        q, _ = lucky_chain.exact(tau, "network", 0.99)
        assert q[-1] == pytest.approx([0.5, 1.0])
        assert q[:, 0] - q[:, 1] == pytest.approx(np.full(lucky_chain.STATES, -0.5)), "merit, whatever the expectile"
    q, _ = lucky_chain.exact(0.9, "none", 0.99)
    # 0.9·0.1·(5 − q) = 0.1·0.9·q
    assert q[-1] == pytest.approx([2.5, 1.0])
    # One state earlier: the 0.9-expectile of 1 + 0.99·(2.5 or 1.0): 0.9·(3.475 − q) = 0.1·(q − 1.99).
    assert q[-2, 1] == pytest.approx(0.9 * 3.475 + 0.1 * 1.99)


def test_without_v_the_worth_of_a_start_outgrows_what_any_policy_can_reach() -> None:
    best = sum(0.99**k for k in range(lucky_chain.STATES))
    assert lucky_chain.exact(0.9, "network", 0.99)[1] < best
    assert lucky_chain.exact(0.9, "none", 0.99)[1] > 2 * best


@pytest.mark.parametrize(("value", "choice"), [("network", "safe"), ("none", "gamble")])
def test_on_a_chain_iql_learns_the_better_action_and_q_alone_the_luckier(value: lucky_chain.Value, choice: str) -> None:
    learner = lucky_chain.learn(0.9, value, seed=0, updates=1000)
    exact, _ = lucky_chain.exact(0.9, value, learner.config.discount)
    q, _, chosen = lucky_chain.judged(learner)
    luckier = q[:, 0] > q[:, 1]
    assert luckier.all() if value == "none" else not luckier.any()
    np.testing.assert_allclose(q, exact, atol=0.2 * exact.max())
    assert (chosen < 0).all() if choice == "gamble" else (chosen > 0).all()


# --- the runs ---------------------------------------------------------------------------------------------------------


def test_every_question_names_variants_that_there_are() -> None:
    for question in QUESTIONS.values():
        labels = [Variant.parse(text).label for text in question.variants]
        assert len(set(labels)) == len(labels) > 1


def test_a_figure_at_the_end_is_the_mean_of_the_last_tenth_and_bias_is_q_above_the_return(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for updates in range(10, 201, 10):
        run.metric("train", updates=updates, q_mean=float(updates))
    run.metric("diagnostics", updates=200, calibration={"q": [1.0, 5.0], "return": [2.0, 2.0]})
    run.metric("evaluation", updates=200, label="pretrained")
    curves = read_curves(tmp_path)
    assert curves.at_the_end("q_mean") == 195.0
    assert curves.at_the_end("bias") == 1.0
    assert np.isnan(curves.at_the_end("srank_actor"))
    assert read_curves(tmp_path / "nothing").lines == []


def test_a_run_without_a_value_is_said_and_not_averaged_away() -> None:
    assert span([1.0, float("nan"), 3.0]) == "2 (1 to 3), 1 without"
    assert span([4.0]) == "4"
    assert span([float("nan")]) == ""


def test_a_mean_is_of_the_seeds_that_have_a_value_and_none_without_any() -> None:
    assert mean_of([1.0, float("nan"), 3.0]) == 2.0
    assert mean_of([float("nan")]) is None


@pytest.mark.parametrize(
    ("flags", "folder"),
    [(["--quick", "--out", "x"], "x/figures"), (["--quick", "--figures", "mine"], "mine"), ([], "docs/figures")],
)
def test_a_smoke_run_draws_over_no_committed_picture(
    flags: list[str], folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["ablations", *flags])
    assert parse().figures == Path(folder)


@pytest.mark.full
def test_one_question_is_trained_tabulated_and_drawn_and_the_same_command_trains_nothing_again(tmp_path: Path) -> None:
    store = tmp_path / "out" / "local-maze-v0.zarr"
    assert slipway(["collect", "--env", "PointMaze_UMaze-v3", "--policy", "expert", "--steps", "400",
                    "--max-episode-steps", "100", "--out", str(store)]) == 0  # fmt: skip
    command: list[str | Path] = [sys.executable, "-m", "benchmarks.ablations", "--quick", "--only", "lucky",
               "--datasets", "local-maze-v0", "--out", tmp_path / "out", "--figures", tmp_path / "figures",
               "--json", tmp_path / "r.json"]  # fmt: skip
    first, second = (subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False) for _ in range(2))
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    table = [line for line in first.stdout.splitlines() if line.startswith("| maze |")]
    assert len(table) == 2 and all(f"`{v}`" in line for v, line in zip(QUESTIONS["lucky"].variants, table, strict=True))
    assert [line for line in second.stdout.splitlines() if line.startswith("| maze |")] == table
    rows = {row["name"]: row for row in json.loads((tmp_path / "r.json").read_text())["rows"]}
    ours = rows["lucky_local-maze-v0_iql+expectile=0.9_q_mean"]
    assert len(ours["runs"]) == 1 and ours["value"] == ours["runs"][0] < 0, "a cost a step"
    for line in read_curves(tmp_path / "out/fast-100/local-maze-v0/iql+expectile=0.9/seed-0").lines[-1:]:
        assert line["updates"] == 100
    config = (tmp_path / "out/fast-100/local-maze-v0/iql+expectile=0.9/seed-0/config.toml").read_text()
    assert f"batch_size = {SETTINGS['fast']['batch_size']}" in config

    drawing = (tmp_path / "figures" / "lucky-maze.svg").read_text()
    assert "var(" not in drawing and LIGHT["--ink"] in drawing and len(drawing) < 150_000
    root = ElementTree.fromstring(drawing)
    words = " ".join(element.text or "" for element in root.iter() if element.tag.endswith("text"))
    assert all(column.title in words for column in QUESTIONS["lucky"].columns)
    assert all(variant in words for variant in QUESTIONS["lucky"].variants)
