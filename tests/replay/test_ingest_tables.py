"""CSV, Parquet and LeRobot tables become stores; what is wrong is named with file, column and row."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replay.ingest import IngestError, SourceFormatError, SourceValueError, arrow, ingest
from replay.store import Store

pa = pytest.importorskip("pyarrow", reason="needs the train extra")
pytest.importorskip("pyarrow.csv")
pytest.importorskip("pyarrow.parquet")

MAP = {
    "observation": {"position": ["x", "y"], "speed": ["v"]},
    "action": ["fx"],
    "reward": "r",
    "terminated": "done",
    "truncated": "timeout",
    "episode": "run",
    "timestamp": "t",
    "info": ["success"],
}
N = 12


def table(**changed: Any) -> Any:
    """Three runs of four steps: terminated, timed out, cut off. x counts 10 run + step."""
    columns = {
        "run": np.repeat(["a", "b", "c"], 4),
        "t": np.tile(np.arange(4) * 0.1, 3),
        "x": np.array([10.0 * run + t for run in range(3) for t in range(4)]),
        "y": np.arange(N) * 0.5,
        "v": np.arange(N) - 3,
        "fx": np.linspace(-2, 2, N),
        "r": np.arange(N),
        "done": np.arange(N) == 3,
        "timeout": np.arange(N) == 7,
        "success": np.arange(N) == 2,
        "unused": np.repeat("text", N),
        **changed,
    }
    return pa.table({name: value for name, value in columns.items() if value is not None})


def save(path: Path, data: Any) -> Path:
    if path.suffix == ".csv":
        pa.csv.write_csv(data, path)
    else:
        pa.parquet.write_table(data, path, row_group_size=5)
    return path


@pytest.fixture(params=["log.csv", "log.parquet"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / str(request.param)


def stored(path: Path, **options: Any) -> list[tuple[list[float], list[float], bool, bool]]:
    out = path.with_suffix(".store")
    ingest(path, out, **options)
    return [
        (e.observations[:, 0].tolist(), e.rewards.tolist(), e.terminated, e.truncated)
        for e in Store.open(out).episodes()
    ]


EXPECTED = [
    ([0, 1, 2, 3, 3], [0, 1, 2, 3], True, False),
    ([10, 11, 12, 13], [4, 5, 6], False, True),
    ([20, 21, 22, 23], [8, 9, 10], False, True),
]


def test_a_log_is_cut_into_episodes_by_its_column_map(path: Path) -> None:
    save(path, table())
    assert stored(path, columns=MAP) == EXPECTED
    store = Store.open(path.with_suffix(".store"))
    assert [(t.name, t.length) for t in store.spec.observation] == [("position", 2), ("speed", 1)]
    assert (store.spec.action_low, store.spec.action_high) == ((-2.0,), (2.0,))
    assert next(iter(store.episodes())).info["success"].tolist() == [0, 0, 1, 0]
    assert ingest(path, path.with_suffix(".store"), columns=MAP)["already"]
    with pytest.raises(IngestError, match="other options"):
        ingest(path, path.with_suffix(".store"), columns={**MAP, "info": []} | {"info": ["v"]})


def test_batches_that_cut_episodes_anywhere_change_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(path, table())
    for rows in (1, 2, 3, 5, 7):
        monkeypatch.setattr(arrow, "BATCH_ROWS", rows)
        # No block may be shorter than the header; a row takes about 40 bytes.
        monkeypatch.setattr(arrow, "CSV_BLOCK_BYTES", 75 + 40 * rows)
        other = path.with_name(f"{rows}{path.suffix}")
        other.write_bytes(path.read_bytes())
        assert stored(other, columns=MAP) == EXPECTED


def test_without_an_episode_column_end_flags_tell_episodes_apart(path: Path) -> None:
    save(path, table())
    columns = {role: name for role, name in MAP.items() if role not in ("episode", "timestamp")}
    assert stored(path, columns=columns) == EXPECTED


def test_maps_are_read_from_toml_and_json_and_may_give_bounds(path: Path) -> None:
    save(path, table())
    text = 'observation = ["x", "y"]\naction = ["fx"]\nreward = "r"\nterminated = "done"\nepisode = "run"\n'
    (path.parent / "map.toml").write_text(text + "action_low = [-3]\naction_high = [3]\n")
    outcome = ingest(path, path.parent / "toml", columns=path.parent / "map.toml")
    assert (outcome["action_low"], outcome["action_high"]) == ([-3.0], [3.0])
    assert [term["name"] for term in outcome["observation"]] == ["x", "y"]
    (path.parent / "map.json").write_text(json.dumps(MAP))
    assert ingest(path, path.parent / "json", columns=path.parent / "map.json")["steps"] == 10


def test_success_ends_a_logged_episode_where_it_is_asked_for(path: Path) -> None:
    save(path, table())
    assert stored(path, columns=MAP, terminate_on="success")[0] == ([0, 1, 2, 3], [0, 1, 2], True, False)


def test_a_success_in_an_episodes_last_row_is_kept_with_its_reward(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow, "BATCH_ROWS", 3)
    save(path, table(success=np.arange(N) % 4 == 3, done=None, timeout=None))
    columns = {role: name for role, name in MAP.items() if role not in ("terminated", "truncated")}
    assert stored(path, columns=columns, terminate_on="success") == [
        ([10 * run + t for t in (0, 1, 2, 3, 3)], [4 * run + t for t in range(4)], True, False) for run in range(3)
    ]
    assert next(iter(Store.open(path.with_suffix(".store")).episodes())).info["success"].tolist() == [0, 0, 0, 1]


def test_parquet_columns_may_hold_vectors(tmp_path: Path) -> None:
    vectors = pa.array([[10.0 * (i // 4) + i % 4, 0.5 * i, i - 3.0] for i in range(N)], pa.list_(pa.float32()))
    path = save(tmp_path / "v.parquet", table(x=None, y=None, v=None, state=vectors))
    assert stored(path, columns={**MAP, "observation": {"state": ["state"]}}) == EXPECTED
    for ragged in (
        [[1.0, 2.0]] * (N - 1) + [[1.0]],
        [[1.0, 2.0], [3.0], [4.0, 5.0, 6.0]] + [[7.0, 8.0]] * (N - 3),  # as many numbers as if all had two
        [[1.0, 2.0], None, [4.0, 5.0, 6.0, 7.0]] + [[7.0, 8.0]] * (N - 3),
    ):
        path = save(tmp_path / "ragged.parquet", table(state=pa.array(ragged, pa.list_(pa.float32()))))
        with pytest.raises(SourceFormatError, match=r"column 'state' .*unequal length"):
            ingest(path, tmp_path / "other", columns={**MAP, "observation": ["state"]})


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"reward": "rr"}, "no column 'rr' for reward; did you mean 'r'"),
        ({"action": ["fxx"]}, "no column 'fxx' for action; did you mean 'fx'"),
        ({"observation": {"position": ["xs"]}}, "no column 'xs' for observation 'position'; did you mean 'x'"),
        ({"truncate": "timeout"}, "no role 'truncate'; did you mean 'truncated'"),
        ({"action": "fx"}, "action must be a list of column names"),
        ({"action_low": [-1]}, "one of action_low and action_high"),
        ({"observation": []}, "observation must be a list"),
        ({"observation": ["x", "x"]}, "observation names column 'x' twice"),
        ({"observation": {"position": ["x"], "again": ["v", "x"]}}, "observation names column 'x' twice"),
        ({"action_low": [1], "action_high": [-1]}, "column map columns: action_low[0] is 1 and action_high[0] -1"),
        ({"action_low": [1], "action_high": [2, 3]}, "action_low has 1 numbers, action_high 2"),
    ],
)
def test_a_wrong_map_is_refused_with_the_nearest_name(changed: dict[str, Any], words: str, path: Path) -> None:
    save(path, table())
    with pytest.raises(IngestError) as caught:
        ingest(path, path.parent / "store", columns={**MAP, **changed})
    assert words in str(caught.value)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_log_without_a_map_says_what_is_needed(path: Path) -> None:
    save(path, table())
    with pytest.raises(IngestError, match="needs a column map"):
        ingest(path, path.parent / "store")
    with pytest.raises(IngestError, match="nothing tells episodes apart"):
        ingest(path, path.parent / "store", columns={"observation": ["x"], "action": ["fx"], "reward": "r"})


def test_bad_rows_are_named(path: Path) -> None:
    time, runs, rewards = np.tile(np.arange(4.0), 3), np.repeat(["a", "b", "a"], 4), np.arange(N, dtype=float)
    time[6] = 0.5
    rewards[5] = np.nan
    for changed, kind, words in (
        ({"t": time}, SourceFormatError, "at its step 2 the time goes from 1 to 0.5"),
        ({"run": runs}, SourceFormatError, "row 8: episode a comes back"),
        ({"r": rewards}, SourceValueError, "column 'r' in row 5 is empty or NaN"),
        ({"x": pa.array([None, *range(1, N)])}, SourceValueError, "column 'x' in row 0 is empty or NaN"),
        ({"v": np.where(np.arange(N) == 6, np.inf, 0)}, SourceValueError, "column 'v' in row 6 is inf"),
        ({"fx": np.where(np.arange(N) == 6, np.nan, 0)}, SourceFormatError, "column 'fx' in row 6 is empty or NaN"),
        ({"done": np.repeat(["0", "perhaps"], N // 2)}, SourceFormatError, "row 6: 'done' is 'perhaps'"),
        ({"x": np.repeat("left", N)}, SourceFormatError, "column 'x'"),
    ):
        save(path, table(**changed))
        with pytest.raises(kind) as caught:
            ingest(path, path.parent / "store", columns=MAP)
        assert words in str(caught.value), str(caught.value)
        assert "\n" not in str(caught.value)
        assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_unreadable_csv_lines_are_named_by_row_and_column(tmp_path: Path) -> None:
    path = save(tmp_path / "log.csv", table())
    lines = path.read_text().splitlines()
    columns = {**MAP, "observation": ["y", "x"]}
    for row, line, words in (
        (4, lines[5].replace("10", "left"), "row 4: column 'x' holds no number (invalid value 'left'); correct it"),
        (2, lines[3] + ",1", "row 2: Expected 11 columns, got 12"),
    ):
        path.write_text("\n".join([*lines[: row + 1], line, *lines[row + 2 :]]) + "\n")
        with pytest.raises(SourceFormatError, match=re.escape(words)):
            ingest(path, tmp_path / "store", columns=columns)
    path.write_text(lines[0] + "\n")
    with pytest.raises(SourceFormatError, match="has columns but no row"):
        ingest(path, tmp_path / "store", columns=columns)
    path.write_text("")
    with pytest.raises(SourceFormatError, match=r"log.csv cannot be read \(Empty CSV file\); needed are"):
        ingest(path, tmp_path / "store", columns=columns)


def test_another_environments_layout_is_refused(path: Path) -> None:
    save(path, table())
    pendulum = {"id": "Pendulum-v1"}
    bounds = {"action_low": [-2], "action_high": [2]}
    for given in ({}, bounds):
        with pytest.raises(SourceFormatError, match="observations has 2 columns but environment Pendulum-v1 has 3"):
            ingest(path, path.parent / "store", columns={**MAP, **given, "observation": ["x", "y"]}, env=pendulum)
    assert ingest(path, path.parent / "store", columns=MAP, env=pendulum)["action_high"] == [2.0]


# LeRobot


def lerobot(folder: Path, drop: tuple[str, ...] = (), **info: Any) -> Path:
    """A LeRobot v3 folder of three episodes of four frames in two files, the second episode across both."""
    state = [[10.0 * (i // 4) + i % 4, 0.5 * i] for i in range(N)]
    columns = {
        "observation.state": pa.array(state, pa.list_(pa.float32(), 2)),
        "observation.effort": pa.array(np.arange(N, dtype=np.float32)),
        "action": pa.array([[30.0 * i, -1.0] for i in range(N)], pa.list_(pa.float32(), 2)),
        "episode_index": np.repeat(np.arange(3), 4),
        "frame_index": np.tile(np.arange(4), 3),
        "timestamp": np.tile(np.arange(4) / 30, 3).astype(np.float32),
        "next.done": np.arange(N) % 4 == 3,
        "next.reward": (np.arange(N) == 3).astype(np.float32),
        "index": np.arange(N),
        "task_index": np.zeros(N, np.int64),
        **{name: info.pop(name) for name in ("next.success",) if name in info},
    }
    data = pa.table({name: column for name, column in columns.items() if name not in drop})
    features: dict[str, Any] = {
        name: {"dtype": "float32", "shape": [2] if name in ("observation.state", "action") else [1]}
        for name in data.column_names
    }
    features["observation.images.top"] = {"dtype": "video", "shape": [48, 64, 3]}
    for number, part in enumerate((data.slice(0, 6), data.slice(6))):
        path = folder / f"data/chunk-000/file-00{number}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pa.parquet.write_table(part, path)
    described = {"codebase_version": "v3.0", "robot_type": "so100", "fps": 30, "total_episodes": 3, "total_frames": N}
    (folder / "meta").mkdir(exist_ok=True)
    (folder / "meta/info.json").write_text(json.dumps({**described, "features": features, **info}))
    return folder


def test_a_lerobot_folder_is_taken_without_its_videos(tmp_path: Path) -> None:
    folder = lerobot(tmp_path / "so100")
    assert stored(folder) == [
        ([0, 1, 2, 3, 3], [0, 0, 0, 1], True, False),
        ([10, 11, 12, 13], [0, 0, 0], False, True),
        ([20, 21, 22, 23], [0, 0, 0], False, True),
    ]
    store = Store.open(tmp_path / "so100.store")
    assert [(t.name, t.length) for t in store.spec.observation] == [("state", 2), ("effort", 1)]
    assert (store.spec.action_low, store.spec.action_high) == ((0.0, -2.0), (330.0, 0.0))
    assert store.spec.source is not None
    assert (store.spec.source["robot_type"], store.spec.source["fps"]) == ("so100", 30)
    found = ingest(folder, tmp_path / "unused", dry_run=True)
    assert found["mended"]["image_features_skipped"] == 1
    assert (found["episodes"], found["steps"], found["refused"]) == (3, 10, [])
    assert not (tmp_path / "unused").exists()


def test_lerobot_keys_are_chosen_and_what_is_missing_is_counted(tmp_path: Path) -> None:
    folder = lerobot(tmp_path / "bare", drop=("next.done", "next.reward"))
    outcome = ingest(folder, tmp_path / "store", observation_keys=["effort"])
    assert [term["name"] for term in outcome["observation"]] == ["effort"]
    assert (outcome["truncated"], outcome["steps"]) == (3, 9)
    assert outcome["mended"]["steps_without_reward"] == N
    for key, words in (("images.top", "is an image"), ("stat", "did you mean 'state'")):
        with pytest.raises(SourceFormatError) as caught:
            ingest(folder, tmp_path / "other", observation_keys=[key])
        assert words in str(caught.value)


def test_without_next_done_the_last_frames_success_says_how_a_lerobot_episode_ended(tmp_path: Path) -> None:
    success = np.isin(np.arange(N), (2, 3, 5))  # for two frames to the end of the first, in the midst of the second
    folder = lerobot(tmp_path / "so100", drop=("next.done",), **{"next.success": success})
    rewards = [[0, 0, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert stored(folder) == [
        ([0, 1, 2, 3, 3], rewards[0], True, False),
        ([10, 11, 12, 13], rewards[1], False, True),
        ([20, 21, 22, 23], rewards[2], False, True),
    ]
    last = lerobot(tmp_path / "last", drop=("next.done",), **{"next.success": np.arange(N) % 4 == 3})
    assert [each[2] for each in stored(last, terminate_on="success")] == [True] * 3


def test_a_damaged_or_old_lerobot_folder_is_refused(tmp_path: Path) -> None:
    for number, (change, words) in enumerate(
        (
            ({"codebase_version": "v2.1"}, "convert_dataset_v21_to_v30"),
            ({"total_frames": 13}, "holds 12 frames, meta/info.json says 13"),
            ({"features": {}}, "no vector feature"),
            ({"features": ["action"]}, "'features' is no table"),
            ({"features": {"action": {"shape": [2]}}}, "feature 'action' is {\"shape\": [2]}; it needs a dtype"),
            ({"features": {"action": {"dtype": "float32", "shape": "2"}}}, "as shape a list of whole numbers"),
        )
    ):
        folder = lerobot(tmp_path / str(number), **change)
        with pytest.raises(SourceFormatError) as caught:
            ingest(folder, tmp_path / "store")
        assert words in str(caught.value)
    with pytest.raises(SourceFormatError, match="observations has 2 columns but environment Pendulum-v1 has 3"):
        ingest(lerobot(tmp_path / "so100"), tmp_path / "store", observation_keys=["state"], env={"id": "Pendulum-v1"})
    folder = lerobot(tmp_path / "cut")
    file = folder / "data/chunk-000/file-001.parquet"
    file.write_bytes(file.read_bytes()[:-300])
    with pytest.raises(SourceFormatError, match=r"file-001.parquet cannot be opened as Parquet"):
        ingest(folder, tmp_path / "store")
    with pytest.raises(SourceFormatError, match=r"has no column 'action'"):
        ingest(lerobot(tmp_path / "inactive", drop=("action",)), tmp_path / "store")
