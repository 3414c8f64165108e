"""Interleaved measurements, their table and their JSON: what every benchmark has in common.

    with Process([python, "benchmarks/replay_peers.py", "cpprb", path]) as peer:
        seconds = interleave({"ours": sampler.next, "cpprb": peer}, rounds=5, budget_s=0.3)
    results.compare("sample_vs_cpprb", 256 / seconds["ours"], 256 / seconds["cpprb"], "rows/s", "cpprb")

A contender is a callable of this process, or a `Process` that times its own calls on request, so that no pipe or
interpreter start is on its time. Only one contender runs at any moment.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from benchmarks.serving import time_calls

HERE = Path(__file__).parent
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "BLOSC_NTHREADS"), "1")


class Process:
    """A contender in a process of its own that speaks `serving.serve`'s protocol; a context manager."""

    def __init__(self, command: Sequence[object], *, env: Mapping[str, str] = ONE_THREAD) -> None:
        """Start it, and wait until it is ready.

        Raises:
            RuntimeError: it ended before it was ready.
        """
        self._name = " ".join(map(str, command))
        self._process = subprocess.Popen(
            [str(each) for each in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, **env},
        )  # fmt: skip
        while not (line := self._line()).startswith('{"ready"'):
            print(line, end="", file=sys.stderr)  # a library's own, before `serve`
        self.about: dict[str, Any] = json.loads(line)
        """What the peer said about itself when it was ready."""

    def time_calls(self, count: int, name: str = "") -> float:
        """Seconds that `count` calls (of those it serves under `name`) took over there.

        Raises:
            RuntimeError: the process ended.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(f"{count} {name}\n")
        self._process.stdin.flush()
        return float(self._line())

    def named(self, name: str) -> Timed:
        """One of several calls that the process serves, as a contender."""
        return Timed(lambda count: self.time_calls(count, name))

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.close()
            raise RuntimeError(f"{self._name} ended with status {self._process.returncode}: its error is above")
        return line

    def close(self) -> None:
        """End the process and wait for it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class Timed:
    """A contender that times itself: a count of calls in, seconds out."""

    time_calls: Callable[[int], float]


Contender = Callable[[], object] | Process | Timed


def interleave(
    contenders: Mapping[str, Contender], *, rounds: int = 5, budget_s: float = 0.3, most: int = 1_000_000
) -> dict[str, float]:
    """Median seconds a call, contender by contender.

    The contenders take turns, A B C A B C ..., so that a slow minute of the machine meets all of them. Each runs as
    many calls a turn as fill about `budget_s` (at least 1, at most `most`), found in a warm-up that is not counted.
    """
    if rounds < 5:
        raise ValueError(f"medians of {rounds} rounds are no figures: at least 5")
    calls = {name: _calls_for(each, budget_s, most) for name, each in contenders.items()}
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, each in contenders.items():
            taken[name].append(_timed(each, calls[name]) / calls[name])
    return {name: float(np.median(values)) for name, values in taken.items()}


def _timed(contender: Contender, count: int) -> float:
    return contender.time_calls(count) if isinstance(contender, Process | Timed) else time_calls(contender, count)


def _calls_for(contender: Contender, budget_s: float, most: int) -> int:
    count = 1
    _timed(contender, 1)  # first-call costs are nobody's speed
    while True:
        seconds = _timed(contender, count)
        if seconds >= budget_s / 4 or count >= most:
            return max(1, min(most, int(count * budget_s / max(seconds, 1e-9))))
        count = min(most, count * 4)


def machine(packages: Sequence[str] = (), peers: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What the figures depend on: platform, cores, load before the run, versions here and of the peers."""
    model = ""
    if (cpuinfo := Path("/proc/cpuinfo")).exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].split(":", 1)[1].strip() if lines else ""
    return {
        "platform": platform.platform(), "processor": model, "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0], "python": platform.python_version(), "numpy": np.__version__,
        **{name: metadata.version(name) for name in packages}, **(peers or {}),
    }  # fmt: skip


class Results:
    """Rows of one benchmark: printed as they come, written at the end."""

    def __init__(self, about: dict[str, Any]) -> None:
        self.machine = about
        self.rows: list[dict[str, Any]] = []
        print(" ".join(f"{key}={value}" for key, value in about.items()), flush=True)
        print(f"{'':<36} {'ours':>13} {'theirs':>13} {'':<10} {'ratio':>8}", flush=True)

    def compare(self, name: str, value: float, peer: float, unit: str, against: str) -> float:
        """Add a row; `ratio` is ours over theirs, whatever the unit. Returns the ratio."""
        ratio = value / peer
        row = {"name": name, "value": value, "unit": unit, "against": against, "peer": peer, "ratio": ratio}
        self.rows.append(row)
        print(f"{name:<36} {value:13,.3f} {peer:13,.3f} {unit:<10} {ratio:8.3f}  against {against}", flush=True)
        return ratio

    def write(self, path: Path | None) -> None:
        """Write {"machine", "rows"} where a path was asked for."""
        if path is not None:
            path.write_text(json.dumps({"machine": self.machine, "rows": self.rows}, indent=1) + "\n")
