"""Composes runner, robot (a simulated one included) and recorder into a deployment. Torch-free.

A robot of your own is a `module:factory` whose factory returns an `export.control_loop.Robot`; only a simulated one
needs gymnasium.
"""

from __future__ import annotations

import importlib
import queue
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from agent.errors import AgentError, RunError
from export.contract import Contract
from export.control_loop import Reading, Robot
from replay.schema import StoreSpec
from replay.store import Store

if TYPE_CHECKING:
    from envs.wrappers import FlatEnv

QUEUE_STEPS = 65_536
STREAM = "device"


class SimulatedRobot:
    """A Gymnasium environment as a robot: `write` notes the action, the next `read` steps the world with it.

    Episodes follow one another; each begins with a reading marked `first`.
    """

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
    module_name, colon, factory_name = path.partition(":")
    if not colon or not module_name or not factory_name:
        raise AgentError(f"--robot is {path!r} but must be module:factory, e.g. examples.my_robot:make_robot")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except ModuleNotFoundError as error:
        raise AgentError(f"--robot {path}: no module named {error.name}; run where it can be imported") from error
    except AttributeError as error:
        raise AgentError(f"--robot {path}: module {module_name} has no {factory_name}") from error
    robot = factory()
    for method in ("read", "write", "safe_stop", "close"):
        if not callable(getattr(robot, method, None)):
            raise AgentError(f"--robot {path}: {type(robot).__name__} has no method {method}(); see docs/deploy.md")
    return cast(Robot, robot)


def spec_of_contract(contract: Contract) -> StoreSpec:
    """The store layout of recordings by a policy of this contract."""
    return StoreSpec.from_terms(
        [
            {"name": term.name, "offset": term.offset, "length": term.length, "dtype": term.dtype}
            for term in contract.observation
        ],
        contract.action.low,
        contract.action.high,
        env=dict(contract.env) if contract.env else None,
        source={"kind": "deployment", "policy": contract.policy_id},
    )


class StoreRecorder:
    """Writes executed steps into a store from a thread of its own; the control thread only puts into a queue.

    A full queue or a failing disk loses steps, counted in `lost`; the chain is cut there, so that no stored transition
    spans a gap.
    """

    def __init__(self, path: Path, contract: Contract) -> None:
        if path.exists():
            store = Store.open(path)
            if store.spec.layout_fingerprint != spec_of_contract(contract).layout_fingerprint:
                raise RunError(f"--record {path} was made for another layout than this policy has: name another store")
        else:
            store = Store.create(path, spec_of_contract(contract))
        self.lost = 0
        self.recorded = 0
        self.error: str | None = None
        self._info = dict.fromkeys(store.spec.info, 0.0)
        self._queue: queue.Queue[tuple[str, Any] | None] = queue.Queue(QUEUE_STEPS)
        self._broken = True
        self._writer = store.writer(STREAM)
        self._thread = threading.Thread(target=self._drain, name="recorder", daemon=True)
        self._thread.start()

    def record(self, step: dict[str, Any]) -> None:
        """Queue one step; never blocks."""
        self._put("record", step)

    def cut(self, observation: np.ndarray) -> None:
        """Queue a break of the chain; never blocks."""
        self._put("cut", observation)

    def close(self) -> None:
        """Write what is queued and make it durable."""
        self._queue.put(None)
        self._thread.join()
        self._writer.close()

    def _put(self, kind: str, value: Any) -> None:
        try:
            self._queue.put_nowait((kind, value))
        except queue.Full:
            self.lost += 1

    def _drain(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                self._write(*item)
            except Exception as error:  # noqa: BLE001 - a recorder must outlive whatever the disk does; it is counted
                self.lost += 1
                self._broken = True
                self.error = str(error)

    def _write(self, kind: str, value: Any) -> None:
        if kind == "cut":
            if self._writer.in_episode:
                self._writer.cut(value)
            self._broken = True
            return
        first = bool(value["first"]) or self._broken
        if first and self._writer.in_episode:
            self._writer.cut(value["observation"])
        self._writer.append(
            value["observation"], value["action"], value["reward"],
            terminated=value["terminated"], truncated=value["truncated"], next_observation=value["next_observation"],
            first=first, policy_version=value["policy_version"], info=self._info,
            t_wall_ns=value["t_wall_ns"], t_mono_ns=value["t_mono_ns"],
        )  # fmt: skip
        self.recorded += 1
        self._broken = value["terminated"] or value["truncated"]
