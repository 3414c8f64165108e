"""A running `slipway` agent under attack: its processes found, killed and watched; what its run holds."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from agent.board import Board, Slot
from replay.store import Store
from tests.integration.command import SLIPWAY, environment

PATIENCE_SECONDS = 120.0
"""How long a test waits for what must come; a loaded machine may take most of it."""


class Agent:
    """`slipway ARGUMENTS` in the background; killed with all its children when the block ends."""

    def __init__(self, *arguments: object, cwd: Path, run: Path, extra: dict[str, str] | None = None) -> None:
        self.run = run
        self._seen: set[int] = set()
        self.process = subprocess.Popen(
            [str(SLIPWAY), *map(str, arguments)],
            cwd=cwd, env=environment(extra), text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.children()
        self.process.kill()
        self.process.communicate()
        for pid in self._seen:
            # An id may have been given to another process since; ours name the run that they belong to.
            with contextlib.suppress(OSError):
                if os.fsencode(self.run) in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                    os.kill(pid, signal.SIGKILL)

    def status(self) -> dict[str, Any]:
        """status.json once this very process has written it; before, an empty record."""
        with contextlib.suppress(OSError, json.JSONDecodeError):
            record: dict[str, Any] = json.loads((self.run / "status.json").read_text())
            if record["pid"] == self.process.pid:
                return record
        return {}

    def board(self) -> Board:
        """The run's counters as they are this instant; call it once `status` is there."""
        return Board(self.run / "board.bin")

    def wait_for(self, what: str, condition: Callable[[], bool]) -> None:
        """Until `condition`; AssertionError if the agent ends, or patience does, before."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            if self.process.poll() is not None:
                raise AssertionError(f"the agent ended before {what}: {self.process.communicate()[1]}")
            assert time.monotonic() < deadline, f"no {what} within {PATIENCE_SECONDS:.0f} s"
            time.sleep(0.005)

    def wait_online(self, *, steps: int = 0, updates: int = 0) -> None:
        """Until fine-tuning runs and at least so many online steps and updates are done."""
        self.wait_for("its first status", lambda: bool(self.status()))
        board = self.board()
        self.wait_for(
            f"{steps} online steps and {updates} updates",
            lambda: board.phase.name == "ONLINE" and board.online_steps() >= steps and self.updates() >= updates,
        )

    def updates(self) -> int:
        """Online updates on the board."""
        return self.board()[Slot.ONLINE_UPDATES]

    def children(self) -> dict[str, int]:
        """Process ids by kind: learner, collector, evaluator."""
        try:
            listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        except OSError:
            return {}
        found = {}
        for pid in map(int, listed):
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                modules = [word.decode() for word in words if word.startswith(b"agent.")]
                found.update({module.removeprefix("agent."): pid for module in modules})
        self._seen |= set(found.values())
        return found

    def kill(self, kind: str) -> int:
        """kill -9 one child; its process id."""
        pid = self.children()[kind]
        os.kill(pid, signal.SIGKILL)
        return pid

    def stop(self) -> tuple[int, float]:
        """SIGTERM to the agent; its exit code and the seconds it took."""
        started = time.monotonic()
        self.process.terminate()
        code = self.process.wait(PATIENCE_SECONDS)
        return code, time.monotonic() - started

    def finish(self) -> dict[str, Any]:
        """Wait for a successful end; what --json printed."""
        out, err = self.process.communicate(timeout=PATIENCE_SECONDS)
        assert self.process.returncode == 0, err
        record: dict[str, Any] = json.loads(out)
        return record


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def lines(path: Path) -> list[dict[str, Any]]:
    """The records of a JSON lines file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def events(run: Path) -> list[dict[str, Any]]:
    """The run's incidents and turning points."""
    return lines(run / "events.jsonl")


@dataclass(frozen=True, kw_only=True)
class Rows:
    """All committed rows of a store, by stream."""

    rows: dict[str, np.ndarray]
    """[n, W] each."""
    meta: dict[str, np.ndarray]
    """[n, 5] each."""

    @classmethod
    def of(cls, store: Path) -> Rows:
        """What a reader sees now."""
        reader = Store.open(store).reader()
        heads = reader.heads
        return cls(
            rows={stream: reader.rows(stream, 0, head) for stream, head in heads.items()},
            meta={stream: reader.meta(stream, 0, head) for stream, head in heads.items()},
        )

    def is_prefix_of(self, later: Rows) -> bool:
        """Whether nothing of this was lost or rewritten: `later` begins with it, bit by bit."""
        return all(
            np.array_equal(rows, later.rows[stream][: len(rows)])
            and np.array_equal(self.meta[stream], later.meta[stream][: len(rows)])
            for stream, rows in self.rows.items()
        )

    def __len__(self) -> int:
        return sum(map(len, self.rows.values()))
