"""A collected or recorded store becomes an ingested one: same rows, same flags, same meta."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replay.ingest import (
    IngestError,
    OutputExistsError,
    SourceFormatError,
    SourceValueError,
    ingest,
    recorded_environment,
)
from replay.schema import StoreSpec
from replay.store import Store

TERMS = [{"name": "observation", "offset": 0, "length": 3, "dtype": "float64"}]


def record(path: Path, *, info: tuple[str, ...] = ("success",), wild: bool = False) -> Path:
    """Two streams as collectors leave them: whole episodes, a cut one, and a step whose process was killed."""
    env = {"id": "Toy-v0", "kwargs": {}, "max_episode_steps": 5}
    store = Store.create(path, StoreSpec.from_terms(TERMS, [-1.0] * 2, [1.0] * 2, info=info, env=env))
    rng = np.random.default_rng(11)
    for name in ("collector-0", "collector-1"):
        with store.writer(name, source_id=7) as writer:
            for episode in range(4):
                observations = rng.normal(size=(6, 3))
                for step in range(5):
                    last = step == 4
                    writer.append(
                        observations[step],
                        rng.uniform(-1, 1, 2) * (3 if wild else 1),
                        float(last and episode % 2),
                        first=step == 0,
                        terminated=False,
                        truncated=last,
                        next_observation=observations[step + 1],
                        policy_version=10 * episode + step,
                        intervention=step == 2,
                        synthetic=step == 3,
                        info={"success": float(step == 3 and episode == 1)},
                        t_wall_ns=1000 + step,
                        t_mono_ns=2000 + step,
                    )
            for step in range(2):
                writer.append(
                    *(np.ones(3) * step, np.zeros(2), 0.0),
                    first=step == 0,
                    terminated=False,
                    truncated=False,
                    next_observation=None,
                    info={"success": 0.0},
                )
            if name == "collector-0":
                writer.cut(np.ones(3) * 2)
    return path


def committed(path: Path) -> dict[str, tuple[Any, Any]]:
    reader = Store.open(path).reader()
    return {name: (reader.rows(name, 0, head), reader.meta(name, 0, head)) for name, head in reader.heads.items()}


def refused(source: Path, out: Path, kind: type[IngestError], *words: str, **options: Any) -> None:
    before = sorted(out.parent.iterdir())
    with pytest.raises(kind) as caught:
        ingest(source, out, **options)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value), str(caught.value)
    assert sorted(out.parent.iterdir()) == before


def test_every_row_flag_and_meta_is_taken_over(tmp_path: Path) -> None:
    record(tmp_path / "live")
    summary = ingest(tmp_path / "live", tmp_path / "copy")
    ours, theirs = committed(tmp_path / "copy"), committed(tmp_path / "live")
    assert ours.keys() == theirs.keys() == {"collector-0", "collector-1"}
    for name in ours:
        np.testing.assert_array_equal(ours[name][0], theirs[name][0])
        np.testing.assert_array_equal(ours[name][1], theirs[name][1])
    live, copy = Store.open(tmp_path / "live"), Store.open(tmp_path / "copy")
    assert summary["steps"] == copy.num_steps == live.num_steps == 43
    assert (summary["interrupted"], summary["truncated"]) == (2, 8)
    assert copy.spec.layout_fingerprint == live.spec.layout_fingerprint
    assert copy.spec.env == live.spec.env == recorded_environment(tmp_path / "live")
    assert ingest(tmp_path / "live", tmp_path / "copy")["already"]


def test_a_dry_run_counts_what_the_copy_holds(tmp_path: Path) -> None:
    record(tmp_path / "live")
    looked = ingest(tmp_path / "live", tmp_path / "copy", terminate_on="success", dry_run=True)
    assert not (tmp_path / "copy").exists()
    stored = ingest(tmp_path / "live", tmp_path / "copy", terminate_on="success")
    assert (looked["steps"], looked["mended"], looked["refused"]) == (stored["steps"], stored["mended"], [])


def test_another_environments_layout_is_refused(tmp_path: Path) -> None:
    live = record(tmp_path / "live")
    refused(
        live, tmp_path / "s", SourceFormatError, "actions has 2 columns but environment Pendulum-v1 has 1",
        env={"id": "Pendulum-v1"},
    )  # fmt: skip
    assert ingest(live, tmp_path / "s", env={"max_episode_steps": 9})["env"]["max_episode_steps"] == 9


def test_a_store_that_grew_since_is_other_data(tmp_path: Path) -> None:
    live = record(tmp_path / "live")
    ingest(live, tmp_path / "copy")
    with Store.open(live).writer("collector-2") as writer:
        zeros = np.zeros((3, 3)), np.zeros((2, 2)), np.zeros(2)
        writer.append_episode(*zeros, terminated=True, truncated=False, info={"success": np.zeros(2)})
    refused(live, tmp_path / "copy", OutputExistsError, "made from other data")
    refused(live, live, OutputExistsError, "not an ingested dataset")


@pytest.mark.parametrize("recorded", [True, False])
def test_success_cuts_and_terminates(recorded: bool, tmp_path: Path) -> None:
    """By the recorded column (step 3 of episode 1), or by sparse rewards (step 4 of episodes 1 and 3)."""
    record(tmp_path / "live", info=("success",) if recorded else ())
    ingest(tmp_path / "live", tmp_path / "cut", terminate_on="success")
    whole, cut = (list(Store.open(tmp_path / name).episodes()) for name in ("live", "cut"))
    assert len(whole) == len(cut)
    for before, after in zip(whole, cut, strict=True):
        hit = before.episode_id == 1 if recorded else before.episode_id in (1, 3)
        steps = 4 if hit and recorded else len(before.rewards)
        np.testing.assert_array_equal(after.observations, before.observations[: steps + 1])
        np.testing.assert_array_equal(after.rewards, before.rewards[:steps])
        np.testing.assert_array_equal(after.policy_version, before.policy_version[:steps])
        assert (after.terminated, after.truncated) == ((True, False) if hit else (False, before.truncated))
        assert after.interrupted == before.interrupted


def test_wild_actions_empty_and_damaged_stores_are_refused(tmp_path: Path) -> None:
    wild = record(tmp_path / "wild", wild=True)
    refused(
        wild, tmp_path / "s", SourceValueError, "stream 'collector-0', episode at row 0", "actions at step", "[-1, 1]"
    )
    found = ingest(wild, tmp_path / "s", dry_run=True)
    assert (found["refused_episodes"], "actions at step" in found["refused"][0]) == (1, True)
    assert ingest(wild, tmp_path / "clipped", clip_actions=True)["mended"]["actions_clipped"] > 9
    assert max(np.abs(episode.actions).max() for episode in Store.open(tmp_path / "clipped").episodes()) == 1.0
    Store.create(tmp_path / "empty", StoreSpec.from_terms(TERMS, [-1.0], [1.0]))
    refused(tmp_path / "empty", tmp_path / "s", SourceFormatError, "holds no episode")
    refused(wild, tmp_path / "s", SourceFormatError, "no info column 'opened'", "success", terminate_on="opened")
    shutil.rmtree(wild / "streams" / "collector-1" / "rows" / "c")
    refused(wild, tmp_path / "s", SourceFormatError, "cannot be read as a store")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "zarr.json").write_text("{}")
    refused(tmp_path / "other", tmp_path / "s", SourceFormatError, "cannot be read as a store")
