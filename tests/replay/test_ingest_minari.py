"""Minari datasets become stores whose rows equal what Minari itself reads, or one clear error and nothing else."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replay.ingest import (
    IngestError,
    OutputExistsError,
    SourceFormatError,
    SourceNotFoundError,
    SourceValueError,
    ingest,
    minari_folders,
    network,
    recorded_environment,
)
from replay.store import Store
from tests.replay import make_minari

pytest.importorskip("minari", reason="needs the train extra")

OBSERVATION = np.linspace(-1, 1, 9, dtype=np.float32).reshape(3, 3)


@pytest.fixture(scope="module")
def shaped(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folders shaped like Minari's D4RL sets, each recorded once."""
    root = tmp_path_factory.mktemp("shaped")

    def folder(dataset_id: str) -> Path:
        path = root / dataset_id
        return path if path.exists() else make_minari.make_d4rl_shaped(root, dataset_id)

    return folder


def buffer(**changed: Any) -> Any:
    """A two-step episode of a three-dimensional Box task, with some fields changed."""
    from minari.data_collector import EpisodeBuffer

    fields: dict[str, Any] = {
        "observations": OBSERVATION.copy(),
        "actions": np.array([[0.5, -0.5], [0.25, 1.0]], np.float32),
        "rewards": np.array([0.0, 1.0]),
        "terminations": np.array([False, False]),
        "truncations": np.array([False, True]),
        "infos": {},
    }
    return EpisodeBuffer(**{**fields, **changed})


def write(root: Path, *buffers: Any, **spaces: Any) -> Path:
    from gymnasium.spaces import Box

    given = {"observation_space": Box(-9, 9, (3,)), "action_space": Box(-1, 1, (2,)), **spaces}
    return make_minari.write(root, "toy/box-v0", list(buffers), **given)


