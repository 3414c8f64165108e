"""`slipway replay info`: each oddity is found in data that have it, and not in data that have none."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.commands.replay_info import Info, sketch
from agent.data_review import record, review, suggest
from agent.errors import RunError
from replay.inspection import inspect
from replay.schema import StoreSpec
from replay.store import Store
from tests.integration.command import one_object

LIMIT = 50


def make(
    path: Path, *, env: str | None = None, episodes: int = 40, steps: int = LIMIT, success: float = 0.5, **odd: Any
) -> Store:
    """Sound random data with one oddity of those below."""
    spec = StoreSpec.from_terms(
        [{"name": "observation", "offset": 0, "length": 3, "dtype": "float32"}], [-1, -1], [1, 1], info=("success",),
        env={"id": env or "Mine-v0", "kwargs": {}, "max_episode_steps": LIMIT},
    )  # fmt: skip
    store, rng = Store.create(path, spec), np.random.default_rng(0)
    with store.writer("log", durability="process") as writer:
        for episode in range(episodes):
            observations = rng.normal(size=(steps + 1, 3))
            actions = np.clip(0.4 * observations[:-1, :2] + 0.2 * rng.normal(size=(steps, 2)), -0.99, 0.99)
            rewards = rng.normal(size=steps)
            terminated = episode % 4 == 0
            length = steps - 10 if terminated else steps
            if odd.get("constant"):
                observations[:, 1] = 3.0
            if odd.get("outlier") and episode == 3:
                observations[5, 2] = 1e4
            if odd.get("saturated"):
                actions[:, 0] = np.sign(actions[:, 0])
            if odd.get("outside"):
                actions[::7, 1] = 1.5
            if odd.get("deterministic"):
                actions = np.tanh(observations[:-1, :2])
            if odd.get("late_end"):
                terminated, length = True, steps
            if odd.get("early_cut"):
                terminated, length = False, steps - 15
            if "reward" in odd:
                rewards[:] = odd["reward"]
            if odd.get("sparse"):
                rewards[:] = 0.0
                rewards[length - 1] = 1.0
            reached = np.zeros(steps)
            reached[length - 1] = rng.random() < success
            if odd.get("duplicates") and episode % 2:
                continue
            parts = observations[: length + 1], actions[:length], rewards[:length], reached[:length]
            seen, acted, paid, info = (part.astype(np.float32) for part in parts)
            for _ in range(2 if odd.get("duplicates") else 1):
                writer.append_episode(
                    seen, acted, paid, terminated=terminated, truncated=not terminated, info={"success": info}
                )
    return store


def kinds(store: Store) -> dict[str, str]:
    """Level by kind of finding."""
    return {finding.kind: finding.level for finding in review(store.spec, inspect(store))}


def test_sound_data_have_no_findings(tmp_path: Path) -> None:
    assert kinds(make(tmp_path / "s.zarr")) == {}


@pytest.mark.parametrize(
    ("odd", "kind", "level"),
    [
        ({"constant": True}, "constant_dimensions", "note"),
        ({"outlier": True}, "outliers", "note"),
        ({"saturated": True}, "saturated_actions", "note"),
        ({"outside": True}, "outside_bounds", "problem"),
        ({"deterministic": True}, "one_behaviour", "note"),
        ({"late_end": True}, "time_limit_as_end", "problem"),
        ({"early_cut": True, "success": 0.0}, "early_truncation", "note"),
        ({"early_cut": True, "success": 1.0}, "success_as_truncation", "problem"),
        ({"reward": 0.0}, "constant_reward", "problem"),
        ({"sparse": True}, "equal_returns", "note"),
        ({"reward": 1e5}, "large_rewards", "note"),
        ({"success": 0.0}, "no_success", "note"),
        ({"duplicates": True}, "duplicates", "problem"),
        ({"episodes": 4}, "little_data", "note"),
        ({"episodes": 0}, "empty", "problem"),
    ],
)
def test_an_oddity_is_found(odd: dict[str, Any], kind: str, level: str, tmp_path: Path) -> None:
    # Enough of them that nearest neighbours are near.
    many = {"episodes": 400} if kind == "one_behaviour" else {}
    found = kinds(make(tmp_path / "s.zarr", **odd, **many))
    assert found.get(kind) == level, found


def test_suggestions_follow_catalogue_and_rewards(tmp_path: Path) -> None:
    dense, sparse = make(tmp_path / "dense.zarr"), make(tmp_path / "sparse.zarr", sparse=True)
    maze = make(tmp_path / "maze.zarr", env="PointMaze_UMaze-v3", sparse=True)
    said = {
        name: suggest(store.spec, inspect(store))
        for name, store in (("dense", dense), ("sparse", sparse), ("maze", maze))
    }
    assert (said["dense"].preset, said["dense"].flags) == ("", ("--reward-scaling return_range",))
    assert (said["sparse"].reward_scaling, said["sparse"].flags) == ("none", ("--reward-shift -1",))
    assert (said["maze"].preset, said["maze"].reward_shift, said["maze"].flags) == ("pointmaze", -1.0, ())
    unnamed = dataclasses.replace(dense.spec, env=None)
    assert suggest(unnamed, inspect(dense)).flags == said["dense"].flags


def test_suggested_flags_are_ones_that_train_takes(tmp_path: Path) -> None:
    """Together with the store they give the configuration that was suggested."""
    from agent.cli import parse
    from agent.commands import train

    store = make(tmp_path / "sparse.zarr", env="Hopper-v5", sparse=True)
    made = suggest(store.spec, inspect(store))
    flags = " ".join(("--preset locomotion", *made.flags)).split()
    arguments = parse(train, "train", ["--replay", str(store.path), "--out", str(tmp_path / "run"), *flags])
    config = getattr(arguments, "config", arguments)
    assert (config.reward_scaling, config.reward_shift) == (made.reward_scaling, made.reward_shift)  # type: ignore[attr-defined]


def test_json_has_figures_findings_and_suggestion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = make(tmp_path / "s.zarr", outside=True)
    assert Info(store=store.path, json=True).run() == 0
    said = one_object(capsys.readouterr().out)
    assert said["episodes"] == said["inspection"]["episodes"] == 40
    assert said["inspection"]["actions"][1]["outside"] > 0
    assert [finding["kind"] for finding in said["findings"]] == ["outside_bounds"]
    assert said["suggested"]["preset"] == ""
    assert record(store.spec, inspect(store))["findings"] == said["findings"]


def test_people_read_tables_findings_and_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = make(tmp_path / "s.zarr", outside=True)
    assert Info(store=store.path).run() == 0
    text = capsys.readouterr().out
    for words in ("action[1]", "observation", "PROBLEM actions beyond their bounds", "train: slipway train --replay"):
        assert words in text, text


def test_a_sketch_shows_whatever_is_not_empty() -> None:
    assert sketch(np.array([0.0] * 1000 + [1.0])) == "█" + " " * 14 + "▁"


class Page(HTMLParser):
    """What a page loads from elsewhere, its sections, and the words of its figures."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.sections: list[str] = []
        self.figures: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.loads += [
            str(known[key])
            for key in ("src", "href")
            if known.get(key) and not str(known[key]).startswith(("#", "data:"))
        ]
        if tag == "h2":
            self.sections.append(str(known["id"]))
        if tag == "svg":
            self.figures.append(str(known["aria-label"]))


