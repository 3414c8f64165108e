"""The report says what the run's files say, needs nothing from outside, and trusts no string that it shows."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.config import OnlineConfig, TrainConfig
from agent.errors import RunError
from agent.files import append_line, write_atomic
from agent.report import write_report
from agent.report.facts import gather, surviving
from agent.report.returns import bins
from agent.report.training import thin
from agent.report.words import lead, summary
from agent.run_directory import RunDirectory
from replay.schema import StoreSpec
from replay.statistics import returns
from replay.store import Store

START = 1_795_225_000.0
MAZE = {"id": "PointMaze_Medium-v3", "kwargs": {"continuing_task": False}, "max_episode_steps": 200}
TERMS = [{"name": "observation", "offset": 0, "length": 3, "dtype": "float64"}]
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """Elements with their attributes and text, in document order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[tuple[int, ...], str]] = []
        self._open: list[int] = []
        self.feed(text)
        assert not self._open, f"left open: {[self.elements[i] for i in self._open]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self._open.append(len(self.elements))
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self._open.pop()][0] == tag, f"</{tag}> at {self.getpos()} closes another element"

    def handle_data(self, data: str) -> None:
        self.texts.append((tuple(self._open), data))

    def text(self, tag: str, **attributes: str) -> str:
        """Text of the first such element, white space collapsed."""
        wanted = next(
            i
            for i, (name, found) in enumerate(self.elements)
            if name == tag and all(found.get(key.rstrip("_")) == value for key, value in attributes.items())
        )
        return " ".join(" ".join(text for path, text in self.texts if wanted in path).split())

    def values_in(self, **attributes: str) -> list[float]:
        """The exact numbers (<data value>) inside the element with these attributes."""
        wanted = next(i for i, (_, found) in enumerate(self.elements) if attributes.items() <= found.items())
        paths = {i: path for path, _ in self.texts for i in path}
        return [
            float(found["value"])
            for i, (name, found) in enumerate(self.elements)
            if name == "data" and wanted in paths.get(i, ())
        ]


def evaluation(label: str, step: int, mean: float, ci: tuple[float, float], **more: Any) -> dict[str, Any]:
    """An evaluation line as `agent.evaluator` writes it."""
    record = {
        "time": START + 100 + step / 10, "kind": "evaluation", "label": label, "online_steps": step,
        "policy_version": 1 + step // 100, "updates": 3000 + step, "seconds": 1.0, "episodes": 100, "mean": mean,
        "std": 0.3, "ci": list(ci), "normalized": 100 * mean, "success": mean, "length": 150.5, "steps_to_goal": 99.25,
    }  # fmt: skip
    return record | more


def training(updates: int, phase: str, value_loss: float) -> dict[str, Any]:
    """A learner's line as `agent.training_log` writes it."""
    return {
        "time": START + updates / 100, "kind": "train", "phase": phase, "updates": updates, "value_loss": value_loss,
        "critic_loss": 0.5, "actor_loss": -1.25, "q_mean": -7.0, "q_std": 1.0, "v_mean": -6.5, "v_std": 1.0,
        "advantage_mean": -0.2, "advantage_std": 0.1, "advantage_max": 0.4, "weight_mean": 0.7, "weight_max": 31.0,
        "updates_per_second": 200.0, "wait_seconds": 0.0,
    }  # fmt: skip


def fill(store: Store, stream: str, episode_returns: list[float], version: int = 0) -> None:
    """Episodes of five steps whose last reward is the return."""
    with store.writer(stream, durability="process") as writer:
        for total in episode_returns:
            for step in range(5):
                observation = np.full(3, step, dtype=np.float32)
                writer.append(
                    observation, np.zeros(1, np.float32), total if step == 4 else 0.0,
                    terminated=step == 4 and total > 0, truncated=step == 4 and total <= 0,
                    next_observation=observation + 1, first=step == 0, policy_version=version,
                )  # fmt: skip


