"""The report says what the run's files say, needs nothing from outside, and trusts no string that it shows."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from agent.algorithms import ALGORITHMS, config_class
from agent.config import TrainConfig
from agent.errors import RunError
from agent.files import append_line, write_atomic
from agent.report import write_report
from agent.report.facts import gather, surviving
from agent.report.returns import bins
from agent.report.rollout import described
from agent.report.tables import configuration, interval_bars
from agent.report.training import other_panels, thin
from agent.report.words import lead, summary
from agent.run_directory import RunDirectory
from replay.statistics import returns
from replay.store import Store
from tests.agent_report.page import Page
from tests.agent_report.runs import FINISHED, MAZE, START, evaluation, finish, make_run_in, training


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., RunDirectory]:
    return functools.partial(make_run_in, tmp_path)


def page_of(run: RunDirectory) -> Page:
    return Page(write_report(run.path).read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run to its end, with its report; not to be changed."""
    run = finish(make_run_in(tmp_path_factory.mktemp("finished"), *FINISHED))
    write_report(run.path)
    return run


def test_numbers_on_the_page_equal_those_in_the_run(finished: RunDirectory) -> None:
    page = Page(finished.report.read_text())
    data_mean = float(returns(Store.open(finished.load_config().replay)).mean())
    assert page.values_in(id="result-data") == [data_mean] == [11 / 40]
    assert page.values_in(id="result-pretrained") == [0.41]
    assert page.values_in(id="result-finetuned") == [0.88]
    assert page.values_in(id="result-deployed") == [0.86]
    assert "88% 80.2% to 93%" in page.text("tr", id="result-finetuned")
    assert page.values_in(id="evaluations") == [record["mean"] for record in finished.evaluations()]
    streams = page.text("section", **{"aria-labelledby": "replay"})
    assert "collector-000 15 3 2 1 0 0.667 4–4" in streams
    assert "collector-001 10 2 0 2 0 0.000 7–7" in streams
    assert "All 25 5 2 3 0" in streams
    assert "collect 200 40 11 29 0 0.275 none" in streams
    deployment = page.text("section", **{"aria-labelledby": "deployment"})
    assert "latency, median 21.30 µs" in deployment and "49.98 Hz, asked for 50.00 Hz" in deployment


def test_figures_are_told_in_words_with_the_same_numbers(finished: RunDirectory) -> None:
    page = Page(finished.report.read_text())
    told = [attributes["aria-label"] for tag, attributes in page.elements if tag == "svg"]
    assert all(len(words) > 40 for words in told)
    assert "41% (32% to 51%) at 0 steps" in told[0] and "88% (80.2% to 93%) at 6,000 steps" in told[0]
    assert "The logged data lies at 27.5%" in told[0]
    assert any("40 logged episodes" in words and "Fine-tuned 0.880" in words for words in told)
    losses = next(words for words in told if words.startswith("Value loss"))
    assert "0.002 after 500 updates, 0.002 after 8,000" in losses and "online from 3,000 on" in losses


def test_what_an_export_a_deployment_and_the_diagnostics_recorded_is_shown(finished: RunDirectory) -> None:
    page = Page(finished.report.read_text())
    assert "The exported policy matches the trained network to 3e−7 on 10,000 observations." in page.text(
        "p", class_="summary"
    )
    exported = page.text("section", **{"aria-labelledby": "export"})
    assert "int8: left out an action differs by 3e−2, allowed 2e−2" in exported
    assert "float32: largest difference of an action 3e−7 over 10,000 observations, allowed 1e−5" in exported
    assert "wfp16: largest difference of an action 2e−4" in exported
    told = " ".join(attributes["aria-label"] for tag, attributes in page.elements if tag == "svg")
    assert "critic 80.00 after 3,000 updates, 48.00 after 8,000" in told
    assert (
        "offline, 3,000 updates, 40 groups of steps: Q exceeds the return by 4.000 on average, correlation 1.000"
        in told
    )
    assert "online, 8,000 updates, 40 groups of steps: Q exceeds the return by 1.500 on average" in told
    assert "collectors 0.250 after 2,000 online steps, 0.500 after 4,000" in told
    assert "99th percentile 1.200 after 2,000 online steps" in told
    assert "Time to decide on 8,400 actions: p50 21.30 µs" in told and "with 8,000 actions" in told
    assert "The control period is 20 ms" in told
    assert "25 online steps by the policy versions 4 to 7" in told
    assert "versions 4 have a mean return of 0.667, those by 7 of 0.000" in told


