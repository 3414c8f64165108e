"""What the board says reaches status.json and the pace lines: ages, waits, pauses; also on a full disk."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from agent import run_status, staleness
from agent.board import Board, CollectorSlot, Pause, Phase, Slot
from agent.config import OnlineConfig, TrainConfig
from agent.files import SwappedFile, read_lines
from agent.incidents import Incidents
from agent.pacer import Pacer
from agent.run_directory import RunDirectory
from agent.run_status import RunStatus
from tests.faults.test_full_disk_training import fill
from tests.small_disk import mounted


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    (tmp_path / "run").mkdir()
    return RunDirectory(tmp_path / "run")


def test_quantiles_of_staleness_are_those_of_the_steps_rounded_up_by_a_quarter() -> None:
    rng = np.random.default_rng(0)
    counts = np.zeros((2, staleness.BUCKETS), np.int64)
    versions, seconds = rng.poisson(1.5, 4000), rng.lognormal(-2.0, 1.0, 4000)
    for row, (behind, age) in enumerate(zip(versions, seconds, strict=True)):
        staleness.note(counts[row % 2], versions=int(behind), seconds=float(age))
    found = staleness.quantiles(counts)
    for percent in (50, 99):
        exact = float(np.quantile(versions, percent / 100, method="inverted_cdf"))
        assert found[f"staleness_versions_p{percent}"] == exact
        exact = float(np.quantile(seconds, percent / 100))
        assert exact * 0.99 <= found[f"staleness_seconds_p{percent}"] <= exact * 1.26
    assert staleness.quantiles(np.zeros(staleness.BUCKETS, np.int64)) == {}


def test_status_and_pace_tell_what_each_side_waited(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_status, "PACE_SECONDS", 0.2)
    board = Board(run.board)
    status = RunStatus(run, TrainConfig(), board)
    board[Slot.PHASE] = Phase.ONLINE
    status.write(collectors=2, switch=None, force=True)
    started = time.monotonic()
    time.sleep(0.3)
    board[Slot.LEARNER_WAIT_NS] += int(0.06e9)
    board.collector(0)[CollectorSlot.WAIT_NS] += int(0.3e9)
    board.collector(0)[CollectorSlot.STEPS] += 30
    board.collector(1)[CollectorSlot.PAUSE] = Pause.STALE_POLICY
    for _ in range(30):
        staleness.note(board.staleness[1], versions=3, seconds=0.5)
    status.write(collectors=2, switch={"suggested": "safe"}, force=True)
    longest = time.monotonic() - started
    written = json.loads(run.status.read_text())
    (line,) = read_lines(run.metrics)
    assert line["kind"] == "pace"
    assert 0.06 / longest * 0.99 <= written["learner_wait_fraction"] == line["learner_wait_fraction"] <= 0.2
    # One of two collectors waited all the time.
    assert 0.15 / longest * 0.99 <= written["collector_wait_fraction"] <= 0.5
    assert 30 / longest * 0.99 <= line["steps_per_second"] <= 100
    assert (written["staleness_versions_p99"], line["online_steps"]) == (3.0, 30)
    assert [collector["paused"] for collector in written["collectors"]] == ["none", "stale policy"]
    assert written["switch"] == {"suggested": "safe"}


def test_collection_pauses_while_no_policy_is_published_and_goes_on_with_the_next(run: RunDirectory) -> None:
    board, slots = Board(run.board), Board(run.board).collector(0)
    config = TrainConfig(online_steps=100, online=OnlineConfig(max_staleness_seconds=0.2, envs_per_collector=3))
    pacer = Pacer(board, config, Incidents(run), slots)
    board[Slot.POLICY_VERSION], board[Slot.PUBLISHED_NS] = 1, time.monotonic_ns()
    board[Slot.PHASE] = Phase.ONLINE
    assert pacer.due() == 3
    time.sleep(0.25)
    assert [pacer.due(), pacer.due()] == [0, 0]
    assert slots[CollectorSlot.PAUSE] == Pause.STALE_POLICY
    board[Slot.PUBLISHED_NS] = time.monotonic_ns()
    assert pacer.due() == 3
    assert slots[CollectorSlot.PAUSE] == Pause.NONE
    assert [event["kind"] for event in read_lines(run.events)] == ["collection_paused", "collection_resumed"]


def test_the_frozen_policy_of_the_warm_up_is_not_stale_and_phases_end_to_the_step(run: RunDirectory) -> None:
    board, slots = Board(run.board), Board(run.board).collector(0)
    online = OnlineConfig(warmup_steps=10, max_staleness_seconds=1e-3, envs_per_collector=4)
    pacer = Pacer(board, TrainConfig(online_steps=100, online=online), Incidents(run), slots)
    board[Slot.POLICY_VERSION], board[Slot.PUBLISHED_NS] = 1, 1
    board[Slot.PHASE] = Phase.WARMUP
    taken = []
    while due := pacer.due():
        taken.append(due)
        slots[CollectorSlot.STEPS] += due
    assert taken == [4, 4, 2]


def test_a_small_file_is_replaced_on_a_full_disk_and_never_seen_by_halves(tmp_path: Path) -> None:
    with mounted(tmp_path, "1m", instead="; no other disk here is full") as disk:
        file = SwappedFile(disk / "status.json")
        for number in range(2):
            file.write(json.dumps({"number": number, "filler": "x" * 3000}).encode())
        fill(disk / "filler")
        with pytest.raises(OSError, match="No space"):
            (disk / "other").write_bytes(bytes(5000))
        for number in range(2, 20):
            file.write(json.dumps({"number": number, "filler": "x" * (3000 - number)}).encode())
            assert json.loads((disk / "status.json").read_text())["number"] == number
        with pytest.raises(OSError, match="No space"):
            file.write(bytes(20_000))
        assert json.loads((disk / "status.json").read_text())["number"] == 19
