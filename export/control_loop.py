"""The fixed-rate loop that drives a robot, real or simulated, with a policy.

    loop = ControlLoop(robot, runner, hz=50.0, recorder=recorder, max_steps=10_000)
    report = loop.run()

A faulty step goes OK -> HOLD -> SAFE -> LATCHED: for up to `control.hold_steps` consecutive steps the last executed
action is repeated, then the robot is stopped safely and the loop ends; it starts again only after `reset()`. Where
there is nothing to hold (no action executed yet, a write that failed, `on_fault="safe"`) the stop comes at once.
However the loop ends, by an exception too, `safe_stop` is called; where that raises, the loop is LATCHED, and a
watchdog stays armed.

A `watchdog` is fed after each successful write and asked before each one: after its alarm the loop latches. A
`reloader` is asked for a newer policy at each step boundary, except while a fault is held: a new policy clears none.
"""

from __future__ import annotations

import enum
import logging
import math
import time
from collections import Counter
from typing import Any, Protocol

import numpy as np

from export.errors import ExportError
from export.pacing import LatencyHistogram, Pacer
from export.recording import Chain, Recorder
from export.robot import Reading, Robot
from export.runner import PolicyRunner
from export.safeguards import FAULT, Flag
from export.watchdog import Watchdog

logger = logging.getLogger(__name__)
_NUMBER = (float, int, np.number)

__all__ = ["ControlLoop", "Reading", "Recorder", "Reloader", "Robot", "State"]