def test_what_was_not_recorded_has_no_section(make_run: Callable[..., RunDirectory]) -> None:
    page = page_of(make_run(*(line for line in FINISHED if line["kind"] != "diagnostics")))
    ids = {attributes.get("id") for _, attributes in page.elements}
    assert ids.isdisjoint({"calibration", "export", "deployment"}) and {"results", "training"} <= ids
    assert not any("ffective rank" in attributes.get("aria-label", "") for _, attributes in page.elements)


def test_a_timeline_tells_incidents_from_turning_points(make_run: Callable[..., RunDirectory]) -> None:
    run = make_run(*FINISHED)
    for at, kind in ((10.0, "executor"), (31.0, "env_fault"), (32.0, "env_fault"), (50.0, "resumed")):
        append_line(run.events, {"time": START + at, "kind": kind, "message": kind})
    told = next(a["aria-label"] for t, a in page_of(run).elements if t == "svg" and "turning point" in a["aria-label"])
    assert told.startswith("2 incidents and 2 turning points in 0:")
    assert "env fault 2×, executor 1×, resumed 1×" in told
    assert "Offline updates ran from 0:00:00 to 0:00:25. Online updates ran from 0:00:30 to 0:01:15." in told


def test_an_unknown_algorithms_figures_get_panels_of_their_own() -> None:
    lines = [{**training(500, "offline", 1.0), "alpha": 0.1, "grad_norm_actor": 2.0, "grad_norm_critic": 3.0,
              "entropy_mean": 1.0, "entropy_std": 0.2, "entropy_max": 2.0, "note": "text"}]  # fmt: skip
    panels = other_panels(lines)
    assert [(title, [s.key for s in group]) for title, group in panels.items()] == [
        ("Gradient norms", ["grad_norm_actor", "grad_norm_critic"]),
        ("Alpha", ["alpha"]),
        ("Entropy, ± 1 standard deviation", ["entropy_mean"]),
    ]


def test_the_summary_is_one_paragraph_of_facts(finished: RunDirectory) -> None:
    page = Page(finished.report.read_text())
    assert page.text("h1") == "door"
    expected = "Fine-tuning raised success from 41% to 88% in 6,000 online steps; the 95% intervals lie apart."
    assert page.text("p", class_="lead") == expected
    said = page.text("p", class_="summary")
    assert "The logged data (40 episodes) has a success rate of 27.5% (95% interval 16.1% to 42.8%)" in said
    assert "86% (95% interval 73.8% to 93%) over 50 episodes, in line with its evaluation" in said
    assert said.endswith("No incidents.")


@pytest.mark.parametrize(
    ("mean", "ci", "expected"),
    [
        (0.45, (0.36, 0.55), "raised success from 41% to 45% in 6,000 online steps; the 95% intervals overlap"),
        (0.2, (0.13, 0.29), "lowered success from 41% to 20% in 6,000 online steps; the 95% intervals lie apart"),
        (0.41, (0.32, 0.51), "left success at 41% in 6,000 online steps."),
    ],
)
def test_the_lead_claims_no_more_than_the_intervals(
    make_run: Callable[..., RunDirectory], mean: float, ci: tuple[float, float], expected: str
) -> None:
    run = make_run(FINISHED[6], evaluation("finetuned", 6000, mean, ci))
    assert expected in lead(gather(run.path))


