"""A store exported to Minari is what Minari reads, and comes back as the same store."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replay.errors import EmptyReplayError, StorageError, StoreExistsError
from replay.export_minari import ExportError, export_minari
from replay.ingest import ingest
from replay.schema import StoreSpec
from replay.store import Store
from tests.replay import make_minari
from tests.small_disk import mounted

minari = pytest.importorskip("minari", reason="needs the train extra")

TERMS = (("velocity", 2), ("goal/desired", 1), ("goal/achieved", 1), ("touch/0", 2), ("touch/1", 1))
"""Not in sorted order: Minari sorts the keys of the spaces it reads."""


def make_store(path: Path, terms: tuple[tuple[str, int], ...] = TERMS, env: dict[str, Any] | None = None) -> Store:
    """Four episodes in two streams: terminated, truncated, both, and interrupted; two info columns."""
    at, plain = 0, []
    for name, length in terms:
        plain.append({"name": name, "offset": at, "length": length, "dtype": "float64"})
        at += length
    spec = StoreSpec.from_terms(
        plain, [-1, -2], [1, 2], info=("success", "force"), env=env, source={"author": ["A"]}, action_dtype="float64"
    )
    store = Store.create(path, spec)
    rng = np.random.default_rng(5)

    def episode(steps: int) -> tuple[Any, Any, Any]:
        return rng.normal(size=(steps + 1, at)), rng.uniform(-1, 1, (steps, 2)), rng.normal(size=steps)

    for stream, ends in {"a": ((True, False), (False, True)), "b": ((True, True),)}.items():
        with store.writer(stream) as writer:
            for steps, (terminated, truncated) in enumerate(ends, start=3):
                info = {"success": np.arange(steps) == steps - 1, "force": rng.normal(size=steps)}
                writer.append_episode(*episode(steps), terminated=terminated, truncated=truncated, info=info)
            if stream == "b":
                observations, actions, rewards = episode(2)
                for t in range(2):
                    writer.append(
                        observations[t], actions[t], float(rewards[t]), first=t == 0, terminated=False,
                        truncated=False, next_observation=None, info={"success": 0.0, "force": 1.0},
                    )  # fmt: skip
                writer.cut(observations[2])
    return store


def assert_same(ours: Store, theirs: Store) -> None:
    pairs = list(zip(ours.episodes(), theirs.episodes(), strict=True))
    for a, b in pairs:
        for field in ("observations", "actions", "rewards"):
            np.testing.assert_array_equal(getattr(a, field), getattr(b, field), err_msg=field)
        assert (a.terminated, a.truncated or a.interrupted) == (b.terminated, b.truncated)
        assert a.info.keys() == b.info.keys()
        for name, column in a.info.items():
            np.testing.assert_array_equal(column, b.info[name], err_msg=name)


ENV = {"id": "Pendulum-v1", "kwargs": {"g": 9.0}, "max_episode_steps": 77}


def test_a_store_comes_back_from_minari_with_the_same_episodes_and_spec(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", env=ENV)
    ticks: list[tuple[int, int | None]] = []
    summary = export_minari(
        store, "robot/arm-v0", tmp_path / "sets", progress=lambda done, total: ticks.append((done, total))
    )
    assert summary["path"] == str(tmp_path / "sets/robot/arm-v0")
    assert (summary["episodes"], summary["steps"]) == (4, 3 + 4 + 3 + 2)
    assert (summary["terminated"], summary["truncated"], summary["interrupted"]) == (2, 2, 1)
    assert ticks == [(3, 12), (7, 12), (10, 12), (12, 12)]
    ingest(summary["path"], tmp_path / "again")
    again = Store.open(tmp_path / "again")
    assert_same(store, again)
    ours, theirs = ({**s.spec.to_json(), "source": None} for s in (store, again))
    assert ours == theirs
    assert again.spec.layout_fingerprint == store.spec.layout_fingerprint


def test_minari_finds_and_loads_an_export_with_its_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(tmp_path / "store", env=ENV)
    export_minari(store, "robot/arm-v0", tmp_path / "sets")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "sets"))
    assert list(minari.list_local_datasets()) == ["robot/arm-v0"]
    dataset = minari.load_dataset("robot/arm-v0")
    assert dataset.env_spec.id == "Pendulum-v1"
    assert (dataset.env_spec.kwargs, dataset.env_spec.max_episode_steps) == ({"g": 9.0}, 77)
    assert dataset.recover_environment().unwrapped.g == 9.0
    for recorded, episode in zip(dataset.iterate_episodes(), store.episodes(), strict=True):
        assert recorded.observations["goal"]["achieved"].shape == (len(episode.rewards) + 1, 1)
        np.testing.assert_array_equal(recorded.observations["velocity"], episode.observations[:, :2])
        np.testing.assert_array_equal(recorded.observations["touch"][0], episode.observations[:, 4:6])
        np.testing.assert_array_equal(recorded.actions, episode.actions)
        # The final observation is there, and the ends stand on the last step alone.
        assert len(recorded.observations["velocity"]) == len(recorded.rewards) + 1
        assert recorded.terminations[-1] == episode.terminated
        assert recorded.truncations[-1] == (episode.truncated or episode.interrupted)
        assert not recorded.terminations[:-1].any()
        assert not recorded.truncations[:-1].any()
        assert dataset.action_space.contains(recorded.actions[0])


@pytest.mark.parametrize("dataset_id", ["D4RL/pointmaze/umaze-v2", "D4RL/kitchen/partial-v2"])
def test_a_minari_dataset_survives_ingest_and_export(dataset_id: str, tmp_path: Path) -> None:
    source = make_minari.make_d4rl_shaped(tmp_path / "shaped", dataset_id)
    ingest(source, tmp_path / "store")
    store = Store.open(tmp_path / "store")
    summary = export_minari(store, dataset_id, tmp_path / "sets")
    ingest(summary["path"], tmp_path / "again")
    assert_same(store, Store.open(tmp_path / "again"))
    ours, theirs = minari.MinariDataset(source / "data"), minari.MinariDataset(Path(summary["path"]) / "data")
    assert ours.env_spec.id == theirs.env_spec.id
    assert theirs.env_spec.kwargs.items() >= ours.env_spec.kwargs.items()
    for a, b in zip(ours.iterate_episodes(), theirs.iterate_episodes(), strict=True):
        expected = a.observations["observation"].astype(np.float32)
        np.testing.assert_array_equal(expected, b.observations["observation"])
        np.testing.assert_array_equal(a.rewards.astype(np.float32), b.rewards)
        np.testing.assert_array_equal(a.terminations, b.terminations)
        np.testing.assert_array_equal(a.truncations, b.truncations)


@pytest.mark.parametrize(
    "names",
    [("observation",), ("a", "a/b"), ("a/x", "b", "a/y"), ("/a", "b"), ("1", "0"), ("z", "y", "x/0")],
)
def test_any_term_names_come_back_as_they_were(names: tuple[str, ...], tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", tuple((name, 1 + index) for index, name in enumerate(names)))
    summary = export_minari(store, "names-v0", tmp_path / "sets")
    ingest(summary["path"], tmp_path / "again")
    again = Store.open(tmp_path / "again")
    assert_same(store, again)
    assert again.spec.terms() == store.spec.terms()


def test_an_environment_that_is_not_registered_is_carried_by_its_id(tmp_path: Path) -> None:
    env = {"id": "NowhereArm-v3", "kwargs": {"speed": 2}, "max_episode_steps": None}
    summary = export_minari(make_store(tmp_path / "store", env=env), "arm-v0", tmp_path / "sets")
    assert minari.MinariDataset(Path(summary["path"]) / "data").env_spec.id == "NowhereArm-v3"
    assert ingest(summary["path"], tmp_path / "again")["env"] == env


def test_what_cannot_be_exported_is_refused_with_nothing_left(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    with pytest.raises(ExportError, match="no Minari id"):
        export_minari(store, "no version", tmp_path / "sets")
    with pytest.raises(EmptyReplayError, match="no episode"):
        export_minari(Store.create(tmp_path / "empty", store.spec), "arm-v0", tmp_path / "sets")
    assert not (tmp_path / "sets").exists()
    export_minari(store, "arm-v0", tmp_path / "sets")
    with pytest.raises(StoreExistsError, match="exists already"):
        export_minari(store, "arm-v0", tmp_path / "sets")


def test_a_full_disk_leaves_nothing_and_says_so(tmp_path: Path) -> None:
    store, disk = make_store(tmp_path / "store"), tmp_path / "disk"
    disk.mkdir()
    with mounted(disk, "128k"):
        with pytest.raises(
            StorageError, match=r"robot/arm-v0 cannot be written \(.*No space left.*free space"
        ) as caught:
            export_minari(store, "robot/arm-v0", disk / "sets")
        assert "\n" not in str(caught.value)
        assert not list(disk.iterdir())


def test_the_space_reserved_ahead_covers_what_minari_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(tmp_path / "store")
    reserved: list[int] = []
    fallocate = os.posix_fallocate

    def noted(descriptor: int, offset: int, length: int) -> None:
        reserved.append(length)
        fallocate(descriptor, offset, length)

    monkeypatch.setattr(os, "posix_fallocate", noted)
    summary = export_minari(store, "arm-v0", tmp_path / "sets")
    written = sum(file.stat().st_size for file in Path(summary["path"]).rglob("*") if file.is_file())
    assert written < reserved[-1] < 3 * written


EXPORT = """
import sys
from replay.export_minari import export_minari
from replay.store import Store
export_minari(Store.open(sys.argv[1]), "robot/arm-v0", sys.argv[2], progress=lambda done, _: print(done, flush=True))
"""


def test_kill_in_mid_export_leaves_no_half_dataset_and_the_same_command_completes(tmp_path: Path) -> None:
    store, folder = make_store(tmp_path / "store"), tmp_path / "sets/robot"
    rng = np.random.default_rng(1)
    with store.writer("many") as writer:
        for _ in range(200):
            info = {"success": np.zeros(5), "force": np.zeros(5)}
            observations, actions = rng.normal(size=(6, 7)), rng.uniform(-1, 1, (5, 2))
            writer.append_episode(observations, actions, np.ones(5), terminated=False, truncated=True, info=info)
    command = [sys.executable, "-c", EXPORT, str(store.path), str(tmp_path / "sets")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        for _ in range(20):
            assert process.stdout.readline()
        process.kill()
    assert [entry.name for entry in folder.iterdir()] == [f"arm-v0.partial-{process.pid}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=Path(__file__).parents[2])
    assert [entry.name for entry in folder.iterdir()] == ["arm-v0"]
    ingest(folder / "arm-v0", tmp_path / "again")
    assert_same(store, Store.open(tmp_path / "again"))
