"""Experiment trackers: the real packages where they are installed, each without account or network."""

from __future__ import annotations

import importlib.util
import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent.config import TrainConfig
from agent.errors import ConfigError
from agent.files import append_line, read_lines
from agent.run_directory import RunDirectory
from agent.trackers import tracking
from agent.trackers.follow import follow, scalars

NAMES = ("wandb", "trackio", "mlflow")
MISSING = [name for name in NAMES if importlib.util.find_spec(name) is None]


def train_line(updates: int) -> dict[str, Any]:
    return {"time": 1.0, "kind": "train", "phase": "offline", "updates": updates, "value_loss": 1 / updates}


def make_run(folder: Path, tracker: Any) -> RunDirectory:
    run = RunDirectory(folder / "door")
    run.save_config(TrainConfig(out=run.path, tracker=tracker))
    return run


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def offset(run: RunDirectory) -> int:
    memory = run.path / "tracker.json"
    return int(json.loads(memory.read_text())["offset"]) if memory.exists() else -1


def leveldb_records(log: bytes) -> Iterator[bytes]:
    """Records of a LevelDB log, which wandb's offline files are behind their header of 7 bytes."""
    at, parts = 7, b""
    log = bytes(7) + log
    while at + 7 <= len(log):
        if 32_768 - at % 32_768 < 7:
            at += 32_768 - at % 32_768
            continue
        _, length, kind = struct.unpack_from("<IHB", log, at)
        parts += log[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield parts
            parts = b""


def stored(tracker: str, run: RunDirectory) -> list[tuple[int, float]]:
    """(updates, value loss) as the tracker itself gives them back."""
    if tracker == "mlflow":
        from mlflow import MlflowClient

        client = MlflowClient(f"sqlite:///{run.path / 'mlflow.db'}")
        found = client.search_runs([client.get_experiment_by_name("slipway").experiment_id])
        assert [each.info.run_name for each in found] == ["door"] and found[0].data.params["seed"] == "0"
        history = client.get_metric_history(found[0].info.run_id, "train/value_loss")
        return [(point.step, point.value) for point in history]
    if tracker == "trackio":
        script = (
            "import json; from trackio.sqlite_storage import SQLiteStorage as S;"
            "print(json.dumps([[r['step'], r['train/value_loss']] for r in S.get_logs('slipway', 'door')"
            " if 'train/value_loss' in r]))"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        return [(step, value) for step, value in json.loads(done.stdout.splitlines()[-1])]
    from wandb.proto import wandb_internal_pb2

    points = []
    for file in sorted(run.path.glob("wandb/offline-run-*/*.wandb")):
        for data in leveldb_records(file.read_bytes()[7:]):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            row = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            if "train/value_loss" in row:
                points.append((int(float(row["updates"])), float(row["train/value_loss"])))
    return points


@pytest.mark.parametrize("tracker", NAMES)
def test_every_figure_reaches_the_tracker_once_and_a_resume_goes_on_in_the_same_run(
    tracker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if tracker in MISSING:
        pytest.skip(f"{tracker} is not installed")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    run = make_run(tmp_path, tracker)
    append_line(run.metrics, train_line(100))
    for start, first in enumerate((200, 400)):
        with tracking(run, tracker):
            append_line(run.metrics, train_line(first))
            wait_for(lambda: offset(run) >= run.metrics.stat().st_size)
            # The last line is handed over although the training ends right after it.
            append_line(run.metrics, train_line(first + 100))
        assert offset(run) == run.metrics.stat().st_size
        expected = [(u, pytest.approx(1 / u)) for u in (100, 200, 300, 400, 500)[: 3 + 2 * start]]
        assert stored(tracker, run) == expected
    assert read_lines(run.events) == []


@pytest.mark.skipif(not MISSING, reason="every tracker is installed")
def test_a_missing_package_is_named_before_anything_begins(tmp_path: Path) -> None:
    run = make_run(tmp_path, MISSING[0])
    with pytest.raises(ConfigError, match=f"needs the package {MISSING[0]}: pip install {MISSING[0]}"):  # noqa: SIM117
        with tracking(run, MISSING[0]):
            raise AssertionError("the training began")


def test_a_tracker_that_breaks_costs_an_event_and_nothing_else(tmp_path: Path) -> None:
    run = make_run(tmp_path, "wandb")
    (run.path / "tracker.json").write_text("no JSON")
    command = [sys.executable, "-m", "agent.trackers.follow", str(run.path), str(os.getpid())]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "Traceback" in done.stderr
    events = read_lines(run.events)
    assert [event["kind"] for event in events] == ["tracker_failed"]
    assert events[0]["message"].endswith("the training goes on without it")


def test_only_numbers_are_handed_over_named_by_kind_and_label() -> None:
    assert scalars({**train_line(500), "note": "text", "ok": True, "wait_seconds": 2}) == {
        "train/value_loss": 0.002, "train/wait_seconds": 2.0,
    }  # fmt: skip
    evaluation = {"time": 1.0, "kind": "evaluation", "label": "curve", "updates": 9, "mean": 0.5, "ci": [0, 1]}
    assert scalars(evaluation) == {"evaluation/curve/mean": 0.5}


def test_lines_about_pace_stand_at_the_learners_updates_also_after_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[tuple[str, int]] = []

    class Noting:
        id = "1"

        def log(self, values: dict[str, float], step: int) -> None:
            logged.extend((name, step) for name in values)

        def close(self) -> None:
            pass

    module = SimpleNamespace(open_run=lambda **_: Noting())
    monkeypatch.setitem(sys.modules, "agent.trackers.noting_tracker", module)
    run, pace = make_run(tmp_path, "wandb"), {"time": 1.0, "kind": "pace", "steps_per_second": 9.0}
    older = {"time": 1.0, "kind": "evaluation", "label": "curve", "updates": 100, "mean": 0.5}
    for lines in ((train_line(400), older, pace), (pace, train_line(500), pace)):
        for line in lines:
            append_line(run.metrics, line)
        follow(run, TrainConfig(tracker="noting"), lambda: True)  # type: ignore[arg-type]
    assert logged == [
        ("train/value_loss", 400), ("evaluation/curve/mean", 100), ("pace/steps_per_second", 400),
        ("pace/steps_per_second", 400), ("train/value_loss", 500), ("pace/steps_per_second", 500),
    ]  # fmt: skip
