"""Newer policies while the loop flies: found, verified and warmed up in a thread of their own.

    with PolicyWatcher(folder, runner) as watcher:
        ControlLoop(robot, runner, hz=50.0, reloader=watcher).run()

What is in the folder counts as new once it is complete: a bundle appears by one rename, a bare policy after its
checksum. Where the folder (or its `policies`) has a file LATEST, the policy that it names is the newest; otherwise it
is the one changed last; what was there before the policy in flight was written is not newer than that. A candidate that
is corrupt, does not run, or has another layout, bounds or rate than the policy in flight is refused, once, with its
reason; the old one flies on. Limits are never loosened: of each the stricter holds, the candidate's or the one that the
flight began with, so that a run's published policies, which carry none, fly under the bundle's.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from export.contract import Contract
from export.errors import ExportError
from export.matching import check_expected
from export.policy import Policy, read_policy
from export.runner import PolicyRunner
from export.watchdog import take_every_core

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.25
WARM_UP_RUNS = 20


class PolicyWatcher:
    """Looks for newer policies every `poll_s`; `take` hands each sound one over once."""

    def __init__(
        self,
        folder: Path,
        flying: PolicyRunner,
        *,
        expect: Mapping[str, Any] | None = None,
        read: Callable[[Path], Policy] = read_policy,
        poll_s: float = POLL_SECONDS,
    ) -> None:
        """Start to watch `folder`; `expect` as for `PolicyRunner`, `read` reads and checks a candidate.

        Raises ExportError where there is no such folder.
        """
        if not folder.is_dir():
            raise ExportError(f"{folder}: no such folder to watch for newer policies")
        self.refused = 0
        "Candidates that were refused."
        self.reason: str | None = None
        "Why the last of them was refused."
        self._folder, self._read, self._poll_s = folder, read, poll_s
        self._flying, self._expect = flying.contract, expect or {}
        self._written = written_at(flying.policy)
        "When the policy in flight was; None where unknown, and once the folder has been looked at."
        self._frozen_after = flying.frozen_after
        self._known = flying.policy.model
        self._seen: tuple[str, int, int] | None = None
        self._ready: PolicyRunner | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="policy watcher", daemon=True)
        self._thread.start()

    def take(self) -> PolicyRunner | None:
        """The newest sound policy since the last call, ready to run; None without one. Never blocks."""
        ready = self._ready
        if ready is not None:
            # One reference is exchanged; a policy that arrives in between is taken at a later step.
            self._ready = None
        return ready

    def close(self) -> None:
        """Stop watching."""
        self._ending.set()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _watch(self) -> None:
        give_way()
        while not self._ending.is_set():
            try:
                self._look()
            except Exception as error:
                logger.exception("looking for newer policies failed; the old one flies on")
                self._refuse(f"{self._folder}: {error}")
            self._ending.wait(self._poll_s)

    def _look(self) -> None:
        if self._ready is not None:
            return  # the loop has not taken the last one yet: it holds a fault, or between two steps
        found = newest_policy(self._folder)
        if found is None or found[1] == self._seen:
            return
        path, self._seen = found
        written, self._written = self._written, None
        if written is not None and self._seen[1] <= written:
            return
        try:
            runner = self._open(path)
        except ExportError as error:
            self._refuse(str(error) if str(path) in str(error) else f"{path}: {error}")
            return
        if runner is not None:
            self._known = runner.policy.model
            self._ready = runner

    def _open(self, path: Path) -> PolicyRunner | None:
        policy = self._read(path)
        if policy.model == self._known:
            return None
        same = same_robot(self._flying)
        if policy.contract.control.hz is None:
            del same["control"]
        check_expected(policy.contract.to_dict(), same, where=policy.source)
        policy = replace(policy, contract=held_to(policy.contract, self._flying))
        runner = PolicyRunner(policy, expect=self._expect, frozen_after=self._frozen_after)
        observation = np.asarray(policy.contract.normalizer.mean, np.float32)
        for _ in range(WARM_UP_RUNS):
            runner.step(observation)
        runner.reset()
        return runner

    def _refuse(self, reason: str) -> None:
        self.refused += 1
        self.reason = reason
        logger.warning("newer policy refused, the old one flies on: %s", reason)


def same_robot(contract: Contract) -> dict[str, Any]:
    """What a newer policy must have in common with the one in flight: layout, units, bounds, rate, robot."""
    plain = contract.to_dict()
    return {
        "observation": [
            {key: term[key] for key in ("name", "offset", "length", "unit")} for term in plain["observation"]
        ],
        "action": {key: plain["action"][key] for key in ("names", "units", "low", "high")},
        "control": {"hz": plain["control"]["hz"]},
        "robot": plain["robot"],
    }


def written_at(policy: Policy) -> int | None:
    """When the files that `policy` was read from were changed last, in ns; None for bytes."""
    path = Path(policy.source)
    state = _state(path) or _state(path.parent)  # a bundle's policy is a file in its folder
    return state[1] if state else None


def held_to(contract: Contract, flying: Contract) -> Contract:
    """`contract`, of the same robot, with the rate of `flying` and the stricter of each limit of the two."""
    control, other = contract.control, flying.control
    return replace(
        contract,
        observation=tuple(
            replace(
                term,
                valid_min=_tighter(max, term.valid_min, own.valid_min),
                valid_max=_tighter(min, term.valid_max, own.valid_max),
            )
            for term, own in zip(contract.observation, flying.observation, strict=True)
        ),
        action=replace(contract.action, rate_limit=_tighter(min, contract.action.rate_limit, flying.action.rate_limit)),
        control=replace(
            control,
            hz=other.hz,
            max_obs_age_ms=min((ms for ms in (control.max_obs_age_ms, other.max_obs_age_ms) if ms), default=None),
            deadline_ms=min((ms for ms in (control.deadline_ms, other.deadline_ms) if ms), default=None),
            on_fault="safe" if "safe" in (control.on_fault, other.on_fault) else "hold",
            hold_steps=min(control.hold_steps, other.hold_steps),
        ),
    )


def _tighter(
    choose: Callable[[float, float], float], one: tuple[float, ...] | None, other: tuple[float, ...] | None
) -> tuple[float, ...] | None:
    if one is None or other is None:
        return other if one is None else one
    return tuple(map(choose, one, other))


def give_way() -> None:
    """Let this thread not have the control thread's real-time priority, nor be held to its cores.

    Two threads of one real-time priority on one core do not take turns: loading a policy would stop the robot's loop.
    """
    if os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        take_every_core()


def newest_policy(folder: Path) -> tuple[Path, tuple[str, int, int]] | None:
    """The newest complete policy in `folder` with what identifies this state of it; None where there is none.

    A file that vanishes while we look is another look's business.
    """
    for pointer in (folder / "LATEST", folder / "policies" / "LATEST"):
        try:
            named = pointer.parent / pointer.read_text(encoding="utf-8").strip()
        except (FileNotFoundError, NotADirectoryError):
            continue
        state = _state(named)
        return (named, state) if state else None
    states = [(path, state) for path in folder.iterdir() if (state := _state(path))]
    return max(states, key=lambda entry: (entry[1][1], entry[0].name), default=None)


def _state(path: Path) -> tuple[str, int, int] | None:
    """Path, last change (ns) and bytes of a complete policy; None for anything else.

    All files count, so that a bundle copied file by file, refused while it was incomplete, is looked at again.
    """
    if path.name.startswith("."):
        return None
    try:
        if path.suffix == ".onnx":
            files = [path, path.with_name(path.name + ".sha256")]
        elif (path / "manifest.sha256").exists():
            files = [path, *path.iterdir()]
        else:
            return None
        found = [file.stat() for file in files]
    except OSError:
        return None
    return str(path), max(status.st_mtime_ns for status in found), sum(status.st_size for status in found)