class Reloader(Protocol):
    """Where newer policies come from, ready to run; `export.reload.PolicyWatcher` is one."""

    def take(self) -> PolicyRunner | None:
        """A newer policy, verified and warmed up, each once; None while there is none. Must not block."""


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
        watchdog: Watchdog | None = None,
        reloader: Reloader | None = None,
        max_steps: int | None = None,
        max_episodes: int | None = None,
    ) -> None:
        if hz is not None and not 0 < hz < float("inf"):
            raise ExportError(f"rate is {hz} Hz: give a positive number, or none to run as fast as possible")
        self.state = State.OK
        self.reason: str | None = None
        self._robot, self._runner, self._recorder = robot, runner, recorder
        self._watchdog, self._reloader = watchdog, reloader
        self._previous: PolicyRunner | None = None
        self._rolling_back = False
        self._lockstep = bool(getattr(robot, "lockstep", False))
        self._hz, self._max_steps, self._max_episodes = hz, max_steps, max_episodes
        self._control = runner.contract.control
        self._stopping = False
        self._begin()

    def run(self) -> dict[str, Any]:
        """Drive the robot; returns the report.

        What read, write and safe_stop raise is a fault, not an exception. Raises ExportError while LATCHED.
        """
        if self.state is State.LATCHED:
            raise ExportError(f"control loop is latched after a fault ({self.reason}): look at the robot, then reset()")
        self._begin()
        try:
            while not self._finished():
                skipped = self._pacer.wait()
                self._swap()

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
                self._stop_robot()
            finally:
                if self._chain is not None:
                    self._chain.cut()
                if self.state is State.SAFE:
                    self.state = State.LATCHED
        return self.report()

    def stop(self) -> None:
        """End the run before its next step, for good until `reset`; for signal handlers and other threads."""
        self._stopping = True

    def reset(self) -> None:
        """Leave LATCHED, after a person or program has made sure that the robot may move again."""
        self.state, self.reason, self._stopping = State.OK, None, False
        if self._watchdog is not None:
            self._watchdog.reset()

    def rollback(self) -> None:
        """Return to the policy before the last reload at the next step boundary; for signal handlers and threads."""
        self._rolling_back = True

    def report(self) -> dict[str, Any]:
        """JSON-able figures of the last run: latencies in µs with histogram, rate held, overruns, faults, episodes."""
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
            "latency_histogram": self._latency.to_json(),
            "target_hz": self._hz,
            "rate_hz": self._pacer.rate,
            "overruns": self._pacer.overruns,
            "skipped_periods": self._pacer.skipped,
            "faults": dict(self._faults),
            "notes": dict(self._notes),
            "held_steps": self._held,
            "recorder_errors": self._chain.errors if self._chain else 0,
            "recording_gaps": self._chain.gaps if self._chain else 0,
            "reloads": self._reloads,
            "rollbacks": self._rollbacks,
            "watchdog": self._watchdog.report() if self._watchdog else None,
            "policy_id": self._runner.contract.policy_id,
            "policy_version": self._runner.contract.policy_version,
        }

    def _begin(self) -> None:
        self._pacer = Pacer(self._hz)
        self._latency = LatencyHistogram()
        self._faults: Counter[str] = Counter()
        self._notes: Counter[str] = Counter()
        self._steps = self._held = self._consecutive = self._reloads = self._rollbacks = 0
        self._returns: list[float] = []
        self._lengths: list[int] = []
        self._return, self._length = 0.0, 0
        self._chain = Chain(self._recorder) if self._recorder is not None else None
        self._runner.reset()

    def _finished(self) -> bool:
        return (
            self._stopping
            or (self._max_steps is not None and self._steps >= self._max_steps)
            or (self._max_episodes is not None and len(self._returns) >= self._max_episodes)
        )

    def _swap(self) -> None:
        """Change the policy where one is due. A fault is held by the policy that met it."""
        if self.state is not State.OK:
            return
        if self._rolling_back:
            self._rolling_back = False
            if self._previous is None:
                return
            following, self._previous = self._previous, None
            self._rollbacks += 1
        else:
            newer = self._reloader.take() if self._reloader is not None else None
            if newer is None:
                return
            following, self._previous = newer, self._runner
            self._reloads += 1
        following.take_over(self._runner)
        self._runner = following
        self._control = following.contract.control
        if self._chain is not None:
            self._chain.new_policy()

    def _stop_robot(self) -> None:
        try:
            self._safe_stop()
        except BaseException:
            # A second Ctrl-C, in the middle of it: a robot that was stopped halfway has not been stopped.
            self._safe_stop()
            raise

    def _safe_stop(self) -> None:
        try:
            self._robot.safe_stop()
        except Exception as error:
            # Still armed, a watchdog stops the robot when it is closed.
            logger.exception("robot.safe_stop failed")
            self._faults["SAFE_STOP"] += 1
            before = f"{self.reason}; " if self.reason else ""
            self.state, self.reason = State.SAFE, f"{before}safe_stop raised: {_one_line(error)}"
            return
        if self._watchdog is not None:
            self._watchdog.disarm()

    def _read(self) -> Reading | None:
        try:
            reading = self._robot.read()
        except Exception as error:
            logger.exception("robot.read failed")
            self.reason = f"robot.read failed: {_one_line(error)}"
            return None
        if wrong := _wrong_reading(reading):
            self.reason = wrong
            return None
        return reading

    def _decide(self, reading: Reading | None) -> tuple[np.ndarray | None, int]:
        """Action to write and flags; no action after an episode's end; SAFE in `state` when the robot must stop."""
        if reading is None:
            self._faults["READ"] += 1
            return self._hold(), FAULT
        if reading.first:
            self._runner.reset()
        if reading.executed is not None and not self._note_executed(reading.executed):
            return self._hold(), FAULT
        if reading.terminated or reading.truncated:
            # No action follows, but the recording would keep this observation.
            flags = self._runner.check(reading.observation, reading.t_mono)
            self._count(flags)
            return None, flags
        action, flags = self._runner.step(reading.observation, reading.t_mono)
        self._count(flags)
        if flags & FAULT:
            self.reason = f"step {self._steps}: {Flag(flags & FAULT).name}"
            held = self._hold()
            if self.state is State.SAFE:
                # Nothing is left to be in time for.
                self.reason += f": {self._runner.explain(flags & FAULT, reading.observation, reading.t_mono)}"
            return held, flags
        self._consecutive, self.state, self.reason = 0, State.OK, None
        return action, flags

    def _count(self, flags: int) -> None:
        for flag in Flag(flags):
            (self._faults if flag & FAULT else self._notes)[str(flag.name)] += 1

    def _note_executed(self, action: np.ndarray) -> bool:
        """The robot did something else than what was written: the rate limit and a hold start from there."""
        numbers = isinstance(action, np.ndarray) and action.dtype.kind in "fiu"
        with np.errstate(over="ignore"):  # beyond float32 becomes infinity, which is refused
            executed = action.astype(np.float32) if numbers else None
        if executed is None or executed.shape != (self._runner.action_size,) or not np.isfinite(executed).all():
            self._faults["READ"] += 1
            self.reason = (
                f"step {self._steps}: the reading's executed action is not {self._runner.action_size} finite numbers"
            )
            return False
        self._runner.executed(executed)
        return True

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
        trouble = self._watchdog.trouble() if self._watchdog is not None else None
        if trouble is not None:
            self._faults["WATCHDOG"] += 1
            self.state, self.reason = State.SAFE, trouble
            return False
        try:
            self._robot.write(action.copy())  # the robot may change its own in place
        except Exception as error:
            logger.exception("robot.write failed")
            self._faults["WRITE"] += 1
            self.state, self.reason = State.SAFE, f"robot.write failed: {_one_line(error)}"
            return False
        if self._watchdog is not None:
            self._watchdog.feed()
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
        if self._chain is not None:
            gap = skipped > 0 and not self._lockstep
            self._chain.add(reading, action, flags=flags, latency=latency, gap=gap, runner=self._runner)


def _wrong_reading(reading: Any) -> str | None:
    """Why what `read` returned cannot be used; None: it can."""
    if not isinstance(reading, Reading):
        return f"read() returned {type(reading).__name__}, not Reading"
    for name in ("t_mono", "reward"):
        if not isinstance(value := getattr(reading, name), _NUMBER):
            return f"read() returned a Reading whose {name} is {type(value).__name__}, not a number"
    if not math.isfinite(reading.reward):
        return f"read() returned a Reading whose reward is {float(reading.reward):g}, not a finite number"
    return None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
