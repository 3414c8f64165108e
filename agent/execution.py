"""How a run's updates are executed: chosen once at each start, saved with checkpoints, compared at a resume."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor

from agent.algorithms.base import Algorithm
from agent.board import Board
from agent.config import TrainConfig
from agent.executors.choose import choose
from agent.executors.threads import Threads, choose_threads, free_cores, named
from agent.run_directory import RunDirectory

LARGE_VALUE = 50.0
"""|Q| from which bf16 products are worth a note: the advantage is a small difference of such values."""


class Execution:
    """The learner's executor, precision and threads."""

    def __init__(self, run: RunDirectory, board: Board, algorithm: Algorithm[Any], config: TrainConfig) -> None:
        self._run, self._board, self._algorithm, self._config = run, board, algorithm, config
        self._saved: Mapping[str, Any] | None = None
        self._noted = False
        self.name = "eager"

    def resume(self, saved: Mapping[str, Any] | None) -> None:
        """Remember how the checkpoint's updates were executed; None if it does not say."""
        self._saved = saved

    def choose(self, *, to_come: int) -> None:
        """Give the algorithm threads and an executor for `to_come` updates; an event of a new run says which and why.

        What is not asked for is the checkpoint's in a resumed run, so that it goes on bit for bit.
        """
        asked = self._config.executor
        if asked == "auto" and self._saved is not None:
            asked = self._saved["executor"]
        with self.alive():
            threads = self._choose_threads(to_come)
            choice = choose(
                self._algorithm, asked, updates=to_come, working=self.alive,
                say=lambda message: self._run.event("not_compiled", message),
            )  # fmt: skip
        self._algorithm.executor, self.name = choice.executor, choice.name
        if self._saved is None:
            why = f"{choice.reason}; on {threads.reason}"
            self._run.event("executor", f"updates run {choice.name}: {why}", **self.state_dict())
            return
        changed = {
            k: f"{self._saved.get(k)} → {now}" for k, now in self.state_dict().items() if self._saved.get(k) != now
        }
        if changed:
            self._run.event("execution_differs", f"resumed under another execution, so not bit-exactly: {changed}")

    def _choose_threads(self, to_come: int) -> Threads:
        asked = self._config.threads
        if not asked:
            if self._saved is None:
                collectors = self._config.online.collectors if self._config.online_steps else 0
                # And one for the sampler's thread and all else: threads that wait for one without a core spin.
                return choose_threads(self._algorithm, most=free_cores(collectors + 1), updates=to_come)
            asked = min(self._saved["threads"], free_cores(0))
        torch.set_num_threads(asked)
        return Threads(count=asked, reason=f"{named(asked)}: asked for")

    def state_dict(self) -> dict[str, Any]:
        """What a bit-exact resume depends on."""
        return {
            "executor": self.name,
            "precision": self._algorithm.precision,
            "threads": torch.get_num_threads(),
        }

    def watch_precision(self, result: Mapping[str, Tensor]) -> None:
        """Note once where values are so large that bf16 products blur the advantage."""
        if self._noted or self._algorithm.precision != "bf16":
            return
        largest = float(result["q"].abs().max()) if "q" in result else 0.0
        if largest >= LARGE_VALUE:
            self._noted = True
            self._run.event(
                "bf16_large_values",
                f"|Q| has reached {largest:.0f} under --precision bf16, whose rounding then blurs advantages: compare "
                "with --precision float32, or scale the rewards down",
            )

    def alive(self) -> AbstractContextManager[None]:
        """Heartbeats while a compiler or exporter works."""
        return beating(self._board)


@contextmanager
def beating(board: Board) -> Iterator[None]:
    """The learner's heartbeats while something works for longer than the supervisor waits."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(1.0):
            board.beat()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
