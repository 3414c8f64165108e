"""A fine-tuning run of the real command as a contender: between its turns every process of it stands still."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from agent.board import Board, CollectorSlot, Phase, Slot
from benchmarks.measure import ONE_THREAD
from replay.store import Store

PATIENCE_SECONDS = 120.0


def descendants(pid: int) -> list[int]:
    """Process ids of a process and all below it, parents first."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in task.read_text().split():
                found += descendants(int(child))
    return found


def module_of(pid: int) -> str:
    """The `agent.` module that a process runs, or nothing."""
    with contextlib.suppress(OSError):
        for word in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
            if word.startswith(b"agent."):
                return word.decode()
    return ""


def scheduled_ns(pid: int) -> np.ndarray:
    """(on a core, ready but without one) of all threads of a process so far, in ns."""
    total = np.zeros(2, np.int64)
    for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):
            total += np.fromstring(task.read_text(), dtype=np.int64, sep=" ")[:2]
    return total


def resident_mb(pid: int) -> float:
    """Resident memory of one process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


class OnlineRun:
    """`slipway train ARGUMENTS` in the background; a context manager that ends it with all its children."""

    def __init__(self, path: Path, arguments: list[object], *, utd: float) -> None:
        self.path, self._utd = path, utd
        self._done = 0.0
        self.ran_seconds = 0.0
        """Total of all turns."""
        self._began = time.monotonic()
        with path.with_name(f"{path.name}.log").open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "agent.cli", "train", *map(str, arguments), "--out", str(path), "--json"],
                env={**os.environ, **ONE_THREAD}, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def __enter__(self) -> OnlineRun:
        return self

    def __exit__(self, *_: object) -> None:
        self._signal(signal.SIGCONT)
        # Killed, not asked to stop: its folder goes with the benchmark.
        for pid in reversed(descendants(self._process.pid)):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: int) -> None:
        """To all processes; those at the leaves wake first, so that nobody finds an answer overdue."""
        pids = descendants(self._process.pid)
        for pid in reversed(pids) if number == signal.SIGCONT else pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _wait(self, what: str, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            if self._process.poll() is not None:
                raise RuntimeError(f"the run ended before {what}: see {self.path}.log and {self.path}/logs")
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"no {what} within {PATIENCE_SECONDS:.0f} s: see {self.path}.log and {self.path}/logs"
                )
            time.sleep(0.003)

    def first_step_seconds(self) -> float:
        """Wait for the first online step; seconds since the command was started, imports included."""
        self._wait("a board", (self.path / "board.bin").exists)
        self.board = Board(self.path / "board.bin")
        self._wait("an online step", lambda: self.board.online_steps() > 0)
        return time.monotonic() - self._began

    def settle(self) -> None:
        """Wait until fine-tuning goes its pace: one side has met the limiter, no evaluation runs; then stand still."""
        self._wait("the online phase", lambda: self.board.phase == Phase.ONLINE and self._updates() > 10)
        waited = self._waited()
        self._wait("a side that waits", lambda: self._waited() > waited and not self._of("agent.evaluator"))
        self._steps_0, self._updates_0 = self.board.online_steps(), self._updates()
        self._signal(signal.SIGSTOP)
        self._scheduled_0 = {pid: scheduled_ns(pid) for pid in descendants(self._process.pid)}

    def _updates(self) -> int:
        return self.board[Slot.ONLINE_UPDATES]

    def _waited(self) -> int:
        return self.board[Slot.LEARNER_WAIT_NS] + int(self.board.collector(0)[CollectorSlot.WAIT_NS])

    def _of(self, module: str) -> list[int]:
        return [pid for pid in descendants(self._process.pid) if module_of(pid) == module]

    def _progress(self) -> float:
        """Environment steps since `settle` that have had their share of updates: what the slower side has done."""
        return min(self.board.online_steps() - self._steps_0, (self._updates() - self._updates_0) / self._utd)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """All processes go on within this block."""
        self._signal(signal.SIGCONT)
        try:
            yield
        finally:
            self._signal(signal.SIGSTOP)

    def time_steps(self, count: int) -> float:
        """Seconds that `count` more steps with their updates take; what one side is ahead carries over."""
        self._done += count
        with self.running():
            began = time.perf_counter()
            self._wait(f"{count} steps", lambda: self._progress() >= self._done)
            taken = time.perf_counter() - began
        self.ran_seconds += taken
        return taken

    def where_time_went(self) -> str:
        """Shares of the turns' time that each process has run, and stood ready while others had the cores."""
        parts = []
        for pid in descendants(self._process.pid):
            ran, ready = (scheduled_ns(pid) - self._scheduled_0.get(pid, 0)) / 1e9 / self.ran_seconds
            parts.append(f"{module_of(pid) or pid} {100 * ran:.0f} % (ready {100 * ready:.0f} %)")
        return ", ".join(parts)

    def staleness(self, seconds: float) -> np.ndarray:
        """Age in seconds of the acting version at each step stored within the next `seconds`, uninterrupted."""
        published: dict[int, int] = {}
        over = threading.Event()

        def watch() -> None:
            while not over.wait(0.002):
                published.setdefault(self.board[Slot.POLICY_VERSION], time.monotonic_ns())

        first = self.board[Slot.POLICY_VERSION]
        heads = dict(Store.open(self.path / "replay.zarr").reader().heads)
        watcher = threading.Thread(target=watch)
        watcher.start()
        with self.running():
            time.sleep(seconds)
        over.set()
        watcher.join()
        reader = Store.open(self.path / "replay.zarr").reader()
        ages = []
        for stream, head in reader.heads.items():
            for row in reader.meta(stream, heads.get(stream, 0), head):
                version, mono = int(row[0]), int(row[2])
                # The version that acts when the run wakes up has aged in its sleep.
                if version > first and version in published:
                    ages.append((mono - published[version]) / 1e9)
        return np.asarray(ages)

    def collector_mb(self) -> float:
        """Resident memory of collector 0 and its environment's process, in MiB."""
        (collector,) = self._of("agent.collector")
        return sum(map(resident_mb, descendants(collector)))

    def loads_torch(self) -> bool:
        """Whether the collector has torch mapped."""
        (collector,) = self._of("agent.collector")
        return "libtorch" in Path(f"/proc/{collector}/maps").read_text()
