"""Fine-tuning under a fault every few seconds: nothing committed is lost, memory stays flat, most of the pace is kept.

    python -m benchmarks.soak [--seconds 3600] [--every 10] [--seed 0] [--json FILE]

The real command fine-tunes twice, first undisturbed, then with a random fault every `--every` seconds: kill -9 of the
learner or of a collector, SIGSTOP of an environment. Just before each fault all rows that are committed are noted by
their checksum, and found again at the end. Memory is the anonymous resident memory of the run's processes (the
store's pages belong to the page cache), its growth that from the second quarter of the time to the last.

Exit code 1 where a step is lost, memory grows by more than 2 %, or half of the pace is lost.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from agent.board import Board, CollectorSlot, Phase, Slot
from benchmarks.measure import ONE_THREAD, Results, machine
from benchmarks.online_run import descendants, module_of
from benchmarks.soak_env import SCALE
from replay.store import Store

ENV = "benchmarks.soak_env:CountedCheetah-v0"
COLLECTORS = 2
FLAGS: tuple[object, ...] = (
    "--env", ENV, "--pretrain-steps", 200, "--online-steps", 10**9, "--online.collectors", COLLECTORS,
    "--online.warmup-steps", 500, "--online.utd", 0.1, "--online.step-deadline-seconds", 2.0,
    "--algorithm.hidden", 64, 64, "--algorithm.batch-size", 64, "--checkpoint.every-updates", 100,
    "--executor", "eager", "--evaluation.final-episodes", 1, "--evaluation.every-steps", 0, "--log-every", 50,
)  # fmt: skip
LEARNER = "agent.learner"
FAULTS = {LEARNER: signal.SIGKILL, "agent.collector": signal.SIGKILL, "agent.env_child": signal.SIGSTOP}
MOST_GROWTH, LEAST_PACE = 0.02, 0.5
PATIENCE_SECONDS = 120.0
TICK_SECONDS = 0.1
WARM_SECONDS = 5.0
"""A process younger than this is still growing into its size."""


@dataclass(kw_only=True)
class Note:
    """Committed rows [start, stop) of a stream as they were seen once."""

    stream: str
    start: int
    stop: int
    checksum: int


@dataclass(kw_only=True)
class Hit:
    """A fault: whom it met."""

    module: str
    pid: int
    version: int
    """Newest policy then."""
    at: float = field(default_factory=time.monotonic)


@dataclass(kw_only=True)
class Life:
    """What was seen of one run."""

    steps_per_second: float = 0.0
    memory: dict[str, tuple[float, float]] = field(default_factory=dict)
    """MiB by kind of process, in the second quarter of the time and in the last."""
    faults: Counter[str] = field(default_factory=Counter)
    recoveries: list[float] = field(default_factory=list)
    """Seconds from each fault until whoever met it was at work again."""
    lost: int = 0
    committed: int = 0


class Ledger:
    """Notes of committed rows, and whether they are still there."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._notes: list[Note] = []
        self._seen: dict[str, int] = {}

    def note(self) -> None:
        """Write down what has been committed since."""
        reader = Store.open(self._store).reader()
        for stream, head in reader.heads.items():
            start = self._seen.get(stream, 0)
            if head > start:
                self._notes.append(
                    Note(stream=stream, start=start, stop=head, checksum=self._sum(reader, stream, start, head))
                )
                self._seen[stream] = head

    def lost(self) -> int:
        """Rows that were committed once and are gone or differ."""
        reader = Store.open(self._store).reader()
        gone = 0
        for note in self._notes:
            head = reader.heads.get(note.stream, 0)
            if head < note.stop or self._sum(reader, note.stream, note.start, note.stop) != note.checksum:
                gone += note.stop - note.start
        return gone

    @staticmethod
    def _sum(reader: object, stream: str, start: int, stop: int) -> int:
        rows, meta = reader.rows(stream, start, stop), reader.meta(stream, start, stop)  # type: ignore[attr-defined]
        return zlib.crc32(meta.tobytes(), zlib.crc32(rows.tobytes()))