def refused(source: Path | str, out: Path, kind: type[IngestError], *words: str, **options: Any) -> str:
    """The one-line error of an ingest that must fail; nothing may be left beside the output."""
    before = sorted(out.parent.iterdir()) if out.parent.exists() else None
    with pytest.raises(kind) as caught:
        ingest(source, out, **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
    assert (sorted(out.parent.iterdir()) if out.parent.exists() else None) == before
    return message


# What is stored


@pytest.mark.data
def test_the_real_teleoperated_door_is_stored_as_minari_reads_it(
    slipway_data: Callable[[str], Path], tmp_path: Path
) -> None:
    import minari

    folder = slipway_data("dapg-door-human-v0") / "dapg/door/human-v0"
    summary = ingest(folder, tmp_path / "door")
    store = Store.open(tmp_path / "door")
    stored, recorded = list(store.episodes()), list(minari.MinariDataset(folder / "data"))
    assert len(stored) == len(recorded) == 25
    assert sum(len(episode.rewards) for episode in stored) == store.num_steps == 6729
    assert np.mean([episode.rewards.sum() for episode in stored]) == pytest.approx(803, abs=1)
    for ours, theirs in zip(stored, recorded, strict=True):
        np.testing.assert_array_equal(ours.observations, theirs.observations.astype(np.float32))
        np.testing.assert_array_equal(ours.actions, theirs.actions.astype(np.float32))
        np.testing.assert_array_equal(ours.rewards, theirs.rewards.astype(np.float32))
        np.testing.assert_array_equal(ours.info["success"], theirs.infos["success"][1:].astype(np.float32))
        assert (ours.terminated, ours.truncated) == (theirs.terminations[-1], theirs.truncations[-1])
    assert store.spec.env == {
        "id": "AdroitHandDoor-v1",
        "kwargs": {"reward_type": "dense"},
        "max_episode_steps": 300,
    }
    assert summary["already"] is False
    assert summary["kind"] == "minari"
    assert summary["name"] == "dapg/door/human-v0"
    assert store.spec.source is not None
    assert store.spec.source["digest"] == summary["digest"]
    json.dumps(summary)


@pytest.mark.data
@pytest.mark.parametrize("stride", [13, pytest.param(1, marks=pytest.mark.full)])
def test_a_goal_that_ends_the_episode_is_stored_as_terminated(
    stride: int, slipway_data: Callable[[str], Path], tmp_path: Path
) -> None:
    """The real maze set marks goals by its sparse reward only, and stores its episodes as truncated."""
    import minari
    from gymnasium import spaces

    folder = slipway_data("local-pointmaze-umaze-v0") / "local/pointmaze/umaze-v0"
    seen: list[tuple[int, int | None]] = []
    ingest(folder, tmp_path / "maze", terminate_on="success", progress=lambda done, total: seen.append((done, total)))
    stored, dataset = list(Store.open(tmp_path / "maze").episodes()), minari.MinariDataset(folder / "data")
    assert len(stored) == dataset.total_episodes == 1379
    for ours, theirs in zip(stored[::stride], dataset.iterate_episodes(range(0, 1379, stride)), strict=True):
        steps = int(np.argmax(theirs.rewards == 1)) + 1
        parts = [theirs.observations[key] for key in dataset.observation_space.spaces]
        np.testing.assert_array_equal(ours.observations, np.concatenate(parts, 1)[: steps + 1].astype(np.float32))
        np.testing.assert_array_equal(ours.actions, theirs.actions[:steps].astype(np.float32))
        np.testing.assert_array_equal(ours.rewards, theirs.rewards[:steps].astype(np.float32))
        assert ours.terminated
        assert not ours.truncated
        assert ours.info["success"].tolist() == [0.0] * (steps - 1) + [1.0]
    # The layout is Gymnasium's own flattening.
    episode = dataset[0]
    first = {key: values[0] for key, values in episode.observations.items()}
    np.testing.assert_array_equal(stored[0].observations[0], spaces.flatten(dataset.observation_space, first))
    assert len(seen) == 1379
    assert seen[-1] == (99893, 99893)


@pytest.mark.parametrize("dataset_id", list(make_minari.SHAPES))
def test_folders_shaped_like_minaris_d4rl_sets_are_flattened_as_gymnasium_does(
    dataset_id: str, shaped: Callable[[str], Path], tmp_path: Path
) -> None:
    import minari
    from gymnasium import spaces

    folder = shaped(dataset_id)
    ingest(folder, tmp_path / "store")
    store, dataset = Store.open(tmp_path / "store"), minari.MinariDataset(folder / "data")
    for ours, theirs in zip(store.episodes(), dataset, strict=True):
        steps = len(theirs.rewards)
        rows = [_at(theirs.observations, step) for step in range(steps + 1)]
        flat = np.array([spaces.flatten(dataset.observation_space, row) for row in rows], np.float32)
        np.testing.assert_array_equal(ours.observations, flat)
        np.testing.assert_array_equal(ours.actions, theirs.actions.astype(np.float32))
        assert ours.info.keys() == ({"success"} if "success" in theirs.infos else set())
    assert store.spec.env is not None
    assert store.spec.env["id"] == make_minari.SHAPES[dataset_id]["id"]
    assert store.spec.env["max_episode_steps"] == 12
    assert make_minari.SHAPES[dataset_id]["kwargs"].items() <= store.spec.env["kwargs"].items()
    names = [term.name for term in store.spec.observation]
    assert names == {
        "D4RL/pointmaze/umaze-v2": ["achieved_goal", "desired_goal", "observation"],
        "D4RL/antmaze/umaze-v1": ["achieved_goal", "desired_goal", "observation"],
        "D4RL/kitchen/partial-v2": [
            *("achieved_goal/kettle", "achieved_goal/microwave"),
            *("desired_goal/kettle", "desired_goal/microwave", "observation"),
        ],
    }.get(dataset_id, ["observation"])


def _at(values: Any, step: int) -> Any:
    if isinstance(values, dict):
        return {key: _at(value, step) for key, value in values.items()}
    return tuple(_at(value, step) for value in values) if isinstance(values, tuple) else values[step]


def test_discrete_tuple_and_nested_parts_flatten_in_gymnasiums_order(tmp_path: Path) -> None:
    from gymnasium import spaces

    space = spaces.Dict(
        {
            "mode": spaces.Discrete(3, start=1),
            "arm": spaces.Tuple((spaces.Box(-1, 1, (2, 2)), spaces.MultiBinary(2))),
            "grips": spaces.MultiDiscrete([2, 3]),
        },
        seed=5,
    )
    rows = [space.sample() for _ in range(3)]
    recorded = buffer(observations=make_minari.stack(rows))
    ingest(write(tmp_path / "root", recorded, observation_space=space), tmp_path / "store")
    store = Store.open(tmp_path / "store")
    (episode,) = store.episodes()
    np.testing.assert_array_equal(episode.observations, [spaces.flatten(space, row) for row in rows])
    assert [(t.name, t.length) for t in store.spec.observation] == [
        *(("arm/0", 4), ("arm/1", 2), ("grips", 5), ("mode", 3)),
    ]


def test_a_dataset_is_the_same_by_id_by_folder_and_by_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "root", buffer())
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "root"))
    first = ingest("toy/box-v0", tmp_path / "store")
    assert first["already"] is False
    assert first["mended"] == {}
    for source in ("toy/box-v0", folder, folder / "data"):
        again = ingest(source, tmp_path / "store")
        assert again["already"] is True
        assert {**again, "already": False} == first


