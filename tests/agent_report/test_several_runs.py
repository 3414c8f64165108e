"""Several runs on one page: who stands where, what their curves are, and what their configurations differ in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.errors import RunError
from agent.report import write_comparison
from agent.report.facts import Facts, gather
from agent.report.side_by_side import comparison_lead, differences, distinct_names, named, seed_groups
from agent.run_directory import RunDirectory
from tests.agent_report.page import Page
from tests.agent_report.runs import FINISHED, MAZE, evaluation, finish, make_run_in


def make(folder: Path, name: str, *records: dict[str, Any], **more: Any) -> RunDirectory:
    (folder / name).mkdir()
    return make_run_in(folder / name, *records, **more)


def gathered(*runs: RunDirectory) -> list[Facts]:
    paths = [run.path for run in runs]
    return named([gather(path) for path in paths], paths)


@pytest.fixture
def runs(tmp_path: Path) -> list[RunDirectory]:
    """Two seeds of one experiment, and one that was trained for longer and got worse."""
    better = [*FINISHED[:-1], evaluation("finetuned", 6000, 0.94, (0.875, 0.972))]
    worse = [
        FINISHED[6],
        evaluation("curve", 4000, 0.3, (0.14, 0.53)),
        evaluation("finetuned", 9000, 0.2, (0.13, 0.29)),
    ]
    return [
        finish(make(tmp_path, "a", *FINISHED, seed=3)),
        make(tmp_path, "b", *better, seed=4),
        make(tmp_path, "c", *worse, seed=3, online_steps=9000),
    ]


def test_the_page_says_who_stands_highest_and_who_cannot_be_told_from_it(runs: list[RunDirectory]) -> None:
    lead = comparison_lead(gathered(*runs))
    assert lead.startswith(
        "b/door stands highest with 94% (95% interval 87.5% to 97.2%); a/door cannot be told from it"
    )
    assert "c/door" not in lead
    clear = comparison_lead(gathered(runs[0], runs[2]))
    assert clear.endswith("the 95% intervals of all others lie below.")


def test_every_result_and_difference_is_on_the_page(runs: list[RunDirectory], tmp_path: Path) -> None:
    page = Page(write_comparison([run.path for run in runs], tmp_path / "runs.html").read_text())
    table = page.text("table", id="compared")
    assert "a/door IQL, seed 3 27.5% 16.1% to 42.8% 41% 32% to 51% 88% 80.2% to 93% 86% 73.8% to 93% 6,000 0" in table
    assert "c/door IQL, seed 3 27.5% 16.1% to 42.8% 41% 32% to 51% 20% 13% to 29% – 9,000 0" in table
    differing = page.text("table", id="differences")
    assert "seed 3 4 3" in differing and "online_steps 6000 6000 9000" in differing
    assert "algorithm" not in differing
    told = [attributes["aria-label"] for tag, attributes in page.elements if tag == "svg"]
    assert "b/door from 41% at 0 steps to 94% at 6,000; c/door from 41% at 0 steps to 20% at 9,000" in told[0]
    assert any(words.startswith("Value loss, at last: a/door 0.002; b/door 0.002") for words in told)


def test_seeds_of_one_experiment_are_drawn_as_one(runs: list[RunDirectory], tmp_path: Path) -> None:
    groups = seed_groups(gathered(*runs))
    assert [(name, [facts.name for facts in group]) for name, group in groups] == [
        ("a/door and 1 other seed", ["a/door", "b/door"])
    ]
    page = Page(write_comparison([run.path for run in runs], tmp_path / "runs.html").read_text())
    words = next(a["aria-label"] for t, a in page.elements if t == "svg" and "Means over seeds" in a["aria-label"])
    assert "91% at 6,000 steps, its seeds between 88% and 94%" in words


def test_seeds_are_runs_on_the_same_data_in_the_same_environment(tmp_path: Path) -> None:
    large = {**MAZE, "id": "PointMaze_Large-v3"}

    def log(seed: int, steps: int) -> dict[str, Any]:
        """An ingested log, as the demo makes one for each seed."""
        collected = {"kind": "collect", "policy": "expert", "seed": seed, "steps": steps}
        return {"kind": "slipway", "name": f"/{seed}/log.zarr", "digest": f"{seed}", "recorded": collected}

    runs = gathered(
        make(tmp_path, "a", seed=0),
        make(tmp_path, "elsewhere", seed=1),
        make(tmp_path, "same-seed", seed=1),
        make(tmp_path, "other-data", seed=2, successes=12),
        make(tmp_path, "other-maze", seed=3, env=large),
        *(make(tmp_path, f"log-{seed}", seed=seed, source=log(seed, 10_000), successes=9 + seed) for seed in (0, 1)),
        make(tmp_path, "longer-log", seed=2, source=log(2, 20_000)),
    )
    assert [[facts.name.partition("/")[0] for facts in group] for _, group in seed_groups(runs)] == [
        ["a", "elsewhere"],
        ["log-0", "log-1"],
    ]


def test_equal_runs_differ_in_nothing(tmp_path: Path) -> None:
    runs = gathered(*(make(tmp_path, name) for name in "ab"))
    differing, same = differences(runs)
    assert [name for name, _ in differing] == ["replay"] and same > 30
    assert comparison_lead(runs) == "None of these 2 runs has been evaluated yet."


def test_names_are_as_short_as_they_can_be() -> None:
    assert distinct_names([Path("/x/a"), Path("/x/b")]) == ["a", "b"]
    assert distinct_names([Path("/x/0/run"), Path("/x/1/run")]) == ["0/run", "1/run"]


def test_one_that_is_no_run_is_named_and_nothing_written(runs: list[RunDirectory], tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nowhere"):
        write_comparison([runs[0].path, tmp_path / "nowhere"], tmp_path / "runs.html")
    assert not (tmp_path / "runs.html").exists()