def out_of_place(store: Path) -> int:
    """Rows whose counter is not the one after the row before, or 0 at an episode's begin, and rows stored twice."""
    opened = Store.open(store)
    spec, reader = opened.spec, opened.reader()
    wrong = 0
    for stream, head in reader.heads.items():
        rows, meta = reader.rows(stream, 0, head), reader.meta(stream, 0, head)
        count = rows[:, spec.observation_size - 1] / SCALE
        first = rows[:, spec.offsets["first"]] > 0
        valid = rows[:, spec.offsets["valid"]] > 0
        expected = np.where(first, 0.0, np.append(0.0, count[:-1] + 1))
        wrong += int((count != expected).sum())
        # A step is stamped when it is committed; an episode's last row bears its last step's stamp.
        stamps = meta[valid, 2]
        wrong += int((np.diff(stamps) <= 0).sum())
        episodes = meta[valid, 4]
        wrong += int(((np.diff(episodes) != 0) & (np.diff(episodes) != 1)).sum())
    return wrong


class Memory:
    """Anonymous resident memory of a run's processes by kind, of those that have been there for a while."""

    def __init__(self) -> None:
        self._born: dict[int, float] = {}
        self._samples: dict[str, list[tuple[float, float]]] = {}

    def sample(self, pids: list[int], *, learner: bool) -> None:
        """Look at all processes now; at the learner only where it is at work, and has been for a while."""
        now = time.monotonic()
        for pid in pids:
            if now - self._born.setdefault(pid, now) < WARM_SECONDS or (not learner and module_of(pid) == LEARNER):
                continue
            with contextlib.suppress(OSError):
                _, there, rest = Path(f"/proc/{pid}/status").read_text().partition("RssAnon:")
                if there:  # one that has died and waits for its parent has no memory any more
                    self._samples.setdefault(module_of(pid), []).append((now, int(rest.split()[0]) / 1024))

    def medians(self, began: float, ended: float) -> dict[str, tuple[float, float]]:
        """MiB by kind in the second quarter of the time and in the last."""
        quarter = (ended - began) / 4
        found = {}
        for kind, samples in self._samples.items():
            early = [mb for at, mb in samples if began + quarter <= at < began + 2 * quarter]
            late = [mb for at, mb in samples if at >= ended - quarter]
            if early and late:
                found[kind] = float(np.median(early)), float(np.median(late))
        return found


