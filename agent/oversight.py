"""What the learner does about evaluations: the guard's alarms, and the best checkpoint kept beside the newest.

An evaluation scores a published version; the checkpoint that belongs to it is the one saved when its evaluation began.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import safetensors.torch
import torch

from agent.algorithms.base import Algorithm
from agent.board import Board, Slot
from agent.checkpoint_writer import CheckpointWriter
from agent.config import GuardConfig
from agent.files import LineFollower, write_atomic
from agent.guard import Guard
from agent.run_directory import RunDirectory
from agent.training_log import TrainingLog


class Oversight:
    """Look at it now and then; it reads evaluations as they are written and acts on them."""

    def __init__(
        self, run: RunDirectory, config: GuardConfig, board: Board, algorithm: Algorithm[Any], log: TrainingLog,
        writer: CheckpointWriter,
    ) -> None:  # fmt: skip
        self._run, self._board, self._algorithm, self._log, self._writer = run, board, algorithm, log, writer
        self.guard = Guard(config)
        self._lines = LineFollower(run.metrics)
        self._pretrained: dict[str, torch.Tensor] | None = None
        self._pending: dict[int, int] = {}
        self._scored = board[Slot.SCORED_VERSION]
        best = json.loads(run.best.read_text()) if run.best.exists() else {}
        self._best: float | None = best.get("mean")
        if best:
            writer.spare.add(best["checkpoint"])

    def begin(self, *, online_updates: int) -> None:
        """Keep the pretrained actor, at the switch; or find it again, after a resume."""
        path = self._run.pretrained
        if online_updates == 0:
            write_atomic(path, safetensors.torch.save(dict(self._algorithm.actor.state_dict())))
        self._pretrained = safetensors.torch.load(path.read_bytes()) if path.exists() else None
        for record in self._lines.read():
            if record["kind"] == "evaluation":
                self.guard.add(record)
        self._hold(self._board.online_steps())

    def look(self, *, online_steps: int, save: Callable[[], None], publish: Callable[[], None]) -> None:
        """Act on what is new; some microseconds where nothing is."""
        if (version := self._board[Slot.SCORED_VERSION]) != self._scored:
            self._scored = version
            self._pending[version] = self._algorithm.updates
            self._writer.spare.add(f"{self._algorithm.updates:09d}")
            save()
        for record in self._lines.read():
            if record["kind"] == "evaluation":
                self._note_best(record)
                if (alarm := self.guard.add(record)) and self._pretrained is not None:
                    self._roll_back(alarm, online_steps, publish)
        self._hold(online_steps)

    def _hold(self, online_steps: int) -> None:
        held = self.guard.holds(online_steps)
        if self._board[Slot.ACTOR_PAUSED] and not held:
            self._log.event("guard_released", "the actor is updated again", online_steps=online_steps)
        self._board[Slot.ACTOR_PAUSED] = int(held)
        self._algorithm.optimizers["actor"].hold(held)

    def _roll_back(self, alarm: str, online_steps: int, publish: Callable[[], None]) -> None:
        assert self._pretrained is not None
        self._algorithm.actor.load_state_dict(self._pretrained)
        self._algorithm.optimizers["actor"].forget()
        publish()
        version = self._board[Slot.POLICY_VERSION]
        self.guard.hold(online_steps=online_steps, version=version)
        self._log.event(
            "guard", f"{alarm}: back to the pretrained policy, actor updates paused", policy_version=version,
            online_steps=online_steps,
        )  # fmt: skip

    def _note_best(self, record: Mapping[str, Any]) -> None:
        """Let `checkpoints/BEST` name the checkpoint of the best evaluation so far."""
        step = self._pending.pop(int(record["policy_version"]), None)
        if step is None:
            return
        name = f"{step:09d}"
        if self._best is not None and record["mean"] <= self._best:
            self._writer.spare.discard(name)
            return
        keep = ("mean", "label", "online_steps", "policy_version")
        self._best = record["mean"]
        write_atomic(self._run.best, json.dumps({"checkpoint": name, **{k: record[k] for k in keep}}).encode())
        self._writer.spare.intersection_update({name, *(f"{s:09d}" for s in self._pending.values())})
