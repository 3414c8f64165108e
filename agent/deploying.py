"""Composes runner, robot (a simulated one included) and recorder into a deployment. Torch-free.

A robot of your own is a `module:factory` whose factory returns an `export.control_loop.Robot`; only a simulated one
needs gymnasium.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from agent.errors import AgentError, RunError
from agent.kinds import what_is
from agent.own_code import build_own
from export.contract import Contract
from export.robot import Reading, Robot
from export.watchdog import Watchdog
from replay.errors import ReplayError
from replay.layout import GROUP
from replay.schema import StoreSpec
from replay.store import Store

if TYPE_CHECKING:
    from envs.wrappers import FlatEnv

QUEUE_STEPS = 65_536
STREAM = "device"
WATCHDOG_STOP = "watchdog_stop"


class SimulatedRobot:
    """A Gymnasium environment as a robot: `write` notes the action, the next `read` steps the world with it.

    Episodes follow one another; each begins with a reading marked `first`.
    """

    lockstep = True
    "The world waits for the action: a late loop misses nothing of it."

    def __init__(self, env: FlatEnv, *, rng: np.random.Generator) -> None:
        self._env, self._rng = env, rng
        self._action: np.ndarray | None = None
        self._reset_due = True
        self.successes: list[float] = []
        self._reached = 0.0

    def read(self) -> Reading:
        """Reset, or step with the action written last."""
        if self._reset_due or self._action is None:
            observation, _ = self._env.reset(seed=int(self._rng.integers(2**31)))
            self._reset_due, self._reached = False, 0.0
            self._action = None
            return Reading(observation=observation, t_mono=time.monotonic(), first=True)
        # Until the step has come back well: after a fault the next read begins a new episode.
        self._reset_due = True
        observation, reward, terminated, truncated, info = self._env.step(self._action)
        self._action = None
        self._reset_due = terminated or truncated
        self._reached = max(self._reached, float(info.get("success", 0.0)))
        if self._reset_due:
            self.successes.append(self._reached)
        return Reading(
            observation=observation, t_mono=time.monotonic(), reward=reward, terminated=terminated, truncated=truncated
        )

    def write(self, action: np.ndarray) -> None:
        """Keep a copy for the next read."""
        self._action = action.copy()

    def safe_stop(self) -> None:
        """A simulation needs none: it stands still between steps."""

    def close(self) -> None:
        """Release the environment."""
        self._env.close()


def load_robot(path: str) -> Robot:
    """Build the robot of `module:factory`; the current directory is on the import path."""
    robot = build_own(path, named_by="--robot")
    for method in ("read", "write", "safe_stop", "close"):
        if not callable(getattr(robot, method, None)):
            raise AgentError(
                f"--robot {path}: its factory returned a {type(robot).__name__}, which has no method {method}(); "
                "see docs/deploy.md"
            )
    return cast(Robot, robot)


def start_watchdog(robot: str, *, stop: str, timeout_s: float) -> Watchdog:
    """The watchdog of the robot `module:factory`.

    It calls `stop` (`module:function`) where given, else the module's `watchdog_stop`, else the `safe_stop` of a robot
    that the factory builds in the watchdog's process.
    """
    module = robot.partition(":")[0]
    if stop:
        return Watchdog(stop, timeout_s=timeout_s)
    if callable(getattr(sys.modules.get(module), WATCHDOG_STOP, None)):
        return Watchdog(f"{module}:{WATCHDOG_STOP}", timeout_s=timeout_s)
    return Watchdog(robot, timeout_s=timeout_s, factory=True)


def spec_of_contract(contract: Contract) -> StoreSpec:
    """The store layout of recordings by a policy of this contract; `raw_i` is the network's pre-squash mean."""
    return StoreSpec.from_terms(
        [
            {"name": term.name, "offset": term.offset, "length": term.length, "dtype": term.dtype}
            for term in contract.observation
        ],
        contract.action.low,
        contract.action.high,
        info=("latency_s", "flags", *(f"raw_{i}" for i in range(contract.action_size))),
        env=dict(contract.env) if contract.env else None,
        source={"kind": "deployment", "policy": contract.policy_id},
    )


class StoreRecorder:
    """Writes executed steps into a store from a thread of its own; the control thread only puts into a queue.

    A full queue or a failing disk loses steps, counted in `lost`; the chain is cut there, so that no stored transition
    spans a gap: the row that ends a chain holds what its own last step led to.
    """

    def __init__(self, path: Path, contract: Contract, *, queue_steps: int = QUEUE_STEPS) -> None:
        if path.exists():
            if not (path / GROUP).exists():
                raise RunError(f"--record {path} {what_is(path)}, not a replay store: choose another name")
            store = Store.open(path)
            if store.spec.layout_fingerprint != spec_of_contract(contract).layout_fingerprint:
                raise RunError(f"--record {path} was made for another layout than this policy has: name another store")
        else:
            store = Store.create(path, spec_of_contract(contract))
        self.lost = 0
        self.recorded = 0
        self.error: str | None = None
        self._info = store.spec.info
        self._queue: queue.Queue[tuple[str, Any] | None] = queue.Queue(queue_steps)
        self._broken = True
        self._dropped = False
        self._led_to: np.ndarray | None = None
        self._writer = store.writer(STREAM)
        self._thread = threading.Thread(target=self._drain, name="recorder", daemon=True)
        self._thread.start()

    def record(self, step: dict[str, Any]) -> None:
        """Queue one step; never blocks."""
        # After a step that found the queue full, the next one begins a chain.
        step["first"] = step["first"] or self._dropped
        try:
            self._queue.put_nowait(("record", step))
            self._dropped = False
        except queue.Full:
            self.lost += 1
            self._dropped = True

    def cut(self, observation: np.ndarray) -> None:
        """Queue a break of the chain; never blocks."""
        try:
            self._queue.put_nowait(("cut", observation))
        except queue.Full:
            self._dropped = True

    def close(self) -> None:
        """Write what is queued and make it durable; what the disk refuses is told in `error`."""
        self._queue.put(None)
        self._thread.join()
        try:
            self._writer.close()
        except ReplayError as error:
            self.error = str(error)

    def _drain(self) -> None:
        while (item := self._queue.get()) is not None:
            kind, value = item
            try:
                if kind == "record":
                    self._write(value)
                else:
                    self._end_chain()
            except Exception as error:  # noqa: BLE001 - a recorder must outlive whatever the disk does; it is counted
                self.lost += kind == "record"
                self._broken = True
                self.error = str(error)

    def _write(self, step: dict[str, Any]) -> None:
        first = bool(step["first"]) or self._broken
        if first:
            self._end_chain()
        measured = {"latency_s": step["latency_s"], "flags": step["flags"]}
        measured |= {f"raw_{i}": value for i, value in enumerate(step["raw"].tolist())}
        self._writer.append(
            step["observation"], step["action"], step["reward"],
            terminated=step["terminated"], truncated=step["truncated"], next_observation=step["next_observation"],
            first=first, policy_version=step["policy_version"], intervention=step["intervention"],
            info={name: measured.get(name, 0.0) for name in self._info},
            t_wall_ns=step["t_wall_ns"], t_mono_ns=step["t_mono_ns"],
        )  # fmt: skip
        self.recorded += 1
        self._led_to = step["next_observation"]
        self._broken = step["terminated"] or step["truncated"]

    def _end_chain(self) -> None:
        """Give the last step its own outcome, whatever comes next."""
        if self._writer.in_episode and self._led_to is not None:
            self._writer.cut(self._led_to)
        self._broken = True
