"""What is written is what is read, by us and by any Zarr reader."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr

from replay import Store, StoreSpec
from replay.errors import NonFiniteError, SchemaError, StoreExistsError, WriterLockedError, WriterStateError
from replay.log import DURABILITIES, Durability
from tests.replay import formula

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "s.zarr", formula.spec(("success",)), chunk_rows=formula.CHUNK_ROWS)


def random_episode(rng: np.random.Generator, steps: int, spec: StoreSpec) -> dict[str, np.ndarray]:
    return {
        "observations": rng.normal(size=(steps + 1, spec.observation_size)).astype(np.float32),
        "actions": rng.normal(size=(steps, spec.action_size)).astype(np.float32),
        "rewards": rng.normal(size=steps).astype(np.float32),
        "success": (rng.random(steps) > 0.5).astype(np.float32),
    }


@pytest.mark.parametrize("durability", DURABILITIES)
@pytest.mark.parametrize("whole", [True, False], ids=["append_episode", "append"])
def test_episodes_come_back_equal(store: Store, durability: Durability, whole: bool) -> None:
    rng = np.random.default_rng(0)
    ends = [(True, False), (False, True), (True, True), (False, False)] * 3
    written = [random_episode(rng, int(rng.integers(1, 70)), store.spec) for _ in ends]
    with store.writer("a", durability=durability, source_id=9) as writer:
        for number, (episode, (terminated, truncated)) in enumerate(zip(written, ends, strict=True)):
            if whole:
                success = {"success": episode["success"]}
                data = (episode["observations"], episode["actions"], episode["rewards"])
                writer.append_episode(
                    *data, terminated=terminated, truncated=truncated, info=success, policy_version=number
                )
                continue
            steps = len(episode["rewards"])
            for t in range(steps):
                last = t == steps - 1
                writer.append(
                    episode["observations"][t],
                    episode["actions"][t],
                    episode["rewards"][t],
                    first=t == 0,
                    terminated=last and terminated,
                    truncated=last and truncated,
                    next_observation=episode["observations"][t + 1],
                    policy_version=number,
                    info={"success": episode["success"][t], "unknown": "ignored"},  # type: ignore[dict-item]
                )
            if writer.in_episode:
                writer.cut(episode["observations"][-1])
    read = list(store.episodes())
    assert len(read) == len(written)
    for number, (got, expected, (terminated, truncated)) in enumerate(zip(read, written, ends, strict=True)):
        np.testing.assert_array_equal(got.observations, expected["observations"])
        np.testing.assert_array_equal(got.actions, expected["actions"])
        np.testing.assert_array_equal(got.rewards, expected["rewards"])
        np.testing.assert_array_equal(got.info["success"], expected["success"])
        assert (got.terminated, got.truncated) == (terminated, truncated)
        assert got.interrupted == (not terminated and not truncated)
        assert (got.stream, got.episode_id, set(got.policy_version.tolist())) == ("a", number, {number})
    assert (store.reader().meta("a", 0, store.num_rows)[:, 3] == 9).all()
    assert store.num_steps == sum(len(episode["rewards"]) for episode in written) == store.reader().count_sampleable()


def test_zarr_and_tensorstore_read_the_same_rows(store: Store) -> None:
    tensorstore = pytest.importorskip("tensorstore", reason="tensorstore comes with the extra `dev`")
    rng = np.random.default_rng(1)
    with store.writer("a") as writer:
        for _ in range(5):
            episode = random_episode(rng, 100, store.spec)
            data = (episode["observations"], episode["actions"], episode["rewards"])
            writer.append_episode(*data, terminated=True, truncated=False, info={"success": episode["success"]})
    reader = store.reader()
    rows, meta = reader.rows("a", 0, 505), reader.meta("a", 0, 505)
    group = zarr.open_group(store.path, mode="r")
    assert sorted(name for name, _ in group["streams"].groups()) == ["a"]  # type: ignore[union-attr]
    np.testing.assert_array_equal(group["streams/a/rows"][:], rows)
    np.testing.assert_array_equal(group["streams/a/meta"][:], meta)
    assert group["streams/a/rows"].attrs["columns"] == list(store.spec.columns)
    assert group["streams/a/commit"].shape == (2, 512)
    for name, expected in (("rows", rows), ("meta", meta)):
        location = {"driver": "file", "path": str(store.path / "streams" / "a" / name)}
        array = tensorstore.open({"driver": "zarr3", "kvstore": location}).result()
        np.testing.assert_array_equal(array.read().result(), expected)


def test_published_shape_never_exceeds_what_is_durable(store: Store) -> None:
    file = store.path / "streams" / "a" / "rows" / "zarr.json"
    writer = store.writer("a", durability="process")
    steps = formula.append_forever(writer) if not store.spec.info else None
    assert steps is None
    episode = random_episode(np.random.default_rng(2), 10, store.spec)
    data = (episode["observations"], episode["actions"], episode["rewards"])
    writer.append_episode(*data, terminated=True, truncated=False, info={"success": episode["success"]})
    assert json.loads(file.read_text())["shape"][0] == 0
    writer.sync()
    assert json.loads(file.read_text())["shape"][0] == 11
    writer.append_episode(*data, terminated=True, truncated=False, info={"success": episode["success"]})
    assert json.loads(file.read_text())["shape"][0] == 11
    writer.close()
    assert json.loads(file.read_text())["shape"][0] == 22


def test_a_closed_stream_goes_on_where_it_ended(store: Store) -> None:
    episode = random_episode(np.random.default_rng(2), 50, store.spec)
    data = (episode["observations"], episode["actions"], episode["rewards"])
    for turn in range(6):
        with store.writer("a", durability=DURABILITIES[turn % 3]) as writer:
            assert (writer.head, writer.steps) == (51 * turn, 50 * turn)
            writer.append_episode(*data, terminated=True, truncated=False, info={"success": episode["success"]})
    assert [episode.episode_id for episode in store.episodes()] == list(range(6))


def test_a_running_episode_goes_on_under_another_writer_where_it_says_so(store: Store) -> None:
    o, a, info = np.zeros(formula.OBSERVATION), np.zeros(formula.ACTION), {"success": 0.0}
    step = {"terminated": False, "truncated": False, "next_observation": o, "info": info}
    with store.writer("a", durability="process") as writer:
        writer.append(o, a, 0.0, first=True, **step)  # type: ignore[arg-type]
    with store.writer("a", durability="process") as writer:
        with pytest.raises(WriterStateError, match="first=True"):
            writer.append(o, a, 1.0, first=False, **step)  # type: ignore[arg-type]
        writer.continue_episode()
        writer.append(o, a, 1.0, first=False, **{**step, "terminated": True})  # type: ignore[arg-type]
    with store.writer("a", durability="process") as writer:
        with pytest.raises(WriterStateError, match="no running episode"):
            writer.continue_episode()
        writer.append(o, a, 2.0, first=True, **step)  # type: ignore[arg-type]
    with store.writer("a", durability="process") as writer:
        writer.continue_episode()
        writer.cut(o)
    episodes = list(store.episodes())
    assert [episode.rewards.tolist() for episode in episodes] == [[0.0, 1.0], [2.0]]
    assert [episode.episode_id for episode in episodes] == [0, 1]


def test_second_writer_is_refused_and_the_holder_named(store: Store) -> None:
    with store.writer("a"), pytest.raises(WriterLockedError, match=rf"process {os.getpid()}\b"):
        store.writer("a")
    script = f"from replay import Store; Store.open({str(store.path)!r}).writer('b'); input()"
    with subprocess.Popen([sys.executable, "-c", "print('x');" + script], cwd=ROOT, stdin=-1, stdout=-1) as child:
        while not (store.path / "streams" / "b").exists():
            assert child.poll() is None
        while True:  # the holder names itself with its first commit, a moment after it locks
            with pytest.raises(WriterLockedError) as caught:
                store.writer("b")
            if f"process {child.pid})" in str(caught.value):
                break
        child.kill()
    store.writer("b").close()
    store.writer("a").close()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("where", ["observation", "action", "reward", "next_observation", "success"])
def test_a_row_that_is_not_finite_is_refused_whole(store: Store, bad: float, where: str) -> None:
    step = {
        "observation": np.zeros(formula.OBSERVATION),
        "action": np.zeros(formula.ACTION),
        "reward": 0.0,
        "next_observation": np.zeros(formula.OBSERVATION),
        "success": 0.0,
    }
    if isinstance(step[where], np.ndarray):
        step[where][1] = bad  # type: ignore[index]
    else:
        step[where] = bad
    info = {"success": step.pop("success")}
    with store.writer("a", durability="process") as writer:
        column = {"observation": r"observation\[1\]", "next_observation": r"observation\[1\]", "action": r"action\[1\]"}
        with pytest.raises(NonFiniteError, match=column.get(where, "reward|success")):
            writer.append(**step, first=True, terminated=True, truncated=False, info=info)  # type: ignore[arg-type]
        assert (writer.head, writer.steps, writer.in_episode) == (0, 0, False)
        arrays = {
            name: np.zeros((3, n)) for name, n in (("observation", formula.OBSERVATION), ("action", formula.ACTION))
        }
        arrays |= {"reward": np.zeros(2), "success": np.zeros(2)}
        arrays["observation" if where == "next_observation" else where].flat[-1] = bad
        actions = arrays["action"][1:]
        with pytest.raises(NonFiniteError):
            writer.append_episode(
                arrays["observation"], actions, arrays["reward"],
                terminated=True, truncated=False, info={"success": arrays["success"]},
            )  # fmt: skip
        assert writer.head == 0
    assert store.num_rows == 0


def test_calls_that_do_not_fit_are_refused(store: Store) -> None:
    o, a, info = np.zeros(formula.OBSERVATION), np.zeros(formula.ACTION), {"success": 0.0}
    running = {"terminated": False, "truncated": False, "next_observation": None, "info": info}
    with store.writer("a", durability="process") as writer:
        with pytest.raises(WriterStateError, match="first=True"):
            writer.append(o, a, 0.0, first=False, **running)  # type: ignore[arg-type]
        with pytest.raises(WriterStateError, match="cut"):
            writer.cut(o)
        with pytest.raises(SchemaError, match="observation \\[5\\]"):
            writer.append(np.zeros(4), a, 0.0, first=True, **running)  # type: ignore[arg-type]
        with pytest.raises(SchemaError, match="action \\[2\\]"):
            writer.append(o, np.zeros(()), 0.0, first=True, **running)  # type: ignore[arg-type]
        with pytest.raises(SchemaError, match="'success'"):
            writer.append(o, a, 0.0, first=True, **{**running, "info": {}})  # type: ignore[arg-type]
        with pytest.raises(SchemaError, match=r"observation \[\]"):
            writer.append(o, a, 0.0, first=True, **{**running, "terminated": True})  # type: ignore[arg-type]
        with pytest.raises(SchemaError, match="T >= 1"):
            writer.append_episode(o[None], np.zeros((0, 2)), np.zeros(0), terminated=True, truncated=False, info=info)
        rows, meta = np.zeros((2, store.spec.row_width), np.float32), np.zeros((2, 5), np.int64)
        with pytest.raises(SchemaError, match="row 0 of the block"):
            writer.append_block(rows, meta)
        with pytest.raises(SchemaError, match="float32"):
            writer.append_block(rows.astype(np.float64), meta)  # type: ignore[arg-type]
        assert writer.head == 0
    with pytest.raises(SchemaError, match="durability"):
        store.writer("a", durability="always")  # type: ignore[arg-type]
    for name in ("", "../x", ".hidden", "a/b"):
        with pytest.raises(SchemaError, match="stream name"):
            store.writer(name)


def test_blocks_copy_a_stream_with_its_flags_and_meta(store: Store, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    with store.writer("a", durability="process") as writer:
        for number in range(4):
            episode = random_episode(rng, 30, store.spec)
            data = (episode["observations"], episode["actions"], episode["rewards"])
            writer.append_episode(
                *data, terminated=number % 2 == 0, truncated=number == 1, info={"success": episode["success"]},
                policy_version=number, intervention=number == 2,
            )  # fmt: skip
    reader = store.reader()
    rows, meta = reader.rows("a", 0, 124), reader.meta("a", 0, 124)
    other = Store.create(tmp_path / "other.zarr", store.spec)
    with other.writer("b") as writer:
        for start in range(0, 124, 17):
            writer.append_block(rows[start : start + 17], meta[start : start + 17])
        assert writer.steps == 120
    np.testing.assert_array_equal(other.reader().rows("b", 0, 124), rows)
    np.testing.assert_array_equal(other.reader().meta("b", 0, 124), meta)
    assert other.num_steps == store.num_steps == 120


def test_info_counts_episodes_and_is_json(store: Store) -> None:
    with store.writer("a") as writer:
        for reward, ends in ((1.0, (True, False)), (2.0, (False, True)), (50.0, (False, False))):
            zeros = np.zeros((11, formula.OBSERVATION)), np.zeros((10, formula.ACTION)), np.full(10, reward)
            writer.append_episode(*zeros, terminated=ends[0], truncated=ends[1], info={"success": np.zeros(10)})
    info = json.loads(json.dumps(store.info()))
    assert (info["episodes"], info["steps"], info["rows"], info["streams"]) == (3, 30, 33, {"a": 33})
    assert (info["terminated"], info["truncated"], info["interrupted"]) == (1, 1, 1)
    assert info["returns"] == {"mean": 15.0, "std": 5.0, "min": 10.0, "max": 20.0}
    assert info["lengths"]["mean"] == 10.0
    assert info["bytes"] > formula.CHUNK_ROWS * store.spec.row_width * 4


def test_an_empty_store_opens_and_says_so(store: Store) -> None:
    info = Store.open(store.path).info()
    assert (info["episodes"], info["steps"], info["returns"]["mean"]) == (0, 0, None)
    assert list(store.episodes()) == []
    assert zarr.open_group(store.path, mode="r").attrs["slipway"]["format"] == 1  # type: ignore[index, call-overload]


def test_create_refuses_an_existing_path(store: Store, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for path in (store.path, tmp_path / "folder"):
        with pytest.raises(StoreExistsError, match="exists already"):
            Store.create(path, formula.spec())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "s.zarr"]


def test_the_core_loads_neither_zarr_nor_torch_nor_gymnasium() -> None:
    script = (
        "import sys, replay; [getattr(replay, name) for name in replay._MODULES]; import replay.statistics;"
        "print([m for m in ('zarr', 'torch', 'gymnasium', 'mujoco', 'minari') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