def test_arrow_storage_reads_like_hdf5(tmp_path: Path) -> None:
    ingest(write(tmp_path / "a", buffer()), tmp_path / "from_hdf5")
    ingest(write(tmp_path / "b", buffer(), data_format="arrow"), tmp_path / "from_arrow")
    (a,), (b,) = (Store.open(tmp_path / name).episodes() for name in ("from_hdf5", "from_arrow"))
    np.testing.assert_array_equal(a.observations, b.observations)
    np.testing.assert_array_equal(a.actions, b.actions)


def test_an_end_flag_inside_an_episode_splits_it_without_losing_a_step(tmp_path: Path) -> None:
    recorded = buffer(terminations=np.array([True, False]))
    ingest(write(tmp_path / "root", recorded), tmp_path / "store")
    first, second = Store.open(tmp_path / "store").episodes()
    assert (first.terminated, first.truncated, second.terminated, second.truncated) == (True, False, False, True)
    np.testing.assert_array_equal(first.observations, OBSERVATION[:2])
    np.testing.assert_array_equal(second.observations, OBSERVATION[1:])


def test_steps_after_the_first_success_are_left_out_and_counted(tmp_path: Path) -> None:
    recorded = buffer(infos={"is_success": np.array([False, True, False])})
    summary = ingest(write(tmp_path / "root", recorded), tmp_path / "store", terminate_on="success")
    (episode,) = Store.open(tmp_path / "store").episodes()
    assert len(episode.rewards) == 1
    assert (episode.terminated, episode.truncated) == (True, False)
    np.testing.assert_array_equal(episode.observations, OBSERVATION[:2])
    assert summary["mended"] == {"steps_after_success": 1}


def test_fetch_like_rewards_mark_success_by_zero(tmp_path: Path) -> None:
    """All-zero episodes come first: they are successes at their first step, which only a later -1 can tell."""
    zero, late = buffer(rewards=np.array([0.0, 0.0])), buffer(rewards=np.array([-1.0, 0.0]))
    ingest(write(tmp_path / "root", zero, late), tmp_path / "store", terminate_on="success")
    assert [len(episode.rewards) for episode in Store.open(tmp_path / "store").episodes()] == [1, 2]


def test_a_given_environment_completes_the_recorded_one(shaped: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shaped("D4RL/pen/human-v2")
    recorded = recorded_environment(folder)
    assert recorded == {"id": "AdroitHandPen-v1", "kwargs": {"reward_type": "dense"}, "max_episode_steps": 12}
    ingest(folder, tmp_path / "store", env={"max_episode_steps": 100})
    assert Store.open(tmp_path / "store").spec.env == {
        "id": "AdroitHandPen-v1",
        "kwargs": {"reward_type": "dense"},
        "max_episode_steps": 100,
    }


# What is refused


def test_an_unknown_id_names_the_nearest_and_the_local_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "root", buffer())
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "root"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused("toy/bax-v0", tmp_path / "s", SourceNotFoundError, "'toy/bax-v0'", "did you mean 'toy/box-v0'?", "MINARI_")
    refused("toy/box", tmp_path / "s", SourceNotFoundError, "toy/box is no file or folder", "'toy/box-v0'")


def test_a_path_that_is_not_there_or_not_a_dataset_says_what_is(tmp_path: Path) -> None:
    folder = write(tmp_path / "root", buffer())
    refused(tmp_path / "root" / "toy" / "bax-v0", tmp_path / "s", SourceNotFoundError, "is no file or folder", "box-v0")
    refused(tmp_path / "root", tmp_path / "s", SourceFormatError, "not a Minari dataset but holds toy/box-v0; give one")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", tmp_path / "s", SourceFormatError, "holds nothing")
    (folder / "data" / "metadata.json").write_text("{")
    refused(folder, tmp_path / "s", SourceFormatError, "metadata.json", "JSON")