class Run:
    """One run of the real command; a context manager that ends it."""

    def __init__(self, path: Path, data: Path) -> None:
        self.path = path
        with path.with_name(f"{path.name}.log").open("w") as log:
            command = ["train", "--replay", data, *FLAGS, "--out", path, "--json"]
            self.process = subprocess.Popen(
                [sys.executable, "-m", "agent.cli", *map(str, command)],
                env={**os.environ, **ONE_THREAD}, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        for pid in reversed(descendants(self.process.pid)):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def alive(self) -> None:
        """RuntimeError if it has ended."""
        if self.process.poll() is not None:
            words = self.path.with_name(f"{self.path.name}.log").read_text()[-400:]
            raise RuntimeError(f"the run ended with code {self.process.returncode}: {words}")

    def begin(self) -> None:
        """Wait until it fine-tunes with all collectors."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (self.path / "status.json").exists():
            self._patience(deadline)
        self.board = Board(self.path / "board.bin")
        while self.board.phase != Phase.ONLINE or len(self.of("agent.env_child")) < COLLECTORS:
            self._patience(deadline)

    def _patience(self, deadline: float) -> None:
        self.alive()
        if time.monotonic() > deadline:
            raise RuntimeError(f"no fine-tuning within {PATIENCE_SECONDS:.0f} s: see {self.path}/logs")
        time.sleep(TICK_SECONDS)

    def of(self, module: str) -> list[int]:
        """Processes that run a module; of the environments', the environments and not what forks them."""
        found = [pid for pid in descendants(self.process.pid) if module_of(pid) == module]
        return [pid for pid in found if module != "agent.env_child" or len(descendants(pid)) == 1]

    def stop(self) -> float:
        """SIGTERM; seconds until it has left with code 0."""
        began = time.monotonic()
        self.process.terminate()
        if code := self.process.wait(60):
            raise RuntimeError(f"the stopped run ended with code {code}")
        return time.monotonic() - began


def live(path: Path, data: Path, *, seconds: float, every: float | None, rng: np.random.Generator) -> Life:
    """Fine-tune for `seconds`, with a fault every `every` seconds."""
    life = Life()
    with Run(path, data) as run:
        run.begin()
        ledger, memory = Ledger(path / "replay.zarr"), Memory()
        began, steps = time.monotonic(), run.board.online_steps()
        sample_at = began
        fault_at = began + every if every else np.inf
        learner_warm_at = began + WARM_SECONDS
        hit: Hit | None = None
        while (now := time.monotonic()) < began + seconds:
            run.alive()
            if now >= sample_at:
                memory.sample(descendants(run.process.pid), learner=now >= learner_warm_at)
                sample_at += 1.0
            if hit is not None and back_at_work(run, hit):
                life.recoveries.append(now - hit.at)
                if hit.module == LEARNER:
                    learner_warm_at = now + WARM_SECONDS
                hit = None
            if now >= fault_at:
                ledger.note()
                if (hit := strike(run, rng)) is not None:
                    life.faults[hit.module] += 1
                    if hit.module == LEARNER:
                        learner_warm_at = np.inf
                fault_at += every or 0.0
            time.sleep(TICK_SECONDS)
        life.steps_per_second = (run.board.online_steps() - steps) / (time.monotonic() - began)
        life.memory = memory.medians(began, time.monotonic())
        ledger.note()
        run.stop()
        life.lost = ledger.lost() + out_of_place(path / "replay.zarr")
        life.committed = Store.open(path / "replay.zarr").num_steps
    return life


def strike(run: Run, rng: np.random.Generator) -> Hit | None:
    """One random fault. None where that process is just being replaced."""
    module = str(rng.choice(list(FAULTS)))
    pids = run.of(module)
    if not pids:
        return None
    hit = Hit(module=module, pid=int(rng.choice(pids)), version=run.board[Slot.POLICY_VERSION])
    with contextlib.suppress(ProcessLookupError):
        os.kill(hit.pid, FAULTS[module])
    return hit


def back_at_work(run: Run, hit: Hit) -> bool:
    """Whether another process stands in the victim's place, and publishes, or steps its environment."""
    others = run.of(hit.module)
    if hit.pid in others or len(others) < (1 if hit.module == LEARNER else COLLECTORS):
        return False
    if hit.module == LEARNER:
        return run.board[Slot.POLICY_VERSION] > hit.version
    beats = [run.board.collector(index)[CollectorSlot.BEAT] / 1e9 for index in range(COLLECTORS)]
    return min(beats) > hit.at and len(run.of("agent.env_child")) == COLLECTORS


def main() -> int:
    """Both runs, the table, the verdict."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3600.0, help="of the run with faults")
    parser.add_argument("--undisturbed", type=float, help="seconds of the other; by default a tenth, at least 20")
    parser.add_argument("--every", type=float, default=10.0, help="seconds between faults")
    parser.add_argument("--seed", type=int, default=0, help="chooses the faults")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    results = Results(machine(["torch"]))
    rng = np.random.default_rng(args.seed)
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name)
        data = folder / "data.zarr"
        collect = ["collect", "--env", ENV, "--policy", "random", "--steps", "2000", "--out", str(data)]
        subprocess.run([sys.executable, "-m", "agent.cli", *collect], check=True, stdout=subprocess.DEVNULL)
        seconds = args.undisturbed or max(20.0, args.seconds / 10)
        undisturbed = live(folder / "undisturbed", data, seconds=seconds, every=None, rng=rng)
        disturbed = live(folder / "disturbed", data, seconds=args.seconds, every=args.every, rng=rng)
    counts = ", ".join(f"{count} {module.removeprefix('agent.')}" for module, count in disturbed.faults.items())
    print(f"  {sum(disturbed.faults.values())} faults: {counts}", flush=True)
    pace = results.compare(
        "soak_steps_vs_undisturbed",
        disturbed.steps_per_second,
        undisturbed.steps_per_second,
        "steps/s",
        "without faults",
    )
    print("  MiB of " + ", ".join(f"{kind} {a:.1f} → {b:.1f}" for kind, (a, b) in disturbed.memory.items()), flush=True)
    before, after = (sum(pair[which] for pair in disturbed.memory.values()) for which in (0, 1))
    grown = after / before - 1.0
    results.compare("soak_memory_growth", 100 * grown, 100 * MOST_GROWTH, "%", "the limit")
    results.compare("soak_steps_lost", disturbed.lost, disturbed.committed, "steps", "steps committed")
    if disturbed.recoveries:
        worst = float(np.max(disturbed.recoveries))
        results.compare("soak_recovery_s_median", float(np.median(disturbed.recoveries)), worst, "s", "the slowest")
    results.write(args.json)
    return int(disturbed.lost > 0 or grown > MOST_GROWTH or pace < LEAST_PACE)


if __name__ == "__main__":
    sys.exit(main())