def test_the_page_is_self_contained_and_shows_every_dimension(tmp_path: Path) -> None:
    store = make(tmp_path / "s.zarr", outside=True)
    out = tmp_path / "page.html"
    assert Info(store=store.path, html=out, json=True).run() == 0
    text = out.read_text()
    page = Page()
    page.feed(text)
    assert page.loads == []
    assert page.sections == ["findings", "episodes", "actions", "observations", "behaviour"]
    assert len(page.figures) == 2 * 4, "four figures in two widths"
    assert all(len(words) > 20 for words in page.figures)
    for column in (*store.spec.columns[:5],):
        assert re.search(rf'<th scope="row">{re.escape(column)}', text), column
    assert "outside bounds" in text


def test_a_store_without_a_step_has_a_page_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = make(tmp_path / "s.zarr", episodes=0)
    assert Info(store=store.path, html=tmp_path / "page.html").run() == 0
    said = capsys.readouterr().out
    assert "no step can be sampled" in said
    assert "PROBLEM no observation" not in said
    assert "± 0" not in said, "nothing is known of rewards"
    assert "no step can be sampled" in (tmp_path / "page.html").read_text()


def test_a_page_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    store = make(tmp_path / "s.zarr", episodes=2)
    with pytest.raises(RunError, match="another --html"):
        Info(store=store.path, html=tmp_path / "absent" / "page.html").run()
