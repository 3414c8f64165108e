"""From readings and executed actions to transitions: a step is complete once its outcome has been read."""

from __future__ import annotations

import logging
import time
from typing import Any, Protocol

import numpy as np

from export.robot import Reading
from export.runner import PolicyRunner
from export.safeguards import FAULT

logger = logging.getLogger(__name__)


class Recorder(Protocol):
    """Keeps what happened. Called after the action is out; must not block. What it raises is counted, not passed on."""

    def record(self, step: dict[str, Any]) -> None:
        """One completed transition of one control step.

        Keys: observation [O], action [A] as *executed*, raw [A] (the network's pre-squash mean), reward,
        next_observation [O], terminated, truncated, first (no recorded transition leads here), intervention (not the
        policy's action), flags, latency_s, policy_id, policy_version, t_mono_ns, t_wall_ns.
        """

    def cut(self, observation: np.ndarray) -> None:
        """The chain breaks after this observation [O]: a fault, a gap, or the end of the run in mid-episode."""


class Chain:
    """Completes each step with the reading after it, and breaks where that reading is not its outcome.

    A fault, a missed deadline or the end of the run drops the step whose outcome nobody saw. A new policy ends the
    chain after a complete step.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.errors = 0
        "Calls of the recorder that raised."
        self.gaps = 0
        "Steps dropped because a deadline was missed before their outcome was read."
        self._recorder = recorder
        self._pending: dict[str, Any] | None = None
        self._ending = False

    def add(
        self,
        reading: Reading | None,
        action: np.ndarray | None,
        *,
        flags: int,
        latency: float,
        gap: bool,
        runner: PolicyRunner,
    ) -> None:
        """One period: what was read (None: nothing), what was then written (None: nothing), by which policy.

        `gap`: at least one deadline was missed before the reading.
        """
        if reading is None or flags & FAULT or not np.isfinite(reading.observation).all():
            self.cut()
            return
        observation = np.array(reading.observation, np.float32)
        chained = self._pending is not None and not reading.first
        if chained and gap:
            self.gaps += 1
            chained = False
        if self._pending is not None and chained:
            step, self._pending = self._pending, None
            step |= {"next_observation": observation, "reward": reading.reward}
            step |= {"terminated": reading.terminated, "truncated": reading.truncated}
            if reading.executed is not None:
                step |= {"action": np.array(reading.executed, np.float32), "intervention": True}
            self._keep(self._recorder.record, step)
        else:
            self.cut()
        if action is not None:
            contract = runner.contract
            self._pending = {
                "observation": observation,
                "action": action.copy(),
                "raw": runner.last_raw,
                "first": not chained or self._ending,
                "intervention": False,
                "flags": flags,
                "latency_s": latency,
                "policy_id": contract.policy_id,
                "policy_version": contract.policy_version,
                "t_mono_ns": int(reading.t_mono * 1e9),
                "t_wall_ns": time.time_ns(),
            }
        self._ending = False

    def new_policy(self) -> None:
        """The next action is another policy's: it begins a chain of its own."""
        self._ending = True

    def cut(self) -> None:
        """Drop the step that waits for its outcome, if one does."""
        pending, self._pending = self._pending, None
        if pending is not None:
            self._keep(self._recorder.cut, pending["observation"])

    def _keep(self, what: Any, value: Any) -> None:
        try:
            what(value)
        except Exception:
            if not self.errors:
                logger.exception("recorder failed; the loop goes on and counts what is lost")
            self.errors += 1
