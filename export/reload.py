"""Newer policies while the loop flies: found, verified and warmed up in a thread of their own.

    with PolicyWatcher(folder, runner) as watcher:
        ControlLoop(robot, runner, hz=50.0, reloader=watcher).run()

What is in the folder counts as new once it is complete: a bundle appears by one rename, a bare policy after its
checksum. Where the folder (or its `policies`) has a file LATEST, the policy that it names is the newest; otherwise it
is the one changed last. A candidate that is corrupt, does not run, or has another layout, bounds or rate than the
policy in flight is refused, once, with its reason; the old one flies on.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from export.contract import Contract
from export.errors import ExportError
from export.matching import check_expected
from export.policy import Policy, read_policy
from export.runner import PolicyRunner

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
        self._expected = [same_robot(flying.contract), *([expect] if expect is not None else [])]
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
        for expected in self._expected:
            check_expected(policy.contract.to_dict(), expected, where=policy.source)
        runner = PolicyRunner(policy, frozen_after=self._frozen_after)
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


def newest_policy(folder: Path) -> tuple[Path, tuple[str, int, int]] | None:
    """The newest complete policy in `folder` with what identifies this state of it; None where there is none.

    A file that vanishes while we look is another look's business.
    """
    for pointer in (folder / "LATEST", folder / "policies" / "LATEST"):
        try:
            named = pointer.parent / pointer.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
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
