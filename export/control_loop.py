"""The fixed-rate loop that drives a robot, real or simulated, with a policy.

    loop = ControlLoop(robot, runner, hz=50.0, recorder=recorder, max_steps=10_000)
    report = loop.run()

A faulty step goes OK -> HOLD -> SAFE -> LATCHED: for up to `control.hold_steps` consecutive steps the last executed
action is repeated, then the robot is stopped safely and the loop ends; it starts again only after `reset()`. Where
there is nothing to hold (no action executed yet, a write that failed, `on_fault="safe"`) the stop comes at once.
However the loop ends, by an exception too, `safe_stop` is called.
"""

from __future__ import annotations

import enum
import logging
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from export.errors import ExportError
from export.pacing import LatencyHistogram, Pacer
from export.runner import FAULT, Flag, PolicyRunner

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What the sensors said, and for a simulated robot what became of the last action."""

    observation: np.ndarray
    "Flat observation [O], float32; may be reused by the robot after the next `read`."
    t_mono: float
    "When it was measured: seconds on time.monotonic's clock."
    reward: float = 0.0
    "Reward of the action written before this reading."
    terminated: bool = False
    "The task ended here: no action follows, the next reading begins an episode."
    truncated: bool = False
    "The episode was cut here, by a time limit for instance: as above, but the task was not over."
    first: bool = False
    "First reading of an episode: no action led here."


class Robot(Protocol):
    """What a robot offers. Only the loop's thread calls it; the caller of the loop closes it."""

    def read(self) -> Reading:
        """The newest observation, within less than the control period. A simulated robot steps its world here."""

    def write(self, action: np.ndarray) -> None:
        """Execute an action [A] float32 in the contract's units, within the contract's bounds."""

    def safe_stop(self) -> None:
        """Bring the robot to a safe state; called at the end of every run, so it must be harmless when repeated."""

    def close(self) -> None:
        """Release the robot."""


class Recorder(Protocol):
    """Keeps what happened. Called after the action is out; must not block. What it raises is counted, not passed on."""

    def record(self, step: dict[str, Any]) -> None:
        """One completed transition of one control step.

        Keys: observation [O], action [A] as *executed*, raw [A] (the network's pre-squash mean), reward,
        next_observation [O], terminated, truncated, first (no recorded transition leads here), flags, skipped
        (deadlines missed before next_observation), latency_s, policy_id, policy_version, t_mono_ns, t_wall_ns.
        """

    def cut(self, observation: np.ndarray) -> None:
        """The chain breaks after this observation [O]: a fault, or the end of the run in mid-episode."""


class State(enum.StrEnum):
    OK = "OK"
    HOLD = "HOLD"
    SAFE = "SAFE"
    LATCHED = "LATCHED"