def test_a_task_with_references_is_judged_by_its_normalised_score(make_run: Callable[..., RunDirectory]) -> None:
    hopper = {"id": "Hopper-v5", "kwargs": {}, "max_episode_steps": 1000}
    score = {"normalized": 55.5, "success": None, "steps_to_goal": None}
    better = {**score, "normalized": 92.25}
    run = make_run(
        evaluation("pretrained", 0, 1786.0, (1700.0, 1872.0), **score),
        evaluation("finetuned", 6000, 2981.7, (2900.0, 3063.4), **better),
        env=hopper,
    )
    facts = gather(run.path)
    assert lead(facts).startswith("Fine-tuning raised the normalised score from 55.5 to 92.2 in 6,000 online steps")
    low, high = facts.results["finetuned"].normalized_ci or (0.0, 0.0)
    assert low == pytest.approx(100 * (2900.0 + 20.272305) / 3254.572305)
    assert high == pytest.approx(100 * (3063.4 + 20.272305) / 3254.572305)


@pytest.mark.parametrize("once", [False, True], ids=["paid every step", "paid once"])
def test_data_of_another_reward_count_is_compared_with_nothing(
    make_run: Callable[..., RunDirectory], once: bool
) -> None:
    kwargs = {"remove_task_when_completed": once, "terminate_on_tasks_completed": once}
    kitchen = {"id": "FrankaKitchen-v1", "kwargs": kwargs, "max_episode_steps": 280}
    score = {"normalized": 37.5, "success": None, "steps_to_goal": None}
    run = make_run(evaluation("pretrained", 0, 1.5, (1.4, 1.6), **score), env=kitchen)
    facts, page = gather(run.path), page_of(run)
    told = " ".join(attributes["aria-label"] for tag, attributes in page.elements if tag == "svg")
    assert ("lies above it" in summary(facts)[0]) == once
    assert ("the policies do not compare with it" in summary(facts)[0]) == (not once)
    assert ("The logged data lies at 0.275" in told) == once
    assert ("Marked means: Logged data 0.275, Pretrained 1.500" in told) == once
    assert ("Marked means: Logged data 0.275." in told) == (not once)
    assert ("data" in interval_bars(facts)) == once
    assert ("rewards counted otherwise" in page.text("tr", id="result-data")) == (not once)


def test_single_episodes_are_told_without_an_interval(make_run: Callable[..., RunDirectory]) -> None:
    one = {"normalized": None, "success": None, "steps_to_goal": None, "episodes": 1}
    run = make_run(
        evaluation("pretrained", 0, -1170.0, None, **one),
        evaluation("finetuned", 6000, -980.0, None, **one),
        env={"id": "Pendulum-v1", "kwargs": {}, "max_episode_steps": 200},
    )
    assert "from −1,170 to −980.0 in 6,000 online steps; without their 95% intervals this" in lead(gather(run.path))
    text = write_report(run.path, with_rollout=False).read_text()
    assert "−1,170" in text and "−1,170 to −1,170" not in text


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_configuration_of_every_algorithm_stands_beside_its_own_defaults(algorithm: str) -> None:
    config = TrainConfig(algorithm=config_class(algorithm)(batch_size=8), seed=5)
    changed = [(section, key) for section, rows in configuration(config) for key, _, default in rows if default]
    assert changed == [("run", "seed"), ("algorithm", "batch_size")]


def test_the_page_is_self_contained(finished: RunDirectory) -> None:
    text = finished.report.read_text()
    assert "http:" not in text and "https:" not in text and "@import" not in text
    page = Page(text)
    assert {tag for tag, _ in page.elements}.isdisjoint({"script", "iframe", "object", "embed", "img", "base"})
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        for name in ("src", "href", "xlink:href"):
            target = attributes.get(name, "#content")
            assert target == "data:," or target[1:] in ids
        assert attributes.get("aria-labelledby", "content") in ids
    for reference in re.findall(r"url\(#([^)]+)\)", text):
        assert reference in ids


def test_figures_take_every_colour_from_the_page(finished: RunDirectory) -> None:
    text = finished.report.read_text()
    drawings = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert len(drawings) == 21
    for drawing in drawings:
        assert not re.search(r"#[0-9a-f]{6}\b", drawing)
    named = set(re.findall(r"var\((--[a-z]+)\)", text)) - {"--colour"}
    light, dark = re.findall(r":root \{(.*?)\}", text, flags=re.DOTALL)[:2]
    assert all(f"{name}:" in light and f"{name}:" in dark for name in named)