@pytest.mark.parametrize("field", ["observations", "actions", "rewards"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_a_value_that_is_not_finite_is_named_by_field_episode_and_step(
    field: str, value: float, tmp_path: Path
) -> None:
    from gymnasium.spaces import Box

    spaces = {"observation_space": Box(-9, 9, (3,), np.float64), "action_space": Box(-1, 1, (2,), np.float64)}
    bad = np.array(getattr(buffer(), field), np.float64)
    bad[1] = value
    folder = write(tmp_path / "root", buffer(), buffer(**{field: bad}), **spaces)
    refused(folder, tmp_path / "s", SourceValueError, "episode 1", f"{field} at step 1", f"{value}")


def test_an_action_outside_its_bounds_is_refused_or_clipped_and_rounding_is_neither(tmp_path: Path) -> None:
    wild = np.array([[0.5, 0.5], [0.5, -1.5]], np.float32)
    folder = write(tmp_path / "root", buffer(), buffer(actions=wild))
    words = ("episode 1", "actions at step 1, dimension 1 is -1.5", "[-1, 1]", "--clip-actions")
    refused(folder, tmp_path / "s", SourceValueError, *words)
    ingest(folder, tmp_path / "clipped", clip_actions=True)
    assert list(Store.open(tmp_path / "clipped").episodes())[1].actions[1, 1] == -1.0
    nearly = np.full((2, 2), 1.0000004, np.float32)
    ingest(write(tmp_path / "rounded", buffer(actions=nearly)), tmp_path / "kept")
    np.testing.assert_array_equal(next(iter(Store.open(tmp_path / "kept").episodes())).actions, nearly)


def test_an_empty_dataset_is_refused(tmp_path: Path) -> None:
    refused(write(tmp_path / "root"), tmp_path / "s", SourceFormatError, "toy/box-v0", "no episodes")


def test_a_dataset_without_any_episode_end_is_refused_unless_a_time_limit_explains_it(tmp_path: Path) -> None:
    folder = write(tmp_path / "root", buffer(truncations=np.array([False, False])))
    refused(folder, tmp_path / "s", SourceFormatError, "no episode end of any kind", "--max-episode-steps")
    summary = ingest(folder, tmp_path / "s", env={"id": "Toy-v0", "max_episode_steps": 2})
    (episode,) = Store.open(tmp_path / "s").episodes()
    assert episode.truncated
    assert summary["mended"] == {"episodes_without_end_flag": 1}


def test_discrete_actions_images_and_unbounded_actions_are_refused(tmp_path: Path) -> None:
    from gymnasium.spaces import Box, Dict, Discrete, Text

    discrete = write(tmp_path / "d", buffer(actions=np.array([0, 1])), action_space=Discrete(2))
    refused(discrete, tmp_path / "s", SourceFormatError, "Discrete", "continuous")
    image = Dict({"camera": Box(0, 255, (40, 40, 3), np.uint8)})
    pixels = buffer(observations={"camera": np.zeros((3, 40, 40, 3), np.uint8)})
    refused(
        write(tmp_path / "i", pixels, observation_space=image), tmp_path / "s", SourceFormatError, "'camera'", "image"
    )
    words = buffer(observations=["a", "b", "c"])
    refused(write(tmp_path / "t", words, observation_space=Text(3)), tmp_path / "s", SourceFormatError, "Text")
    wide = write(tmp_path / "u", buffer(), action_space=Box(-np.inf, np.inf, (2,)))
    refused(wide, tmp_path / "s", SourceFormatError, "action dimension 0", "finite")


@pytest.mark.parametrize("text", ["{", '{"kwargs": {}}', "[]", 7])
def test_a_recorded_environment_that_is_none_is_refused(text: object, tmp_path: Path) -> None:
    folder = write(tmp_path, buffer())
    file = next(folder.rglob("metadata.json"))
    described = json.loads(file.read_text())
    for field in ("env_spec", "eval_env_spec"):
        file.write_text(json.dumps({**described, field: text}))
        refused(folder, tmp_path / "store", SourceFormatError, "Minari cannot open it")
    file.write_text(json.dumps({**described, "env_spec": text}))
    with pytest.raises(SourceFormatError, match=r"toy/box-v0: env_spec in its metadata\.json"):
        recorded_environment(folder)


def test_a_missing_field_an_odd_length_and_a_cut_file_are_named(tmp_path: Path) -> None:
    import h5py

    folder = write(tmp_path / "root", buffer(), buffer())
    path = folder / "data" / "main_data.hdf5"
    with h5py.File(path, "a") as file:
        del file["episode_1/actions"]
    refused(folder, tmp_path / "s", SourceFormatError, "episode 1 lacks a field", "actions")
    with h5py.File(path, "a") as file:
        file["episode_1/actions"] = np.zeros((1, 2))
    refused(folder, tmp_path / "s", SourceFormatError, "episode 1", "actions has 1 rows for 2 rewards, expected 2")
    path.write_bytes(path.read_bytes()[:-500])
    refused(folder, tmp_path / "s", SourceFormatError, "toy/box-v0", "damaged")


def test_success_that_nothing_marks_is_refused(tmp_path: Path) -> None:
    dense = write(tmp_path / "dense", buffer(rewards=np.array([0.0, 0.3])))
    refused(dense, tmp_path / "s", SourceFormatError, "not sparse", "0.3", terminate_on="success")
    mixed = write(tmp_path / "mixed", buffer(rewards=np.array([0.0, 1.0])), buffer(rewards=np.array([0.0, 2.0])))
    refused(mixed, tmp_path / "s", SourceFormatError, "episode 1", "step 1 is 2", terminate_on="success")
    refused(dense, tmp_path / "s", SourceFormatError, "infos has no 'opened'", terminate_on="opened")


def test_an_output_of_other_data_or_options_is_refused_and_untouched(tmp_path: Path) -> None:
    folder = write(tmp_path / "root", buffer())
    other = write(tmp_path / "other", buffer(rewards=np.array([0.0, 0.0])))
    ingest(folder, tmp_path / "store")
    refused(other, tmp_path / "store", OutputExistsError, "made from other data", "toy/box-v0", "choose another output")
    refused(folder, tmp_path / "store", OutputExistsError, "other options (terminate_on=None)", terminate_on="success")
    (tmp_path / "file").write_text("mine")
    refused(folder, tmp_path / "file", OutputExistsError, "not a readable store")
    assert (tmp_path / "file").read_text() == "mine"
    assert ingest(folder, tmp_path / "store")["already"]


def test_a_failure_removes_the_folders_it_made(tmp_path: Path) -> None:
    folder = write(tmp_path / "root", buffer(rewards=np.array([np.nan, 0.0])))
    refused(folder, tmp_path / "deep" / "down" / "store", SourceValueError, "rewards at step 0")
    assert not (tmp_path / "deep").exists()
    shutil.rmtree(folder)


# Without a network


def test_an_unknown_id_fails_in_seconds_where_no_network_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that takes no connection, and one that never answers: neither may cost the hub client's retries."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setenv("HF_ENDPOINT", f"http://{address}")
        begun = time.monotonic()
        refused("D4RL/door/absent-v9", tmp_path / "store", SourceNotFoundError, "no network was reached", address)
    # Its queue of connections is full, so that one more is never answered.
    with socket.socket() as silent, contextlib.ExitStack() as waiting:
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        for _ in range(4):
            client = waiting.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(silent.getsockname())
        monkeypatch.setenv("HF_ENDPOINT", "http://{}:{}".format(*silent.getsockname()))
        refused("D4RL/door/absent-v9", tmp_path / "store", SourceNotFoundError, "no network was reached")
    assert time.monotonic() - begun < 2 * network.TIMEOUT_S


def test_datasets_are_looked_for_as_deep_as_ids_go_and_not_in_hidden_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("D4RL/door/human-v2", "plain-v0", ".cache/hidden-v0", "a/b/c/d/deep-v0"):
        (tmp_path / name / "data").mkdir(parents=True)
        (tmp_path / name / "data" / "metadata.json").touch()
    assert minari_folders.local_ids(tmp_path) == ["D4RL/door/human-v2", "plain-v0"]
    with pytest.raises(SourceFormatError, match=r"not a Minari dataset but holds D4RL/door/human-v2, plain-v0; give"):
        ingest(tmp_path, tmp_path / "store")
    monkeypatch.setattr(minari_folders, "MOST_FOLDERS", 2)
    assert minari_folders.local_ids(tmp_path) == []
