"""What robots do wrong: a driver that scribbles, a person beyond the bounds, a last reading that is none."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from export.control_loop import ControlLoop, Reading
from export.runner import PolicyRunner
from export.safeguards import Flag
from export.template import Template
from tests.export.policies import ACT, OBS, make_contract, make_network, weights_of
from tests.export.test_control_loop import Log, ScriptedRobot, say, with_control


class Interrupted(ScriptedRobot):
    """A person presses Ctrl-C again while the robot is on its way into a safe state."""

    def safe_stop(self) -> None:
        self.safe_stops += 1
        if self.safe_stops == 1:
            raise KeyboardInterrupt


class Scribbling(ScriptedRobot):
    """Converts what it was given in place, into thousandths."""

    def write(self, action: np.ndarray) -> None:
        super().write(action)
        action *= 1000


def test_a_safe_stop_that_is_interrupted_is_begun_again(model: bytes) -> None:
    robot = Interrupted([say(0.1), KeyboardInterrupt()])
    with pytest.raises(KeyboardInterrupt):
        ControlLoop(robot, with_control(model), hz=None).run()
    assert robot.safe_stops == 2


def test_a_driver_that_changes_its_action_in_place_changes_no_hold_and_no_recording(model: bytes) -> None:
    log = Log()
    robot = Scribbling([say(0.1), say(np.nan), say(0.2), say(0.3)])
    ControlLoop(robot, with_control(model, hold_steps=2), hz=None, recorder=log, max_steps=4).run()
    np.testing.assert_array_equal(robot.written[1], robot.written[0])
    np.testing.assert_array_equal(log.steps()[-1]["action"], robot.written[2])


def test_after_a_person_s_action_beyond_the_bounds_hold_and_rate_limit_stay_within_them(model: bytes) -> None:
    runner, log = with_control(model, rate_limit=10.0, hold_steps=2), Log()
    high = np.asarray(runner.contract.action.high, np.float32)
    beyond = 5.0 * high
    script = [say(0.1), say(0.1, executed=beyond), say(np.nan), say(0.1)]
    robot = ScriptedRobot([*script])
    ControlLoop(robot, runner, hz=None, recorder=log, max_steps=4).run()
    for action in robot.written:
        assert (action <= high).all() and (action >= runner.contract.action.low).all()
    assert np.abs(robot.written[1] - high).max() <= 10.0 / 50.0 + 1e-5, "it starts from the bound"
    np.testing.assert_array_equal(log.steps()[0]["action"], beyond)


def test_a_person_s_action_beyond_float32_is_a_fault(model: bytes) -> None:
    robot = ScriptedRobot([say(0.1), say(0.1, executed=np.full(ACT, 1e39))] * 4)
    report = ControlLoop(robot, with_control(model, hold_steps=1), hz=None, max_steps=3).run()
    assert report["faults"] == {"READ": 1} and np.isfinite(robot.written).all()


@pytest.mark.parametrize(
    ("observation", "fault"),
    [(None, "SHAPE"), (np.zeros(OBS + 1, np.float32), "SHAPE"), (np.full(OBS, np.nan, np.float32), "RANGE")],
)
def test_a_last_reading_that_is_none_is_a_fault_and_stays_out_of_the_recording(
    model: bytes, observation: np.ndarray | None, fault: str
) -> None:
    log = Log()
    robot = ScriptedRobot(
        [
            say(0.1, first=True),
            say(0.2, reward=1.0),
            say(0.3, reward=2.0, terminated=True),
            say(0.4, first=True),
            say(0.5),
        ]
    )
    last = robot.script[2]
    assert isinstance(last, Reading)
    robot.script[2] = replace(last, observation=observation)  # type: ignore[arg-type]
    report = ControlLoop(robot, with_control(model), hz=None, recorder=log, max_steps=4).run()
    assert report["faults"] == {fault: 1} and report["state"] == "OK" and report["returns"] == [3.0]
    assert [kind for kind, _ in log.entries] == ["step", "cut", "step", "cut"]
    assert not any(step["terminated"] for step in log.steps())


@pytest.mark.parametrize("reward", [np.nan, np.inf, np.float32("-inf")])
def test_a_reward_that_is_not_finite_is_a_fault(model: bytes, reward: float) -> None:
    report = ControlLoop(ScriptedRobot([say(0.1, reward=reward)]), with_control(model), hz=None).run()
    assert report["faults"] == {"READ": 1} and "reward is" in report["reason"] and "not a finite" in report["reason"]


def test_a_credible_range_beyond_float32_lets_no_infinity_pass(model: bytes) -> None:
    position, velocity = make_contract().observation
    wide = replace(position, valid_min=(-1e300,) * 8, valid_max=(1e39,) * 8)
    contract = make_contract(observation=(wide, velocity))
    runner = PolicyRunner(Template.from_bytes(model).patch(weights_of(make_network()), contract))
    for sign in (1.0, -1.0):
        assert runner.step(np.full(OBS, sign * np.inf, np.float32))[1] == Flag.RANGE
    assert runner.step(np.full(OBS, np.finfo(np.float32).max, np.float32))[1] == Flag.OK


def test_what_check_refuses_is_what_a_step_refuses(model: bytes) -> None:
    now = time.monotonic()
    runner = with_control(model, max_obs_age_ms=200.0)
    sound = np.zeros(OBS, np.float32)
    for reading in (
        Reading(observation=sound, t_mono=now),
        Reading(observation=sound, t_mono=now - 10.0),
        Reading(observation=sound[1:], t_mono=now),
        Reading(observation=sound + np.inf, t_mono=now),
    ):
        runner.reset()
        checked = runner.check(reading.observation, reading.t_mono)
        runner.reset()
        assert checked == runner.step(reading.observation, reading.t_mono)[1]