def make_run_in(
    folder: Path, *records: dict[str, Any], name: str = "door", env: dict[str, Any] = MAZE, online_steps: int = 6000
) -> RunDirectory:
    """A run with a config and an offline store of 40 episodes, 11 of them successes; metrics as given."""
    spec = StoreSpec.from_terms(TERMS, [-1.0], [1.0], env=env)
    fill(Store.create(folder / "data.zarr", spec, chunk_rows=1024), "collect", [1.0] * 11 + [0.0] * 29)
    run = RunDirectory(folder / name)
    config = TrainConfig(
        replay=folder / "data.zarr", out=run.path, seed=3, pretrain_steps=3000, online_steps=online_steps,
        online=OnlineConfig(warmup_steps=1000),
    )  # fmt: skip
    run.save_config(config)
    write_atomic(run.env, json.dumps(env).encode())
    for record in records:
        append_line(run.metrics, record)
    return run


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., RunDirectory]:
    return functools.partial(make_run_in, tmp_path)


FINISHED = (
    *(training(u, "offline", 1.0 / u) for u in range(500, 3001, 500)),
    evaluation("pretrained", 0, 0.41, (0.32, 0.51)),
    *(training(u, "online", 0.002) for u in range(3500, 8001, 500)),
    evaluation("curve", 2000, 0.55, (0.34, 0.74), episodes=20),
    evaluation("curve", 4000, 0.7, (0.48, 0.855), episodes=20),
    evaluation("finetuned", 6000, 0.88, (0.802, 0.93)),
)
DEPLOYMENT = {
    "state": "OK", "reason": None, "steps": 8400, "episodes": 50, "policy_id": "door-v000061", "policy_version": 61,
    "latency_us": {"p50": 21.3, "p99": 48.2, "p99.9": 103.1, "max": 911.2}, "target_hz": 50.0, "rate_hz": 49.98,
    "overruns": 3, "held_steps": 0, "faults": {}, "mean": 0.86, "std": 0.35, "ci": [0.738, 0.93], "normalized": 86.0,
    "success": 0.86, "length": 140.0, "steps_to_goal": 120.0,
}  # fmt: skip


def page_of(run: RunDirectory) -> Page:
    return Page(write_report(run.path).read_text())


def finish(run: RunDirectory) -> RunDirectory:
    """Give a run everything that a finished one has: online streams, a deployment, a status."""
    online = Store.create(run.replay, Store.open(run.path.parent / "data.zarr").spec, chunk_rows=1024)
    fill(online, "collector-000", [1.0, 0.0, 1.0], version=4)
    fill(online, "collector-001", [0.0, 0.0], version=7)
    write_atomic(run.path / "deploy.json", json.dumps(DEPLOYMENT).encode())
    status = {
        "time": START + 900, "pid": 1, "phase": "done", "stopped": True, "pretrain_step": 3000, "pretrain_steps": 3000,
        "online_steps": 6000, "planned_online_steps": 6000, "online_updates": 5000, "policy_version": 61,
        "learner_wait_seconds": 0.0, "collectors": [],
    }  # fmt: skip
    write_atomic(run.status, json.dumps(status).encode())
    return run


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
    assert len(drawings) == 12
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
    run = finish(make_run(*FINISHED[:-2]))
    (run.path / "deploy.json").unlink()
    status = json.loads(run.status.read_text()) | {"phase": "online", "stopped": False, "online_steps": 2500}
    write_atomic(run.status, json.dumps(status).encode())
    facts = gather(run.path)
    assert lead(facts).startswith("Fine-tuning raised success from 41% to 55% in 2,000 online steps so far")
    assert "The run was in phase online" in summary(facts)[-1] and "2,500 of 6,000" in summary(facts)[-1]


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
    assert json.loads(answer.stdout) == {"run": str(finished.path), "report": str(tmp_path / "again.html")}
    assert (tmp_path / "again.html").read_bytes() == finished.report.read_bytes()
    assert list(finished.path.glob(".report*")) == []


def test_what_is_no_run_is_refused_and_nothing_written(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a run directory"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_place_is_refused_in_one_line(make_run: Callable[..., RunDirectory], tmp_path: Path) -> None:
    run = make_run()
    with pytest.raises(RunError, match=r"cannot write the report .*nowhere.* choose another --out"):
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
