"""status.json, and the lines about pace in metrics.jsonl: what the board says, as the supervisor tells it."""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import Any

from agent import staleness
from agent.board import Board, CollectorSlot, Pause, Phase, Slot
from agent.config import TrainConfig
from agent.files import SwappedFile
from agent.run_directory import RunDirectory

STATUS_SECONDS = 1.0
PACE_SECONDS = 10.0


class RunStatus:
    """Writes status.json once a second, and a line of kind `pace` every ten seconds of fine-tuning."""

    def __init__(self, run: RunDirectory, config: TrainConfig, board: Board) -> None:
        self._run, self._config, self._board = run, config, board
        self._file = SwappedFile(run.status)
        self._written_at = 0.0
        self._before: tuple[float, int, int, int] | None = None
        self._pace: dict[str, float] = {}

    def write(self, *, collectors: int, switch: dict[str, Any] | None, force: bool = False) -> None:
        """What the run is doing now; `collectors` of them have been started."""
        now = time.monotonic()
        if not force and now - self._written_at < STATUS_SECONDS:
            return
        self._written_at = now
        self._measure_pace(now, collectors)
        status = {**self._record(collectors), **self._pace, "switch": switch}
        # A status that cannot be written is no reason to end a training.
        with contextlib.suppress(OSError):
            self._file.write(json.dumps(status, indent=1).encode())

    def _record(self, collectors: int) -> dict[str, Any]:
        board = self._board
        return {
            "time": time.time(),
            "pid": os.getpid(),
            "phase": board.phase.name.lower(),
            "stopped": bool(board[Slot.STOP]),
            "pretrain_step": board[Slot.PRETRAIN_STEP],
            "pretrain_steps": self._config.pretrain_steps,
            "online_steps": board.online_steps(),
            "planned_online_steps": self._config.online_steps,
            "online_updates": board[Slot.ONLINE_UPDATES],
            "policy_version": board[Slot.POLICY_VERSION],
            "learner_wait_seconds": round(board[Slot.LEARNER_WAIT_NS] / 1e9, 2),
            "actor_paused": bool(board[Slot.ACTOR_PAUSED]),
            "disk_full": bool(board[Slot.DISK_FULL]),
            "collectors": [
                {
                    "steps": int(row[CollectorSlot.STEPS]),
                    "episodes": int(row[CollectorSlot.EPISODES]),
                    "policy_version": int(row[CollectorSlot.POLICY_VERSION]),
                    "wait_seconds": round(int(row[CollectorSlot.WAIT_NS]) / 1e9, 2),
                    "faults": int(row[CollectorSlot.FAULTS]),
                    "overruns": int(row[CollectorSlot.OVERRUNS]),
                    "paused": Pause(int(row[CollectorSlot.PAUSE])).name.lower().replace("_", " "),
                }
                for row in map(board.collector, range(collectors))
            ],
        }

    def _measure_pace(self, now: float, collectors: int) -> None:
        """Shares of the last ten seconds that each side waited for the other, and the age of acting policies."""
        board = self._board
        if board.phase != Phase.ONLINE or not collectors:
            self._before = None
            return
        waited = sum(int(board.collector(index)[CollectorSlot.WAIT_NS]) for index in range(collectors))
        present = (now, board.online_steps(), board[Slot.LEARNER_WAIT_NS], waited)
        if self._before is None:
            self._before = present
        elif now - self._before[0] >= PACE_SECONDS:
            seconds, steps, learner, collecting = (
                after - before for after, before in zip(present, self._before, strict=True)
            )
            self._before = present
            self._pace = {
                "learner_wait_fraction": round(min(1.0, learner / 1e9 / seconds), 4),
                "collector_wait_fraction": round(min(1.0, collecting / 1e9 / seconds / collectors), 4),
                **staleness.quantiles(board.staleness),
            }
            with contextlib.suppress(OSError):
                per_second = round(steps / seconds, 2)
                self._run.metric("pace", online_steps=present[1], steps_per_second=per_second, **self._pace)
