"""`slipway demo`: the whole loop in one command, which resumes, and says in JSON what became of the data."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from export.verify import verify
from replay.store import Store
from tests.integration.command import one_object, refusal, run

POLICIES = ("dataset", "pretrained", "finetuned", "deployed")


@dataclass(frozen=True, kw_only=True)
class Played:
    """One `slipway demo --quick --json`."""

    folder: Path
    record: dict[str, Any]
    stderr: str
    seconds: float


def play(place: Path) -> Played:
    started = time.monotonic()
    done = run("demo", "--quick", "--out", "demo", "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    return Played(
        folder=place / "demo", record=one_object(done.stdout), stderr=done.stderr, seconds=time.monotonic() - started
    )


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Played:
    return play(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def second(first: Played) -> Played:
    return play(first.folder.parent)


def test_it_ends_with_one_object_as_documented(first: Played) -> None:
    assert {*POLICIES, "wall_s"} <= first.record.keys()
    for policy in POLICIES:
        score = first.record[policy]
        low, high = score["ci"]
        assert low <= score["mean"] <= high
        assert score["normalized"] == pytest.approx(100 * score["success"])
    assert 0 < first.record["wall_s"] <= first.seconds
    assert sum(first.record["stages_s"].values()) <= first.record["wall_s"] + 0.5


def test_progress_is_visible_through_every_stage(first: Played) -> None:
    for stage in ("collect", "ingest", "pretrain", "fine-tune", "export", "deploy", "report"):
        assert any(line.startswith(stage) for line in first.stderr.splitlines()), stage


def test_the_data_is_what_the_record_says(first: Played) -> None:
    info = Store.open(first.folder / "dataset.zarr").info()
    assert info["returns"]["mean"] == pytest.approx(first.record["dataset"]["mean"])
    assert info["episodes"] == first.record["dataset"]["episodes"]


def test_bundle_and_report_are_there_and_whole(first: Played) -> None:
    place = first.folder.parent
    assert verify(place / first.record["bundle"])["checksums"] == "ok"
    page = (place / first.record["report"]).read_text()
    assert page.lstrip().lower().startswith("<!doctype html")
    assert page.rstrip().endswith("</html>")
    for foreign in ('src="http', 'href="http://', "@import", "url(http"):
        assert foreign not in page, "the page is not self-contained"


def test_flights_of_the_deployed_policy_are_recorded(first: Played) -> None:
    flights = Store.open(first.folder / "flights.zarr").info()
    assert flights["episodes"] == first.record["deployed"]["episodes"]
    assert flights["returns"]["mean"] == pytest.approx(first.record["deployed"]["mean"])


def test_the_same_command_resumes_and_tells_the_same_numbers(first: Played, second: Played) -> None:
    assert {policy: second.record[policy] for policy in POLICIES} == {
        policy: first.record[policy] for policy in POLICIES
    }
    assert second.seconds < max(0.8 * first.seconds, first.seconds - 10.0)


def test_another_demo_in_its_folder_is_refused(first: Played, second: Played) -> None:
    line = refusal("demo", "--out", "demo", "--seed", 1, cwd=first.folder.parent)
    assert "another --out" in line