class ControlLoop:
    """Reads, decides, writes at `hz` (None: as fast as possible).

    Ends after `max_steps` actions, `max_episodes` episodes, `stop()`, or a fault that cannot be held.
    """

    def __init__(
        self,
        robot: Robot,
        runner: PolicyRunner,
        *,
        hz: float | None,
        recorder: Recorder | None = None,
        max_steps: int | None = None,
        max_episodes: int | None = None,
    ) -> None:
        if hz is not None and not 0 < hz < float("inf"):
            raise ExportError(f"rate is {hz} Hz: give a positive number, or none to run as fast as possible")
        self.state = State.OK
        self.reason: str | None = None
        self._robot, self._runner, self._recorder = robot, runner, recorder
        self._hz, self._max_steps, self._max_episodes = hz, max_steps, max_episodes
        self._control = runner.contract.control
        self._stopping = False
        self._begin()

    def run(self) -> dict[str, Any]:
        """Drive the robot; returns the report.

        What read and write raise is a fault, not an exception; what `safe_stop` raises is passed on. Raises
        ExportError while LATCHED.
        """
        if self.state is State.LATCHED:
            raise ExportError(f"control loop is latched after a fault ({self.reason}): look at the robot, then reset()")
        self._begin()
        try:
            while not self._finished():
                skipped = self._pacer.wait()

                # Read. Latency counts from the reading in hand to the action out.
                reading = self._read()
                began = time.perf_counter()

                # Decide: the policy's action, or on a fault the last executed one, or the end.
                action, flags = self._decide(reading)
                if self.state is State.SAFE:
                    break

                # Write.
                if action is not None and not self._write(action):
                    break
                latency = time.perf_counter() - began

                # Account, after the action is out.
                self._account(reading, action, flags, latency, skipped)
        finally:
            try:
                self._robot.safe_stop()
            finally:
                self._cut()
                if self.state is State.SAFE:
                    self.state = State.LATCHED
        return self.report()

    def stop(self) -> None:
        """End the run before its next step, for good until `reset`; for signal handlers and other threads."""
        self._stopping = True

    def reset(self) -> None:
        """Leave LATCHED, after a person or program has made sure that the robot may move again."""
        self.state, self.reason, self._stopping = State.OK, None, False

    def report(self) -> dict[str, Any]:
        """JSON-able figures of the last run: latencies in µs, rate held, overruns, faults, episodes."""
        latency = {f"p{share * 100:g}": self._latency.quantile(share) for share in (0.5, 0.99, 0.999)}
        latency["max"] = self._latency.largest if self._latency.count else None
        return {
            "state": str(self.state),
            "reason": self.reason,
            "steps": self._steps,
            "episodes": len(self._returns),
            "returns": list(self._returns),
            "lengths": list(self._lengths),
            "latency_us": {name: None if value is None else round(value * 1e6, 2) for name, value in latency.items()},
            "target_hz": self._hz,
            "rate_hz": self._pacer.rate,
            "overruns": self._pacer.overruns,
            "skipped_periods": self._pacer.skipped,
            "faults": dict(self._faults),
            "notes": dict(self._notes),
            "held_steps": self._held,
            "recorder_errors": self._recorder_errors,
            "policy_id": self._runner.contract.policy_id,
            "policy_version": self._runner.contract.policy_version,
        }

    def _begin(self) -> None:
        self._pacer = Pacer(self._hz)
        self._latency = LatencyHistogram()
        self._faults: Counter[str] = Counter()
        self._notes: Counter[str] = Counter()
        self._steps = self._held = self._consecutive = self._recorder_errors = 0
        self._returns: list[float] = []
        self._lengths: list[int] = []
        self._return, self._length = 0.0, 0
        self._pending: dict[str, Any] | None = None
        self._runner.reset()

    def _finished(self) -> bool:
        return (
            self._stopping
            or (self._max_steps is not None and self._steps >= self._max_steps)
            or (self._max_episodes is not None and len(self._returns) >= self._max_episodes)
        )

    def _read(self) -> Reading | None:
        try:
            return self._robot.read()
        except Exception as error:
            logger.exception("robot.read failed")
            self.reason = f"robot.read failed: {error}"
            return None

    def _decide(self, reading: Reading | None) -> tuple[np.ndarray | None, int]:
        """Action to write and flags; no action after an episode's end; SAFE in `state` when the robot must stop."""
        if reading is None:
            self._faults["READ"] += 1
            return self._hold(), FAULT
        if reading.first:
            self._runner.reset()
        if reading.terminated or reading.truncated:
            return None, 0
        action, flags = self._runner.step(reading.observation, reading.t_mono)
        if flags:
            for flag in Flag(flags):
                (self._faults if flag & FAULT else self._notes)[str(flag.name)] += 1
        if flags & FAULT:
            self.reason = f"step {self._steps}: {Flag(flags & FAULT).name}"
            return self._hold(), flags
        self._consecutive, self.state, self.reason = 0, State.OK, None
        return action, flags

    def _hold(self) -> np.ndarray | None:
        self._consecutive += 1
        last = self._runner.last_action
        if last is None or self._control.on_fault == "safe" or self._consecutive > self._control.hold_steps:
            self.state = State.SAFE
            return None
        self.state = State.HOLD
        self._held += 1
        return last

    def _write(self, action: np.ndarray) -> bool:
        try:
            self._robot.write(action)
        except Exception as error:
            logger.exception("robot.write failed")
            self._faults["WRITE"] += 1
            self.state, self.reason = State.SAFE, f"robot.write failed: {error}"
            return False
        self._runner.executed(action)
        self._steps += 1
        return True

    def _account(
        self, reading: Reading | None, action: np.ndarray | None, flags: int, latency: float, skipped: int
    ) -> None:
        if action is not None:
            self._latency.add(latency)
        if reading is not None:
            if reading.first:
                self._return, self._length = 0.0, 0
            else:
                self._return += reading.reward
                self._length += 1
            if reading.terminated or reading.truncated:
                self._returns.append(self._return)
                self._lengths.append(self._length)
        if self._recorder is not None:
            self._record(self._recorder, reading, action, flags, latency, skipped)

    def _record(
        self,
        recorder: Recorder,
        reading: Reading | None,
        action: np.ndarray | None,
        flags: int,
        latency: float,
        skipped: int,
    ) -> None:
        """Complete the pending step with this reading, or cut after it; then keep this step pending."""
        if reading is None or flags & FAULT or not np.isfinite(reading.observation).all():
            self._cut()
            return
        observation = np.array(reading.observation, np.float32)
        chained = self._pending is not None and not reading.first
        if self._pending is not None and chained:
            step, self._pending = self._pending, None
            step |= {"next_observation": observation, "reward": reading.reward, "skipped": skipped}
            step |= {"terminated": reading.terminated, "truncated": reading.truncated}
            self._keep(recorder.record, step)
        else:
            self._cut()
        if action is not None:
            contract = self._runner.contract
            self._pending = {
                "observation": observation,
                "action": action.copy(),
                "raw": self._runner.last_raw,
                "first": not chained,
                "flags": flags,
                "latency_s": latency,
                "policy_id": contract.policy_id,
                "policy_version": contract.policy_version,
                "t_mono_ns": int(reading.t_mono * 1e9),
                "t_wall_ns": time.time_ns(),
            }

    def _cut(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None and self._recorder is not None:
            self._keep(self._recorder.cut, pending["observation"])

    def _keep(self, what: Any, value: Any) -> None:
        try:
            what(value)
        except Exception:
            if not self._recorder_errors:
                logger.exception("recorder failed; the loop goes on and counts what is lost")
            self._recorder_errors += 1