def test_hostile_strings_are_shown_and_never_obeyed(make_run: Callable[..., RunDirectory]) -> None:
    name = '"><script>alert(1)<'
    run = finish(make_run(FINISHED[6], name=name, env={**MAZE, "id": "<img src=x onerror=alert(2)>"}))
    run.event("env_fault", "<b onclick=alert(3)>step 4</b>", collector="</ol><iframe>")
    page = page_of(run)
    assert page.text("h1") == name
    assert {tag for tag, _ in page.elements}.isdisjoint({"script", "img", "b onclick", "iframe"})
    assert not any(key.startswith("on") for _, attributes in page.elements for key in attributes)
    assert "<b onclick=alert(3)>step 4</b> (collector: </ol><iframe>)" in page.text("ol", class_="events")
    assert "<img src=x onerror=alert(2)>" in page.text("dl", class_="setting")


def test_incidents_are_listed_with_their_times_and_a_resume_is_none(make_run: Callable[..., RunDirectory]) -> None:
    run = make_run({"time": START + 5.0, "kind": "collector"}, FINISHED[6], online_steps=0)
    for at, kind, message in (
        (61.0, "restart", "collector-000 ended with exit code -9; restarting"),
        (3723.0, "resumed", "resumed from checkpoint 000003000"),
    ):
        append_line(run.events, {"time": START + 5.0 + at, "kind": kind, "message": message})
    page = page_of(run)
    listed = page.text("section", **{"aria-labelledby": "incidents"})
    assert "2026-11-21 01:37:46 UTC" in listed
    assert "+0:01:01 restart collector-000 ended with exit code -9; restarting" in listed
    assert "1 turning point that is no incident" in listed and "+1:02:03 resumed" in listed
    assert "1 incident: collector-000 ended with exit code -9; restarting." in page.text("p", class_="summary")


def test_a_run_that_has_only_begun_has_a_report(make_run: Callable[..., RunDirectory]) -> None:
    run = make_run()
    run.env.unlink()
    page = page_of(run)
    assert page.text("p", class_="lead") == "No policy of this run has been evaluated yet."
    assert "The learner has logged nothing yet." in page.text("section", **{"aria-labelledby": "training"})


def test_a_run_that_only_pretrains_has_a_report(make_run: Callable[..., RunDirectory]) -> None:
    page = page_of(make_run(*FINISHED[:7], online_steps=0))
    expected = "Pretraining for 3,000 updates reaches a success rate of 41% (95% interval 32% to 51%)."
    assert page.text("p", class_="lead") == expected
    assert "This run only pretrains." in page.text("section", **{"aria-labelledby": "curve"})


def test_a_run_in_progress_says_so_far(make_run: Callable[..., RunDirectory]) -> None:
    run = finish(make_run(*FINISHED[:-3]))
    run.deployment.unlink()
    status = json.loads(run.status.read_text()) | {"phase": "online", "stopped": False, "online_steps": 2500}
    write_atomic(run.status, json.dumps(status).encode())
    facts = gather(run.path)
    assert lead(facts).startswith("Fine-tuning raised success from 41% to 55% in 2,000 online steps so far")
    assert "The run was in phase online" in summary(facts)[-1] and "2,500 of 6,000" in summary(facts)[-1]


def test_a_flight_recorded_elsewhere_takes_the_place_of_the_runs_own(finished: RunDirectory, tmp_path: Path) -> None:
    flown = json.loads(finished.deployment.read_text()) | {"latency_us": {"p50": 77.25, "p99": 99.0, "max": 120.0}}
    record = tmp_path / "flown.json"
    record.write_text(json.dumps(flown))
    page = write_report(finished.path, tmp_path / "page.html", with_rollout=False, deployment=record).read_text()
    assert "77.25" in page and "21.30" not in page
    record.write_text("{}")
    for wrong in (record, tmp_path / "nowhere.json"):
        with pytest.raises(RunError, match=r"no deployment's record: make one with `slipway deploy"):
            gather(finished.path, wrong)


