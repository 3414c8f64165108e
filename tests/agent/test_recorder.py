"""What a deployment records is what happened: executed actions, no transition across a gap, no step that blocks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.deploying import STREAM, StoreRecorder, spec_of_contract
from export.control_loop import ControlLoop, Reading
from export.onnx_writer import export_policy
from export.runner import PolicyRunner
from replay.ingest import ingest
from replay.store import Store
from tests.export.policies import ACT, OBS, make_contract, make_network
from tests.small_disk import mounted


@pytest.fixture(scope="module")
def policy() -> bytes:
    return export_policy(make_network(), log_std=None, contract=make_contract())


@pytest.fixture
def runner(policy: bytes) -> PolicyRunner:
    return PolicyRunner(policy)


class Counter:
    """Its observation is its count of readings; `on_read` may change a reading."""

    def __init__(self, on_read: Callable[[int], dict[str, Any] | None] = lambda n: None, *, lockstep: bool = False):
        self.on_read, self.lockstep = on_read, lockstep
        self.reads = 0
        self.written: list[np.ndarray] = []

    def read(self) -> Reading:
        self.reads += 1
        changes = self.on_read(self.reads) or {}
        observation = np.full(OBS, float(self.reads), np.float32)
        return Reading(**{"observation": observation, "t_mono": time.monotonic(), **changes})

    def write(self, action: np.ndarray) -> None:
        self.written.append(action.copy())

    def safe_stop(self) -> None:
        pass

    def close(self) -> None:
        pass


def transitions(path: Path) -> np.ndarray:
    """[N, 2]: each stored transition's observation and next observation, by their first entry."""
    pairs = [
        np.stack([episode.observations[:-1, 0], episode.observations[1:, 0]], axis=1)
        for episode in Store.open(path).episodes()
    ]
    return np.concatenate(pairs) if pairs else np.zeros((0, 2))


def test_a_row_says_what_was_done_and_what_was_thought(runner: PolicyRunner, tmp_path: Path) -> None:
    recorder = StoreRecorder(tmp_path / "r.zarr", runner.contract)
    robot = Counter()
    ControlLoop(robot, runner, hz=None, recorder=recorder, max_steps=50).run()
    recorder.close()
    (episode,) = Store.open(tmp_path / "r.zarr").episodes()
    assert recorder.recorded == len(episode.rewards) == 49 and episode.interrupted
    np.testing.assert_array_equal(episode.actions, robot.written[:49])
    raw = np.stack([episode.info[f"raw_{i}"] for i in range(ACT)], axis=1)
    np.testing.assert_array_equal(raw, [runner.infer(row)[1] for row in episode.observations[:-1]])
    assert (episode.info["latency_s"] > 0).all() and not episode.info["flags"].any()
    assert (episode.policy_version == 7).all()
    reader = Store.open(tmp_path / "r.zarr").reader()
    meta = reader.meta(STREAM, 0, 49)
    assert (np.diff(meta[:, 2]) > 0).all() and abs(meta[0, 1] - time.time_ns()) < 60e9
    reader.close()


def test_what_a_person_did_instead_is_recorded_as_an_intervention(runner: PolicyRunner, tmp_path: Path) -> None:
    done = np.full(ACT, 0.05, np.float32)
    robot = Counter(lambda n: {"executed": done} if n == 4 else None)
    recorder = StoreRecorder(tmp_path / "r.zarr", runner.contract)
    ControlLoop(robot, runner, hz=None, recorder=recorder, max_steps=8).run()
    recorder.close()
    store = Store.open(tmp_path / "r.zarr")
    reader = store.reader()
    rows = reader.rows(STREAM, 0, 7)
    assert rows[:, store.spec.offsets["intervention"]].tolist() == [0, 0, 1, 0, 0, 0, 0]
    np.testing.assert_array_equal(rows[2, store.spec.fields["action"]], done)
    reader.close()
    nonsense = Counter(lambda n: {"executed": np.full(ACT, np.nan)} if n >= 4 else None)
    report = ControlLoop(nonsense, runner, hz=None, max_steps=50).run()
    assert report["state"] == "LATCHED" and report["faults"] == {"READ": 6}


