"""D4RL-style HDF5 and .npz: episodes end where they did, and never with the next episode's reset."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from replay.ingest import IngestError, SourceFormatError, SourceNotFoundError, SourceValueError, digest, flat, ingest
from replay.ingest.environment import environment_spaces
from replay.store import Store

h5py = pytest.importorskip("h5py", reason="needs the train extra")

N = 12


def columns(**changed: Any) -> dict[str, Any]:
    """Twelve transitions in three episodes of four: a time-out, a terminal, and one that the file cuts off.

    Observation t of episode e is [10 e + t]; its true next observation is [10 e + t + 1].
    """
    observations = np.array([[10.0 * e + t] for e in range(3) for t in range(4)])
    fields = {
        "observations": observations,
        "actions": np.linspace(-1, 1, N)[:, None],
        "rewards": np.arange(N, dtype=np.float64),
        "terminals": np.arange(N) == 7,
        "timeouts": np.arange(N) == 3,
        **changed,
    }
    return {name: value for name, value in fields.items() if value is not None}


def save(path: Path, fields: dict[str, Any]) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **fields)
        return path
    with h5py.File(path, "w") as file:
        for name, value in fields.items():
            file[name] = value
    return path


@pytest.fixture(params=["data.hdf5", "data.npz"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / str(request.param)


def stored(path: Path, **options: Any) -> list[tuple[list[float], list[float], bool, bool]]:
    """(observations, rewards, terminated, truncated) of each episode."""
    out = path.with_suffix(".store")
    ingest(path, out, **options)
    return [
        (e.observations[:, 0].tolist(), e.rewards.tolist(), e.terminated, e.truncated)
        for e in Store.open(out).episodes()
    ]


def refused(path: Path, kind: type[IngestError], *words: str, **options: Any) -> None:
    before = sorted(path.parent.iterdir())
    with pytest.raises(kind) as caught:
        ingest(path, path.with_suffix(".store"), **options)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value), str(caught.value)
    assert sorted(path.parent.iterdir()) == before


def test_without_next_observations_no_episode_ends_with_anothers_reset(path: Path) -> None:
    save(path, columns())
    assert stored(path) == [
        ([0, 1, 2, 3], [0, 1, 2], False, True),
        # A terminal step is kept: nothing bootstraps from its final observation, which repeats the last one.
        ([10, 11, 12, 13, 13], [4, 5, 6, 7], True, False),
        ([20, 21, 22, 23], [8, 9, 10], False, True),
    ]


def test_recorded_next_observations_are_used(path: Path) -> None:
    save(path, columns(next_observations=columns()["observations"] + 1))
    assert stored(path) == [
        ([0, 1, 2, 3, 4], [0, 1, 2, 3], False, True),
        ([10, 11, 12, 13, 14], [4, 5, 6, 7], True, False),
        ([20, 21, 22, 23, 24], [8, 9, 10, 11], False, True),
    ]


def test_a_jump_that_no_flag_marks_ends_an_episode_where_next_observations_show_it(path: Path) -> None:
    save(path, columns(next_observations=columns()["observations"] + 1, timeouts=np.zeros(N, bool)))
    assert [(o[0], o[-1], t, u) for o, _, t, u in stored(path)] == [
        (0, 4, False, True),
        (10, 14, True, False),
        (20, 24, False, True),
    ]


def test_without_timeouts_the_time_limit_cuts(path: Path) -> None:
    save(path, columns(timeouts=None))
    refused(path, SourceFormatError, "lacks 'timeouts'", "--max-episode-steps")
    assert [len(rewards) for _, rewards, _, _ in stored(path, env={"max_episode_steps": 4})] == [3, 4, 3]
    assert Store.open(path.with_suffix(".store")).spec.env is None
    shutil.rmtree(path.with_suffix(".store"))
    env = {"id": "Pendulum-v1", "max_episode_steps": 4}
    # Pendulum's spaces have another size: the environment must be the recorded one.
    refused(path, SourceFormatError, "observations has 1 columns", "Pendulum-v1 has 3", env=env)
    from gymnasium.envs.registration import register, registry

    register("SlipwayLine-v0", entry_point="tests.replay.line:Line", max_episode_steps=4)
    try:
        assert [len(rewards) for _, rewards, _, _ in stored(path, env={"id": "SlipwayLine-v0"})] == [3, 4, 3]
    finally:
        del registry["SlipwayLine-v0"]
    spec = Store.open(path.with_suffix(".store")).spec
    assert (spec.action_low, spec.action_high) == ((-2.0,), (2.0,))


def test_a_file_in_blocks_equals_the_file_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    fields = columns(
        observations=rng.normal(size=(1000, 3)),
        actions=rng.uniform(-1, 1, (1000, 2)),
        rewards=rng.normal(size=1000),
        terminals=rng.random(1000) < 0.02,
        timeouts=rng.random(1000) < 0.05,
    )
    save(tmp_path / "a.hdf5", fields)
    save(tmp_path / "b.hdf5", fields)
    whole = stored(tmp_path / "a.hdf5")
    monkeypatch.setattr(flat, "BLOCK_BYTES", 2000)
    assert stored(tmp_path / "b.hdf5") == whole
    assert len(whole) > 30


def test_memory_is_bounded_by_blocks_not_by_the_file(tmp_path: Path) -> None:
    """Episodes are handed out before later rows are read: damage at the end shows only when it is reached."""
    from replay.ingest import hdf5
    from replay.ingest.source import IngestOptions

    rows, width = 400_000, 40
    path = tmp_path / "big.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("observations", (rows, width), "f4", chunks=(1000, width), fillvalue=0.5)
        file.create_dataset("actions", (rows, 2), "f4", chunks=(1000, 2), fillvalue=0.5)
        file.create_dataset("rewards", (rows,), "f4", chunks=(1000,), fillvalue=0.5)
        file["timeouts"] = np.arange(rows) % 1000 == 999
        file["terminals"] = np.zeros(rows, bool)
    import tracemalloc

    opened = hdf5.open_source(str(path), IngestOptions())
    tracemalloc.start()
    steps = sum(len(episode.rewards) for episode in opened.episodes())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    opened.close()
    assert steps == rows - rows // 1000
    assert peak < 60e6, "the file's observations alone are 64 MB"


def test_success_ends_an_episode_even_in_a_step_without_next_observation(path: Path) -> None:
    rewards = np.zeros(N)
    rewards[[3, 5]] = 1
    save(path, columns(rewards=rewards))
    assert stored(path, terminate_on="success") == [
        ([0, 1, 2, 3, 3], [0, 0, 0, 1], True, False),
        ([10, 11, 12], [0, 1], True, False),
        ([20, 21, 22, 23], [0, 0, 0], False, True),
    ]


def test_d4rl_infos_and_metadata_are_kept(tmp_path: Path) -> None:
    path = save(tmp_path / "x.hdf5", columns(success=None))
    with h5py.File(path, "a") as file:
        file["infos/success"] = np.arange(N) == 2
        file["infos/qpos"] = np.zeros((N, 5))
        file["metadata/algorithm"] = "SAC"
    ingest(path, tmp_path / "store")
    store = Store.open(tmp_path / "store")
    assert next(iter(store.episodes())).info["success"].tolist() == [0, 0, 1]
    assert store.spec.source is not None
    assert store.spec.source["metadata"] == {"algorithm": "SAC"}


def test_rewards_and_flags_may_be_columns(path: Path) -> None:
    save(path, columns(rewards=columns()["rewards"][:, None], terminals=columns()["terminals"][:, None].astype(float)))
    assert [len(rewards) for _, rewards, _, _ in stored(path)] == [3, 4, 3]


def test_a_large_files_digest_sees_its_size_its_edges_and_its_middle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"WHOLE_BELOW": 1000, "EDGE": 100, "SAMPLE": 10, "SAMPLES": 16}.items():
        monkeypatch.setattr(digest, name, value)
    data = bytes(2000)
    seen = set()
    for number, changed in enumerate((data, data + b"0", b"1" + data[1:], data[:-1] + b"1", data[:1000] + b"11")):
        path = tmp_path / str(number)
        path.write_bytes(changed.ljust(2000, b"\0") if number == 4 else changed)
        seen.add(digest.file_digest(path))
    assert len(seen) == 5


# What is refused


def test_files_of_no_kind_or_cut_short_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "none.hdf5", SourceNotFoundError, "is no file or folder")
    text = tmp_path / "text.hdf5"
    text.write_text("not data")
    refused(text, SourceFormatError, "is not an HDF5 file")
    text = tmp_path / "table.txt"
    text.write_text("1,2")
    refused(text, SourceFormatError, "of no known kind")
    for name in ("cut.hdf5", "cut.npz"):
        whole = save(tmp_path / name, columns())
        whole.write_bytes(whole.read_bytes()[:-700])
        refused(whole, SourceFormatError, name)
    np.savez(tmp_path / "objects.npz", observations=np.array([None]))
    refused(tmp_path / "objects.npz", SourceFormatError, "observations cannot be read")


@pytest.mark.parametrize("field", ["observations", "actions", "rewards"])
def test_a_missing_field_is_named_beside_those_that_are_there(field: str, path: Path) -> None:
    save(path, columns(**{field: None}))
    refused(path, SourceFormatError, f"lacks '{field}'", "it has", "timeouts")


def test_no_episode_end_of_any_kind_is_refused(path: Path) -> None:
    save(path, columns(terminals=None, timeouts=None))
    refused(path, SourceFormatError, "neither 'terminals' nor 'timeouts'", "no episode end of any kind")
    save(path, columns(terminals=np.zeros(N, bool), timeouts=np.zeros(N, bool)))
    refused(path, SourceFormatError, "no terminal and no timeout", "no episode end of any kind")


def test_odd_shapes_are_named(path: Path) -> None:
    for changed, words in (
        ({"actions": np.zeros((N - 1, 1))}, ("actions has shape [11, 1]", "12 rows")),
        ({"terminals": np.zeros((N, 2))}, ("terminals has shape [12, 2]",)),
        ({"observations": np.zeros((N, 8, 8, 3), np.uint8)}, ("observations", "images")),
        ({"next_observations": np.zeros((N, 2))}, ("next_observations [12, 2]",)),
        ({"actions": np.zeros(N, np.int64)}, ("continuous",)),
        ({"actions": np.zeros(N)}, ("actions has shape [12]", "reshape actions to [12, 1]")),
        ({"rewards": np.arange(N) * 1j}, ("rewards holds no real numbers but complex128, at row 0 0j",)),
        ({"terminals": np.full(N, 0.5)}, ("terminals at row 0 is 0.5; a flag is 0 or 1",)),
        ({"timeouts": np.where(np.arange(N) == 7, np.nan, 0)}, ("timeouts at row 7 is nan",)),
        ({"rewards": np.zeros((N, 2))}, ("rewards has shape [12, 2]",)),
    ):
        save(path, columns(**changed))
        refused(path, SourceFormatError, *words)
    save(path, {name: value[:0] for name, value in columns().items()})
    refused(path, SourceFormatError, "rewards is empty")


@pytest.mark.parametrize("limit", [0, -5, 2.5, True])
def test_a_time_limit_is_at_least_one_step(limit: float, path: Path) -> None:
    save(path, columns())
    refused(path, IngestError, f"time limit is {limit} steps", "--max-episode-steps", env={"max_episode_steps": limit})


def test_a_dry_run_takes_nothing_where_the_ingest_does(path: Path) -> None:
    nothing = {name: value[:1] for name, value in columns(terminals=np.zeros(N), timeouts=np.ones(N)).items()}
    save(path, nothing)
    refused(path, SourceFormatError, "no episode has a single step")
    found = ingest(path, path.with_suffix(".store"), dry_run=True)
    assert (found["steps"], found["refused_episodes"], "no episode has" in found["refused"][0]) == (0, 1, True)


def test_bad_values_are_named_by_episode_and_rows(path: Path) -> None:
    rewards = columns()["rewards"]
    rewards[5] = np.nan
    save(path, columns(rewards=rewards))
    refused(path, SourceValueError, "episode 1 (rows 4 to 7)", "rewards at step 1 is nan")
    save(path, columns(actions=np.full((N, 1), 3.0)))
    refused(path, SourceValueError, "episode 0", "actions at step 0, dimension 0 is 3", "[-1, 1]")
    assert ingest(path, path.with_suffix(".store"), clip_actions=True)["mended"]["actions_clipped"] == 10
    assert {float(a) for e in Store.open(path.with_suffix(".store")).episodes() for a in e.actions[:, 0]} == {1.0}


def test_an_environment_of_a_module_in_the_working_directory_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_spaces.py").write_text("from gymnasium.envs.classic_control.pendulum import PendulumEnv as Task\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each not in ("", str(tmp_path))])
    monkeypatch.setitem(gymnasium.registry, "MySpaces-v0", gymnasium.spec("Pendulum-v1"))
    _, space = environment_spaces({"id": "my_spaces:MySpaces-v0", "kwargs": {}})
    assert space.high.tolist() == [2.0]
