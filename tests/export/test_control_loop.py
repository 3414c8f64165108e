"""The loop keeps its rate without bursts, stops safely whatever happens, and records what was executed."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from export.contract_parts import ActionSpec, Control
from export.control_loop import ControlLoop, Reading, State
from export.errors import ExportError
from export.pacing import LatencyHistogram, Pacer
from export.runner import PolicyRunner
from export.template import Template
from tests.export.policies import ACT, OBS, make_contract, make_network, weights_of


class ThreadedRobot:
    """Its sensor is another thread, which samples every 2 ms, as a driver would."""

    def __init__(self) -> None:
        self.written: list[np.ndarray] = []
        self.write_times: list[float] = []
        self.safe_stops = 0
        self.on_read: Callable[[int], None] = lambda n: None
        self.on_write: Callable[[int], None] = lambda n: None
        self._reads = 0
        self._latest = (np.zeros(OBS, np.float32), time.monotonic())
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._sense, daemon=True)
        self._thread.start()

    def _sense(self) -> None:
        rng = np.random.default_rng(0)
        while not self._ending.wait(0.002):
            self._latest = (rng.normal(size=OBS).astype(np.float32), time.monotonic())

    def read(self) -> Reading:
        self._reads += 1
        self.on_read(self._reads)
        observation, t_mono = self._latest
        return Reading(observation=observation, t_mono=t_mono)

    def write(self, action: np.ndarray) -> None:
        self.on_write(len(self.written) + 1)
        self.write_times.append(time.monotonic())
        self.written.append(action.copy())

    def safe_stop(self) -> None:
        self.safe_stops += 1

    def close(self) -> None:
        self._ending.set()
        self._thread.join()


@dataclass
class ScriptedRobot:
    """Says what it is told to say, in order; an exception in the script is raised."""

    script: list[Reading | BaseException]
    written: list[np.ndarray] = field(default_factory=list)
    safe_stops: int = 0

    def read(self) -> Reading:
        said = self.script.pop(0)
        if isinstance(said, BaseException):
            raise said
        return said

    def write(self, action: np.ndarray) -> None:
        self.written.append(action.copy())

    def safe_stop(self) -> None:
        self.safe_stops += 1

    def close(self) -> None:
        pass


@dataclass
class Log:
    entries: list[tuple[str, Any]] = field(default_factory=list)

    def record(self, step: dict[str, Any]) -> None:
        self.entries.append(("step", step))

    def cut(self, observation: np.ndarray) -> None:
        self.entries.append(("cut", observation))

    def summary(self) -> list[tuple[str, float]]:
        """What was kept, each by the first entry of its observation."""
        return [(kind, float((v["observation"] if kind == "step" else v)[0])) for kind, v in self.entries]

    def steps(self) -> list[dict[str, Any]]:
        return [value for kind, value in self.entries if kind == "step"]


def say(value: float, **changes: Any) -> Reading:
    return Reading(observation=np.full(OBS, value, np.float32), t_mono=time.monotonic(), **changes)


@pytest.fixture
def runner(model: bytes) -> PolicyRunner:
    return with_control(model, max_obs_age_ms=200.0, hold_steps=2)


def with_control(model: bytes, *, rate_limit: float | None = None, **control: Any) -> PolicyRunner:
    action = make_contract().action
    if rate_limit is not None:
        action = ActionSpec(low=action.low, high=action.high, rate_limit=(rate_limit,) * ACT)
    contract = make_contract(control=Control(hz=50.0, **control), action=action)
    return PolicyRunner(Template.from_bytes(model).patch(weights_of(make_network()), contract))


def test_the_rate_is_held_at_100_hz(runner: PolicyRunner) -> None:
    robot = ThreadedRobot()
    started = time.monotonic()
    report = ControlLoop(robot, runner, hz=100.0, max_steps=100).run()
    robot.close()
    assert report["steps"] == len(robot.written) == 100
    if report["overruns"] == 0:  # on a busy machine a period may be lost; then it must have been counted
        assert report["rate_hz"] == pytest.approx(100.0, rel=0.02)
    assert report["rate_hz"] <= 101.0
    # It may also make one write late, the last among them: of the last ten the least late tells, and none is early.
    times, skipped = np.asarray(robot.write_times), report["skipped_periods"]
    assert times[-1] - started >= (99 + skipped) * 0.01
    assert (times[-10:] - times[0] - (np.arange(90, 100) + skipped) * 0.01).min() < 0.03
    assert report["state"] == "OK" and report["faults"] == {} and robot.safe_stops == 1
    latency = report["latency_us"]
    assert 0 < latency["p50"] <= latency["p99"] <= latency["p99.9"] <= latency["max"] < 1e6


def test_an_overrun_is_counted_and_no_burst_follows(runner: PolicyRunner) -> None:
    robot = ThreadedRobot()
    robot.on_write = lambda n: time.sleep(0.055) if n == 10 else None
    report = ControlLoop(robot, runner, hz=100.0, max_steps=40).run()
    robot.close()
    assert report["overruns"] >= 1 and report["skipped_periods"] >= 5
    # A burst would make up for the lost periods; on the grid of deadlines, five periods take four or more.
    times = np.asarray(robot.write_times)
    assert (times[5:] - times[:-5]).min() > 0.0399
    assert report["rate_hz"] <= 101.0


@dataclass
class FakeTime:
    now: float = 100.0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += max(seconds, 1e-6)


def test_deadlines_are_absolute_and_late_ones_are_skipped() -> None:
    fake = FakeTime()
    pacer = Pacer(10.0, clock=fake.clock, sleep=fake.sleep)
    begun = []
    for work in (0.01, 0.09, 0.05, 0.35, 0.01, 0.101, 0.01):
        pacer.wait()
        begun.append(fake.now - 100.0)
        fake.now += work
    np.testing.assert_allclose(begun, [0.0, 0.1, 0.2, 0.3, 0.7, 0.8, 1.0], atol=1e-5)
    assert (pacer.overruns, pacer.skipped) == (2, 4)


def test_deadlines_do_not_drift_over_ten_thousand_periods() -> None:
    fake = FakeTime()
    pacer = Pacer(200.0, clock=fake.clock, sleep=lambda seconds: fake.sleep(seconds + 70e-6))  # every sleep is late
    for _ in range(10_001):
        pacer.wait()
        fake.now += 1e-3
    assert fake.now - 1e-3 - 100.0 == pytest.approx(10_000 / 200.0, abs=1e-3)
    assert pacer.rate == pytest.approx(200.0, rel=1e-5) and pacer.overruns == 0


def test_without_a_rate_the_loop_does_not_sleep(runner: PolicyRunner) -> None:
    def no_sleep(seconds: float) -> None:
        raise AssertionError("slept")

    pacer = Pacer(None, sleep=no_sleep)
    for _ in range(10):
        assert pacer.wait() == 0
    report = ControlLoop(ScriptedRobot([say(0.1)] * 100), runner, hz=None, max_steps=100).run()
    assert report["steps"] == 100 and report["overruns"] == 0 and report["target_hz"] is None


def test_quantiles_are_right_to_a_bucket() -> None:
    histogram = LatencyHistogram()
    assert histogram.quantile(0.5) is None
    values = np.random.default_rng(0).lognormal(np.log(20e-6), 0.5, 10_000)
    for value in values:
        histogram.add(float(value))
    for share in (0.5, 0.99, 0.999):
        assert histogram.quantile(share) == pytest.approx(np.quantile(values, share), rel=0.02)
    histogram.add(1e9)
    histogram.add(0.0)
    assert histogram.largest == 1e9 == histogram.quantile(1.0)


def test_a_short_fault_is_held_with_the_last_action_and_recovers(runner: PolicyRunner) -> None:
    robot = ScriptedRobot([say(0.1), say(np.nan), RuntimeError("bus"), say(0.2)])
    report = ControlLoop(robot, runner, hz=None, max_steps=4).run()
    np.testing.assert_array_equal(robot.written[0], robot.written[1])
    np.testing.assert_array_equal(robot.written[0], robot.written[2])
    np.testing.assert_array_equal(robot.written[3], runner.act(np.full(OBS, 0.2, np.float32)))
    assert report["state"] == "OK" and report["held_steps"] == 2
    assert report["faults"] == {"RANGE": 1, "READ": 1}
    assert robot.safe_stops == 1


def test_a_lasting_fault_stops_safely_and_latches_until_reset(runner: PolicyRunner) -> None:
    robot = ScriptedRobot([say(0.1), *[say(np.inf)] * 10])
    loop = ControlLoop(robot, runner, hz=None, max_steps=100)
    report = loop.run()
    assert len(robot.written) == 3  # one of the policy, two held
    assert robot.safe_stops == 1
    assert report["state"] == "LATCHED" and "RANGE" in report["reason"]
    with pytest.raises(ExportError, match="latched"):
        loop.run()
    assert len(robot.written) == 3
    loop.reset()
    robot.script = [say(0.3)] * 100
    assert loop.run()["state"] == "OK"


def test_a_fault_before_the_first_action_moves_nothing(runner: PolicyRunner) -> None:
    robot = ScriptedRobot([say(np.nan), say(0.1)])
    assert ControlLoop(robot, runner, hz=None).run()["state"] == State.LATCHED
    assert robot.written == [] and robot.safe_stops == 1


def test_on_fault_safe_never_holds(model: bytes) -> None:
    robot = ScriptedRobot([say(0.1), say(np.nan), say(0.1)])
    report = ControlLoop(robot, with_control(model, on_fault="safe"), hz=None).run()
    assert len(robot.written) == 1 and report["state"] == "LATCHED" and report["held_steps"] == 0


def test_a_sensor_that_stops_is_noticed_by_its_age(model: bytes) -> None:
    robot = ThreadedRobot()
    robot.on_read = lambda n: robot.close() if n == 20 else None  # the driver dies
    report = ControlLoop(robot, with_control(model, max_obs_age_ms=30.0, hold_steps=3), hz=200.0, max_steps=200).run()
    assert report["state"] == "LATCHED" and "STALE" in report["faults"]
    assert report["steps"] < 60 and robot.safe_stops == 1


def test_a_clock_that_runs_backwards_and_recovers_is_held(runner: PolicyRunner) -> None:
    def back(n: int) -> Reading:
        return Reading(observation=np.full(OBS, n, np.float32), t_mono=time.monotonic() - (0.1 if n in (4, 5) else 0.0))

    robot = ScriptedRobot([])
    script = iter(range(1, 100))
    robot.read = lambda: back(next(script))  # type: ignore[method-assign]
    report = ControlLoop(robot, runner, hz=None, max_steps=10).run()
    assert report["state"] == "OK" and report["faults"] == {"BACKWARDS": 2} and report["held_steps"] == 2


def test_a_sensor_that_freezes_under_fresh_stamps_stops_the_robot(model: bytes) -> None:
    robot = ScriptedRobot([say(0.1), say(0.2), *[say(0.3)] * 50])
    for i in range(2, 52):
        robot.script[i] = Reading(observation=np.full(OBS, 0.3, np.float32), t_mono=time.monotonic() - 0.1 + i * 1e-4)
    robot.script[:2] = [replace(reading, t_mono=time.monotonic() - 0.15) for reading in robot.script[:2]]  # type: ignore[type-var]
    frozen = PolicyRunner(with_control(model, hold_steps=2).policy, frozen_after=10)
    report = ControlLoop(robot, frozen, hz=None).run()
    assert report["state"] == "LATCHED" and report["faults"] == {"FROZEN": 3}
    assert len(robot.written) == 2 + 9 + 2 and robot.safe_stops == 1


def test_an_inference_that_stalls_once_is_held_and_makes_no_burst(model: bytes) -> None:
    # Old enough not to be met by what a busy machine loses by itself, and a stall well beyond it.
    runner = with_control(model, max_obs_age_ms=250.0, hold_steps=2)
    session, calls = runner._session, iter(range(1, 1000))

    class Stalling:
        def run_with_iobinding(self, binding: object) -> None:
            if next(calls) == 10:
                time.sleep(0.5)
            session.run_with_iobinding(binding)

    runner._session = Stalling()
    robot = ThreadedRobot()
    report = ControlLoop(robot, runner, hz=50.0, max_steps=30).run()
    robot.close()
    assert report["faults"]["STALE"] >= 1 and report["overruns"] >= 1 and report["skipped_periods"] >= 20
    times = np.asarray(robot.write_times)
    assert (times[5:] - times[:-5]).min() > 0.0799
    np.testing.assert_array_equal(robot.written[9], robot.written[8])


def test_a_write_that_fails_stops_safely_at_once(runner: PolicyRunner) -> None:
    robot = ThreadedRobot()

    def fail(n: int) -> None:
        if n == 5:
            raise OSError("actuator offline")

    robot.on_write = fail
    report = ControlLoop(robot, runner, hz=None, max_steps=50).run()
    robot.close()
    assert len(robot.written) == 4 and robot.safe_stops == 1
    assert report["state"] == "LATCHED" and "actuator offline" in report["reason"] and report["faults"] == {"WRITE": 1}


def of(**changes: Any) -> Callable[[], Any]:
    """A reading that is made when it is read."""
    sound = {"observation": np.zeros(OBS, np.float32), "t_mono": 0.0}
    return lambda: Reading(**(sound | {"t_mono": time.monotonic()} | changes))


def infinite(index: int) -> np.ndarray:
    observation = np.zeros(OBS, np.float32)
    observation[index:] = np.inf
    return observation


FAULTS: dict[str, tuple[Callable[[], Any], str, str]] = {
    "array": (lambda: np.zeros(OBS), "READ", r"^read\(\) returned ndarray, not Reading$"),
    "nothing": (lambda: None, "READ", r"^read\(\) returned NoneType, not Reading$"),
    "time in words": (of(t_mono="now"), "READ", "Reading whose t_mono is str, not a number"),
    "reward in words": (of(reward=None), "READ", "Reading whose reward is NoneType, not a number"),
    "list executed": (of(executed=[0.0] * ACT), "READ", "executed action is not 6 finite numbers"),
    "size": (of(observation=np.zeros(5, np.float32)), "SHAPE", "^step 0: SHAPE: 5 numbers, 17 wanted$"),
    "list": (of(observation=[0.0] * OBS), "SHAPE", "the observation is a list, not an array of 17 numbers"),
    "batch": (of(observation=np.zeros((1, OBS))), "SHAPE", r"has the shape \[1, 17\], \[17\] is wanted"),
    "objects": (of(observation=np.zeros(OBS, object)), "SHAPE", "holds object, not numbers"),
    "infinite": (of(observation=infinite(10)), "RANGE", r"RANGE: qvel\[2\] is inf but must be finite, and 6 more$"),
    "wall clock": (of(t_mono=1.79e9), "BACKWARDS", r"t_mono is 1790000000, on another clock .* be time\.monotonic"),
    "no time": (of(t_mono=float("nan")), "BACKWARDS", r"t_mono is nan: Reading\.t_mono must be time\.monotonic"),
    "old": (of(t_mono=1e-3), "STALE", r"STALE: \d+ ms old by now, at most 200 ms are allowed"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_that_ends_the_flight_says_what_was_wrong(name: str, runner: PolicyRunner) -> None:
    read, fault, words = FAULTS[name]
    robot = ScriptedRobot([])
    robot.read = read  # type: ignore[method-assign]
    report = ControlLoop(robot, runner, hz=None, max_steps=5).run()
    assert (report["state"], report["faults"], report["steps"]) == ("LATCHED", {fault: 1}, 0)
    assert re.search(words, report["reason"]), report["reason"]
    assert robot.safe_stops == 1


def test_a_value_outside_its_credible_range_is_named_with_its_bounds(model: bytes) -> None:
    position, velocity = make_contract().observation
    contract = make_contract(observation=(replace(position, valid_min=(-1.0,) * 8, valid_max=(1.0,) * 8), velocity))
    limited = PolicyRunner(Template.from_bytes(model).patch(weights_of(make_network()), contract))
    report = ControlLoop(ScriptedRobot([say(2.5)]), limited, hz=None).run()
    assert report["reason"] == "step 0: RANGE: qpos[0] is 2.5 but must lie in -1 to 1, and 7 more"


def test_a_reading_from_before_the_last_one_says_how_long(runner: PolicyRunner) -> None:
    now = time.monotonic()
    script: list[Reading | BaseException] = [replace(say(0.1), t_mono=now)]
    script += [replace(say(0.1 * n), t_mono=now - 0.05) for n in range(5)]
    report = ControlLoop(ScriptedRobot(script), runner, hz=None).run()
    assert (
        report["state"] == "LATCHED" and "BACKWARDS: measured 0.05 s before the reading before it" in report["reason"]
    )


def test_a_safe_stop_that_raises_is_a_fault_that_the_report_tells(runner: PolicyRunner) -> None:
    class Jammed(ScriptedRobot):
        def safe_stop(self) -> None:
            raise RuntimeError("brake\njammed")

    log = Log()
    report = ControlLoop(Jammed([say(0.1)] * 5), runner, hz=None, recorder=log, max_steps=3).run()
    assert (report["state"], report["reason"]) == ("LATCHED", "safe_stop raised: brake jammed")
    assert report["faults"] == {"SAFE_STOP": 1} and report["steps"] == 3
    assert [kind for kind, _ in log.entries] == ["step", "step", "cut"], "the recording ends as ever"
    faulty = ControlLoop(Jammed([say(np.nan)]), runner, hz=None).run()
    assert faulty["reason"].startswith("step 0: RANGE: qpos[0] is nan") and "; safe_stop raised" in faulty["reason"]
    with pytest.raises(KeyboardInterrupt):
        ControlLoop(Jammed([KeyboardInterrupt()]), runner, hz=None).run()


def test_an_interrupt_stops_safely_and_is_passed_on(runner: PolicyRunner) -> None:
    robot = ThreadedRobot()

    def interrupt(n: int) -> None:
        if n == 3:
            raise KeyboardInterrupt

    robot.on_read = interrupt
    with pytest.raises(KeyboardInterrupt):
        ControlLoop(robot, runner, hz=None, max_steps=50).run()
    robot.close()
    assert robot.safe_stops == 1


def test_stop_from_another_thread_ends_the_run(runner: PolicyRunner) -> None:
    robot = ThreadedRobot()
    loop = ControlLoop(robot, runner, hz=200.0)
    timer = threading.Timer(0.2, loop.stop)
    timer.start()
    report = loop.run()
    timer.join()
    robot.close()
    assert 0 < report["steps"] < 100 and report["state"] == "OK" and robot.safe_stops == 1


def test_simulated_episodes_are_counted_and_recorded_as_transitions(runner: PolicyRunner) -> None:
    robot = ScriptedRobot(
        [
            say(0.1, first=True),
            say(0.2, reward=1.0),
            say(0.3, reward=2.0, terminated=True),
            say(0.4, first=True),
            say(0.5, reward=3.0, truncated=True),
        ]
    )
    log = Log()
    report = ControlLoop(robot, runner, hz=None, recorder=log, max_episodes=2).run()
    assert report["returns"] == [3.0, 3.0] and report["lengths"] == [2, 1] and report["episodes"] == 2
    assert len(robot.written) == 3 == report["steps"]
    assert log.summary() == [("step", pytest.approx(v)) for v in (0.1, 0.2, 0.4)]
    steps = log.steps()
    assert [step["first"] for step in steps] == [True, False, True]
    assert [step["reward"] for step in steps] == [1.0, 2.0, 3.0]
    assert [(step["terminated"], step["truncated"]) for step in steps] == [(False, False), (True, False), (False, True)]
    assert [float(step["next_observation"][0]) for step in steps] == pytest.approx([0.2, 0.3, 0.5])
    for step, action in zip(steps, robot.written, strict=True):
        np.testing.assert_array_equal(step["action"], action)
        np.testing.assert_array_equal(step["raw"], runner.infer(step["observation"])[1])
        assert step["policy_version"] == 7 and step["flags"] == 0


def test_the_recorder_gets_the_executed_action(model: bytes) -> None:
    """With a rate limit the policy proposes one thing and the robot does another: the second is the truth."""
    robot = ScriptedRobot([say(value) for value in (0.1, 1.0, -1.0, 1.0)])
    log = Log()
    runner = with_control(model, rate_limit=0.5)
    report = ControlLoop(robot, runner, hz=None, recorder=log, max_steps=4).run()
    assert report["faults"] == {} and report["notes"] == {"RATE_LIMITED": 3}
    proposed = runner.act(np.full(OBS, 1.0, np.float32))
    for step, executed in zip(log.steps(), robot.written, strict=False):
        np.testing.assert_array_equal(step["action"], executed)
    assert not np.allclose(log.steps()[1]["action"], proposed)


def test_a_fault_breaks_the_recorded_chain_on_both_sides(runner: PolicyRunner) -> None:
    robot = ScriptedRobot([say(0.1), say(0.2), say(np.nan), say(0.4), say(0.5), say(0.6)])
    log = Log()
    ControlLoop(robot, runner, hz=None, recorder=log, max_steps=6).run()
    # 0.2's action led to an unknown place, so it is no transition; neither is the last one, whose outcome nobody saw.
    assert log.summary() == [
        (kind, pytest.approx(value))
        for kind, value in (("step", 0.1), ("cut", 0.2), ("step", 0.4), ("step", 0.5), ("cut", 0.6))
    ]
    assert [step["first"] for step in log.steps()] == [True, True, False]


def test_an_episode_that_restarts_without_an_end_is_cut(runner: PolicyRunner) -> None:
    robot = ScriptedRobot([say(0.1, first=True), say(0.2), say(0.3, first=True), say(0.4)])
    log = Log()
    ControlLoop(robot, runner, hz=None, recorder=log, max_steps=4).run()
    assert [kind for kind, _ in log.summary()] == ["step", "cut", "step", "cut"]
    assert [step["first"] for step in log.steps()] == [True, True]


def test_a_recorder_that_fails_cannot_stop_the_robot(runner: PolicyRunner) -> None:
    class Broken:
        def record(self, step: dict[str, Any]) -> None:
            raise OSError("disk full")

        def cut(self, observation: np.ndarray) -> None:
            raise OSError("disk full")

    robot = ScriptedRobot([say(0.1)] * 20)
    report = ControlLoop(robot, runner, hz=None, recorder=Broken(), max_steps=20).run()
    assert report["steps"] == 20 and report["state"] == "OK"
    assert report["recorder_errors"] == 20  # 19 steps and the cut at the end


def test_an_observation_buffer_that_the_robot_reuses_is_copied(runner: PolicyRunner) -> None:
    buffer = np.zeros(OBS, np.float32)

    class Reusing(ScriptedRobot):
        def read(self) -> Reading:
            buffer[:] += 0.1
            return Reading(observation=buffer, t_mono=time.monotonic())

    log = Log()
    ControlLoop(Reusing([]), runner, hz=None, recorder=log, max_steps=4).run()
    assert [float(step["observation"][0]) for step in log.steps()] == pytest.approx([0.1, 0.2, 0.3])
    assert [float(step["next_observation"][0]) for step in log.steps()] == pytest.approx([0.2, 0.3, 0.4])


@pytest.mark.parametrize("hz", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(runner: PolicyRunner, hz: float) -> None:
    with pytest.raises(ExportError, match="rate is"):
        ControlLoop(ScriptedRobot([]), runner, hz=hz)