def test_no_transition_spans_missed_deadlines(runner: PolicyRunner, tmp_path: Path) -> None:
    def late(n: int) -> None:
        time.sleep(0.1 if n in (20, 40) else 0.0)

    for lockstep in (False, True):
        path = tmp_path / f"{lockstep}.zarr"
        recorder = StoreRecorder(path, runner.contract)
        robot = Counter(late, lockstep=lockstep)
        report = ControlLoop(robot, runner, hz=50.0, recorder=recorder, max_steps=60).run()
        recorder.close()
        assert report["overruns"] >= 2
        assert recorder.recorded + report["recording_gaps"] == 59 == recorder.recorded + (59 - len(transitions(path)))
        stored = transitions(path)
        assert (stored[:, 1] == stored[:, 0] + 1).all()
        if lockstep:
            assert report["recording_gaps"] == 0
        else:
            # The reading was late, so the deadline after it was missed: the step from it led further than a period.
            assert report["recording_gaps"] >= 2 and not {20.0, 40.0} & set(stored[:, 0])


def test_faults_break_the_recording(runner: PolicyRunner, tmp_path: Path) -> None:
    nan = {"observation": np.full(OBS, np.nan, np.float32)}
    recorder = StoreRecorder(tmp_path / "r.zarr", runner.contract)
    robot = Counter(lambda n: nan if n in (10, 11, 30) else None)
    report = ControlLoop(robot, runner, hz=None, recorder=recorder, max_steps=50).run()
    recorder.close()
    assert report["held_steps"] == 3
    expected = [(n, n + 1) for n in range(1, 50) if not {n, n + 1} & {10, 11, 30}]
    assert transitions(tmp_path / "r.zarr").tolist() == [list(pair) for pair in expected]


def test_a_queue_that_overflows_loses_steps_and_joins_nothing(runner: PolicyRunner, tmp_path: Path) -> None:
    recorder = StoreRecorder(tmp_path / "r.zarr", runner.contract, queue_steps=4)
    append, slow = recorder._writer.append, iter([0.2])
    recorder._writer.append = lambda *a, **k: (time.sleep(next(slow, 0.0)), append(*a, **k))[1]  # type: ignore[method-assign]
    began = time.monotonic()
    robot = Counter(lambda n: time.sleep(1e-3))
    report = ControlLoop(robot, runner, hz=None, recorder=recorder, max_steps=400).run()
    recorder.close()
    assert report["latency_us"]["p99"] < 100_000 and time.monotonic() - began < 10
    assert recorder.lost > 0 and recorder.recorded + recorder.lost == 399
    stored = transitions(tmp_path / "r.zarr")
    assert len(stored) == recorder.recorded and (stored[:, 1] == stored[:, 0] + 1).all()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    with mounted(disk, "1m"):
        yield disk


def test_on_a_full_disk_the_flight_goes_on_and_what_is_lost_is_counted(
    runner: PolicyRunner, small_disk: Path, tmp_path: Path
) -> None:
    path, filler = small_disk / "r.zarr", small_disk / "filler"
    Store.create(path, spec_of_contract(runner.contract), chunk_rows=512)
    filler.write_bytes(bytes(600_000))
    recorder = StoreRecorder(path, runner.contract)

    def free(n: int) -> None:
        if n == 4000:
            while not recorder.lost:
                time.sleep(0.01)
            filler.unlink()

    robot = Counter(free)
    report = ControlLoop(robot, runner, hz=None, recorder=recorder, max_steps=4500).run()
    recorder.close()
    assert report["state"] == "OK" and report["steps"] == 4500 and report["recorder_errors"] == 0
    assert recorder.lost > 0 and recorder.recorded + recorder.lost == 4499
    assert "No space left" in str(recorder.error)
    stored = transitions(path)
    assert len(stored) == recorder.recorded and (stored[:, 1] == stored[:, 0] + 1).all()
    assert stored[:, 0].max() > 4000, "it did not record again after space was freed"
    first, again = (ingest(str(path), tmp_path / "data.zarr") for _ in range(2))
    assert (first["steps"], first["already"], again["already"]) == (recorder.recorded, False, True)


def test_a_store_with_other_columns_is_continued(runner: PolicyRunner, tmp_path: Path) -> None:
    spec = spec_of_contract(runner.contract)
    other = type(spec).from_terms(spec.terms(), spec.action_low, spec.action_high, info=("success", "flags"))
    Store.create(tmp_path / "r.zarr", other)
    recorder = StoreRecorder(tmp_path / "r.zarr", runner.contract)
    ControlLoop(Counter(), runner, hz=None, recorder=recorder, max_steps=10).run()
    recorder.close()
    (episode,) = Store.open(tmp_path / "r.zarr").episodes()
    assert set(episode.info) == {"success", "flags"} and recorder.lost == 0