def test_offline_data_that_is_gone_is_named_and_the_rest_shown(make_run: Callable[..., RunDirectory]) -> None:
    run = make_run(FINISHED[-1])
    run.load_config().replay.rename(run.path.parent / "moved.zarr")
    page = page_of(run)
    assert "cannot be shown" in page.text("section", **{"aria-labelledby": "data"})
    assert page.values_in(id="result-finetuned") == [0.88]


def test_the_same_run_gives_the_same_bytes_on_another_machine(finished: RunDirectory, tmp_path: Path) -> None:
    settings = tmp_path / "matplotlibrc"
    settings.write_text("font.size: 30\naxes.facecolor: red\nsvg.fonttype: path\n")
    answer = subprocess.run(
        [
            sys.executable,
            "-m",
            "agent.cli",
            "report",
            str(finished.path),
            "--out",
            str(tmp_path / "again.html"),
            "--json",
        ],
        env={**os.environ, "MATPLOTLIBRC": str(settings), "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "77", "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(answer.stdout) == {"runs": [str(finished.path)], "report": str(tmp_path / "again.html")}
    assert (tmp_path / "again.html").read_bytes() == finished.report.read_bytes()
    assert list(finished.path.glob(".report*")) == []


def test_what_is_no_run_is_refused_and_nothing_written(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"a run directory \(no config.toml\)"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_place_is_refused_in_one_line(make_run: Callable[..., RunDirectory], tmp_path: Path) -> None:
    run = make_run()
    with pytest.raises(RunError, match=r"there is no folder .*nowhere: make it, or choose another --out"):
        write_report(run.path, tmp_path / "nowhere" / "report.html")


@pytest.mark.parametrize("damage", ["{", "[1]"])
def test_a_damaged_record_is_named_and_the_old_report_stands(
    make_run: Callable[..., RunDirectory], damage: str
) -> None:
    run = make_run(*FINISHED)
    run.report.write_text("the report of yesterday")
    (run.path / "deploy.json").write_text(damage)
    with pytest.raises(RunError, match=r"deploy\.json .*remove it to leave it out"):
        write_report(run.path)
    assert run.report.read_text() == "the report of yesterday"


@pytest.mark.parametrize(
    ("cut", "success", "words"),
    [
        (False, 0.0, "An episode of policy version 7: 500 steps, return 3.000, the task was not solved."),
        (True, 0.0, "The first 500 steps of an episode of policy version 7: return 3.000 so far."),
        (True, 1.0, "The first 500 steps of an episode of policy version 7: return 3.000 so far, the task was solved."),
        (True, None, "The first 500 steps of an episode of policy version 7: return 3.000 so far."),
    ],
)
def test_a_cut_episode_is_told_as_its_beginning_and_not_as_a_failure(
    cut: bool, success: float | None, words: str
) -> None:
    assert described({"steps": 500, "return": 3.0, "success": success, "cut": cut}, 7) == words


def test_lines_that_a_resume_took_back_are_left_out() -> None:
    lines = [training(u, "offline", 1.0) for u in (500, 1000, 1500)] + [
        training(u, "offline", 2.0) for u in (1000, 2000)
    ]
    assert [(line["updates"], line["value_loss"]) for line in surviving(lines)] == [
        (500, 1.0),
        (1000, 2.0),
        (2000, 2.0),
    ]


def test_thinning_keeps_mean_extremes_and_drops_gaps() -> None:
    rng = np.random.default_rng(0)
    x, y = np.arange(10_000.0), rng.normal(size=10_000)
    y[::7] = np.nan
    _, means, low, high = thin(x, y)
    assert len(means) == 300
    assert means.mean() == pytest.approx(np.nanmean(y), abs=1e-3)
    assert (low.min(), high.max()) == (np.nanmin(y), np.nanmax(y))


@pytest.mark.parametrize("values", [[0.0] * 5, [0.0, 1.0, 1.0], list(np.linspace(-3.0, 900.0, 1000))])
def test_every_episode_is_in_one_bar(values: list[float]) -> None:
    edges, counts = bins(np.asarray(values))
    assert counts.sum() == len(values)
    assert (edges[:, 1] > edges[:, 0]).all() and (edges[1:, 0] >= edges[:-1, 1]).all()
