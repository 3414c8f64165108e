"""A loop that stalls or dies is stopped from another process; one that runs is left alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from export.control_loop import ControlLoop
from export.errors import ExportError
from export.runner import PolicyRunner
from export.watchdog import Watchdog
from replay.ingest import ingest
from replay.store import Store
from tests.export.hardware import Hardware

ROOT = Path(__file__).parents[2]
TIMEOUT = 0.6
"""Seconds; far above what a busy machine takes from a loop at 50 Hz."""
SLACK = 1.5
ROBOT = "tests.export.hardware:make_robot"
STOP = "tests.export.hardware:watchdog_stop"


@pytest.fixture
def hardware(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HARDWARE", str(tmp_path))
    monkeypatch.chdir(ROOT)
    return tmp_path


def marks(hardware: Path, name: str) -> list[tuple[str, float]]:
    path = hardware / name
    lines = path.read_text().splitlines() if path.exists() else []
    return [(line.split()[0], float(line.split()[1])) for line in lines]


def stops(hardware: Path) -> list[str]:
    return [who for who, _ in marks(hardware, "stops")]


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


class Flight:
    """`slipway deploy` in a process of its own."""

    def __init__(self, bundle: Path, *arguments: object) -> None:
        command = ["deploy", bundle, "--robot", ROBOT, "--rate", 50, "--json", *arguments]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "agent.cli", *map(str, command)],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def end(self) -> dict[str, Any]:
        out, err = self.process.communicate(timeout=60)
        assert out, err
        report: dict[str, Any] = json.loads(out)
        return report

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def fly(pristine_bundle: Path, hardware: Path) -> Iterator[Callable[..., Flight]]:
    flights = []

    def start(*arguments: object) -> Flight:
        flights.append(Flight(pristine_bundle, *arguments))
        wait_for(lambda: len(marks(hardware, "writes")) >= 10 or flights[-1].process.poll() is not None)
        return flights[-1]

    yield start
    for flight in flights:
        flight.kill()


def test_a_stopped_loop_is_noticed_within_the_timeout_and_latches_when_it_wakes(
    fly: Callable[..., Flight], hardware: Path
) -> None:
    flight = fly("--watchdog", "--watchdog-timeout", TIMEOUT, "--record", hardware / "flight.zarr")
    wait_for(lambda: len(marks(hardware, "writes")) >= 60)
    assert stops(hardware) == []
    flight.process.send_signal(signal.SIGSTOP)
    wait_for(lambda: stops(hardware), TIMEOUT + SLACK)
    (_, stopped), (_, last) = marks(hardware, "stops")[0], marks(hardware, "writes")[-1]
    assert stops(hardware)[0] == "watchdog"
    assert TIMEOUT - 0.05 < stopped - last < TIMEOUT + SLACK
    # A recording of a stopped process is readable as far as it got.
    assert 0 < Store.open(hardware / "flight.zarr").num_steps < len(marks(hardware, "writes"))
    flight.process.send_signal(signal.SIGCONT)
    report = flight.end()
    assert flight.process.returncode == 1
    assert report["state"] == "LATCHED" and report["faults"]["WATCHDOG"] == 1
    assert report["watchdog"]["alarmed"] and "watchdog stopped the robot" in report["reason"]
    late = [at for _, at in marks(hardware, "writes") if at > stopped]
    assert len(late) <= 1, "the loop drove on after the alarm"
    assert stops(hardware)[-1] == "loop"


def test_a_killed_loop_is_stopped_at_once_and_its_recording_is_whole(
    fly: Callable[..., Flight], hardware: Path
) -> None:
    flight = fly("--watchdog", "--watchdog-timeout", 30, "--record", hardware / "flight.zarr")
    wait_for(lambda: len(marks(hardware, "writes")) >= 40)
    killed = time.monotonic()
    flight.kill()
    wait_for(lambda: stops(hardware), SLACK)
    assert stops(hardware) == ["watchdog"]
    assert marks(hardware, "stops")[0][1] - killed < SLACK
    store = Store.open(hardware / "flight.zarr")
    recorded = store.num_steps
    assert recorded > 10
    assert sum(len(episode.rewards) for episode in store.episodes()) == recorded
    # The stream is continued, and what both flights left is taken back: once.
    report = fly("--steps", 30, "--record", hardware / "flight.zarr").end()
    assert report["state"] == "OK" and report["watchdog"] is None
    assert report["recorded"] + report["recording_gaps"] == 29
    first = ingest(str(hardware / "flight.zarr"), hardware / "data.zarr")
    again = ingest(str(hardware / "flight.zarr"), hardware / "data.zarr")
    assert (first["already"], again["already"]) == (False, True)
    assert recorded <= first["steps"] - report["recorded"] <= recorded + 1
    episode = next(iter(Store.open(hardware / "data.zarr").episodes()))
    assert set(episode.info) == {"latency_s", "flags", *(f"raw_{i}" for i in range(6))}
    assert (episode.info["latency_s"] > 0).all() and (episode.policy_version == 7).all()


def test_a_healthy_flight_raises_no_alarm(fly: Callable[..., Flight], hardware: Path) -> None:
    flight = fly("--watchdog", "--watchdog-timeout", 2, "--steps", 150)
    report = flight.end()
    assert report["state"] == "OK" and flight.process.returncode == 0
    assert report["watchdog"] == {"timeout_s": 2.0, "alarmed": False, "feeds": 150}
    assert stops(hardware) == ["loop"]


def test_it_is_armed_by_the_first_feed_and_disarmed_by_a_stop(hardware: Path) -> None:
    with Watchdog(STOP, timeout_s=0.1) as watchdog:
        time.sleep(0.25)
        watchdog.feed()
        watchdog.disarm()
        time.sleep(0.25)
        assert not watchdog.alarmed and stops(hardware) == []
        watchdog.feed()
        wait_for(lambda: stops(hardware), SLACK)
        assert watchdog.alarmed and "no write for 0.1 s" in (watchdog.trouble() or "")
        # A write that was under way when the alarm came is answered by another stop.
        watchdog.feed()
        wait_for(lambda: len(stops(hardware)) == 2, SLACK)
        watchdog.reset()
        assert watchdog.trouble() is None
        watchdog.feed()
        wait_for(lambda: len(stops(hardware)) == 3, SLACK)
        watchdog.reset()
    assert stops(hardware) == ["watchdog"] * 3


def test_a_safe_stop_that_raises_is_the_watchdogs_business(hardware: Path, pristine_bundle: Path) -> None:
    class Jammed(Hardware):
        def safe_stop(self) -> None:
            raise OSError("brake is jammed")

    with Watchdog(STOP, timeout_s=30.0) as watchdog:
        report = ControlLoop(Jammed(), PolicyRunner(pristine_bundle), hz=None, watchdog=watchdog, max_steps=5).run()
    assert report["reason"] == "safe_stop raised: brake is jammed"
    assert stops(hardware) == ["watchdog"]


def test_without_a_stop_function_the_watchdogs_own_robot_stops(hardware: Path) -> None:
    with Watchdog("tests.export.hardware:Chatty", timeout_s=0.1, factory=True) as watchdog:
        watchdog.feed()
        wait_for(lambda: stops(hardware) == ["loop"], SLACK)
        watchdog.reset()


def test_a_stop_that_fails_is_tried_again(hardware: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with Watchdog("tests.export.hardware:refuse", timeout_s=0.1) as watchdog:
        watchdog.feed()
        wait_for(lambda: stops(hardware) == ["attempt"] * 3, SLACK)
        watchdog.reset()
    assert "attempt 3 to stop the robot failed: bus is down" in capfd.readouterr().err


def test_a_watchdog_that_died_is_trouble(hardware: Path) -> None:
    with Watchdog(STOP, timeout_s=1.0) as watchdog:
        assert watchdog.trouble() is None
        os.kill(watchdog._process.pid, signal.SIGKILL)
        wait_for(lambda: watchdog.trouble() is not None, 5.0)
        assert "nobody watches" in (watchdog.trouble() or "")


@pytest.mark.parametrize(
    ("target", "factory", "said"),
    [
        ("tests.export.hardware:nothing", False, "has no nothing"),
        ("no_such_module:stop", False, "no module named no_such_module"),
        ("nonsense", False, "must be module:name"),
        ("tests.export.hardware:Unbuildable", True, "port is in use"),
    ],
)
def test_what_cannot_be_stopped_is_refused_before_anything_moves(
    hardware: Path, target: str, factory: bool, said: str
) -> None:
    with pytest.raises(ExportError, match=said):
        Watchdog(target, timeout_s=1.0, factory=factory)
    with pytest.raises(ExportError, match="positive"):
        Watchdog(target, timeout_s=0.0)


def test_it_loads_neither_numpy_nor_onnxruntime() -> None:
    script = "import sys, export.watchdog; print(sorted({'numpy', 'onnxruntime', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("timeout", [0.0, -1.0, float("nan"), float("inf"), 1e7])
def test_a_timeout_that_is_none_is_refused(timeout: float) -> None:
    with pytest.raises(ExportError, match="give a positive number of seconds, at most 3600"):
        Watchdog(STOP, timeout_s=timeout)


SPIN = """
import os, sys, time
from export.watchdog import Watchdog
os.sched_setaffinity(0, {0})
try:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
except PermissionError:
    sys.exit(3)
with Watchdog("tests.export.hardware:watchdog_stop", timeout_s=0.3) as watchdog:
    watchdog.feed()
    end = time.monotonic() + 3.0
    while time.monotonic() < end:
        pass
"""


def test_a_loop_that_spins_at_a_real_time_priority_on_its_only_core_is_stopped(hardware: Path) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core")
    done = subprocess.run([sys.executable, "-c", SPIN], cwd=ROOT, check=False)
    if done.returncode == 3:
        pytest.skip("no right to a real-time priority")
    ended = time.monotonic()
    assert done.returncode == 0
    (who, when), *_ = marks(hardware, "stops")
    assert who == "watchdog" and ended - when > 1.0, "it waited for the spinning to end"
