"""What the learner does about evaluations: the guard's alarms, and the best checkpoint kept beside the newest.

An evaluation scores a published version; the checkpoint that belongs to it is the one saved when its evaluation began.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import safetensors.torch
import torch

from agent import best
from agent.algorithms.base import Algorithm
from agent.board import Board, Slot
from agent.checkpoint_writer import CheckpointWriter
from agent.config import GuardConfig
from agent.files import Follower, write_atomic
from agent.guard import Guard
from agent.incidents import no_space
from agent.publish import published_versions
from agent.run_directory import RunDirectory
from agent.training_log import TrainingLog


class Oversight:
    """Look at it now and then; it reads evaluations as they are written and acts on them."""

    def __init__(
        self, run: RunDirectory, config: GuardConfig, board: Board, algorithm: Algorithm[Any], log: TrainingLog,
        writer: CheckpointWriter, *, lockstep: bool = False,
    ) -> None:  # fmt: skip
        self._run, self._board, self._algorithm, self._log, self._writer = run, board, algorithm, log, writer
        self._lockstep = lockstep
        self.guard = Guard(config, order="updates" if lockstep else "policy_version")
        self._lines = Follower(run.metrics)
        self._pretrained: dict[str, torch.Tensor] | None = None
        self._pending: dict[int, int] = {}
        self._unnoted: list[Mapping[str, Any]] = []
        "Evaluations for whose note the disk had no room."
        self._scored = board[Slot.SCORED_VERSION]
        self._first = 0
        # What the board still says is of a learner that has died, perhaps past the checkpoint.
        board[Slot.ACTOR_PAUSED] = 0
        if kept := best.read(run).get("checkpoint"):
            writer.spare.add(kept)

    def begin(
        self, *, online_updates: int, online_steps: int, scored: float = math.inf,
        publish: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        """Keep the pretrained actor, at the switch; or find it again, after a resume.

        Evaluations along the curve count as seen up to that at `scored` online steps. With `publish`, an alarm that the
        last of them raises is acted on: they may have ended while no learner was there, and one that had acted on
        them may have died before its next checkpoint.
        """
        path = self._run.pretrained
        self._first = min(published_versions(self._run.policies), default=0)
        if online_updates == 0:
            # The checkpoint at the end of pretraining belongs to the first version.
            if self._algorithm.updates:
                self._expect(self._first)
            write_atomic(path, safetensors.torch.save(dict(self._algorithm.actor.state_dict())))
        self._pretrained = safetensors.torch.load(path.read_bytes()) if path.exists() else None
        alarm = None
        for record in self._lines.new("evaluation"):
            if record["label"] != "curve" or record["online_steps"] <= scored:
                self._note_best(record)
                alarm = self.guard.add(record)
        if alarm and publish is not None and self._pretrained is not None:
            self._roll_back(alarm, online_steps, publish)
        self.hold(online_steps)

    def state_dict(self) -> dict[str, int]:
        """JSON-able: the guard's, and whether it holds the actor."""
        return {**self.guard.state_dict(), "paused": self._board[Slot.ACTOR_PAUSED]}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Restore what `state_dict` gave."""
        self.guard.load_state_dict(state)
        self._board[Slot.ACTOR_PAUSED] = int(state.get("paused", 0))

    def look(self, *, online_steps: int, save: Callable[[], None], publish: Callable[[], None]) -> None:
        """Act on what is new; some microseconds where nothing is."""
        if (version := self._board[Slot.SCORED_VERSION]) != self._scored:
            self._scored = version
            # The present state is not the first version's, which may be scored again at any time.
            if version not in self._pending and version != self._first:
                self.expect(version, save)
        unnoted, self._unnoted = self._unnoted, []
        for record in unnoted:
            self._note_best(record)
        for record in self._lines.new("evaluation"):
            self.judge(record, online_steps=online_steps, publish=publish)
        self._forget_failed()
        self.hold(online_steps)

    def expect(self, version: int, save: Callable[[], None]) -> None:
        """Save the present state, and keep it until `version` has its score."""
        self._expect(version)
        save()

    def judge(self, record: Mapping[str, Any], *, online_steps: int, publish: Callable[[], None]) -> None:
        """Act on one evaluation."""
        self._note_best(record)
        if (alarm := self.guard.add(record)) and self._pretrained is not None:
            self._roll_back(alarm, online_steps, publish)

    def hold(self, online_steps: int) -> None:
        """Pause the actor's updates, or let them go on, as the guard has it at so many online steps."""
        held = self.guard.holds(online_steps)
        if self._board[Slot.ACTOR_PAUSED] and not held:
            self._log.event("guard_released", "the actor is updated again", online_steps=online_steps)
        self._board[Slot.ACTOR_PAUSED] = int(held)
        self._algorithm.hold_actor(held)

    def _roll_back(self, alarm: str, online_steps: int, publish: Callable[[], None]) -> None:
        assert self._pretrained is not None
        self._algorithm.set_actor(self._pretrained)
        following = self._board[Slot.POLICY_VERSION] + 1
        publish()  # perhaps later, where the disk is full
        version = self._board[Slot.POLICY_VERSION]
        since = self._algorithm.updates + 1 if self._lockstep else following
        self.guard.hold(online_steps=online_steps, since=since)
        self._log.event(
            "guard", f"{alarm}: back to the pretrained policy, actor updates paused", policy_version=version,
            online_steps=online_steps,
        )  # fmt: skip

    def _note_best(self, record: Mapping[str, Any]) -> None:
        """Keep the checkpoint of the best evaluation so far, and let go of the one before."""
        version = int(record["policy_version"])
        if version not in self._pending:
            return
        try:
            best.note(self._run, record, folder_name(self._pending[version]))
        except OSError as error:
            if not no_space(error):
                raise
            self._unnoted.append(record)
            return
        del self._pending[version]
        self._let_go()

    def _forget_failed(self) -> None:
        """Of evaluations that ended without a score; one at a time is made, and the first version's is made again."""
        kept = {self._first, self._scored, *(int(record["policy_version"]) for record in self._unnoted)}
        if failed := self._pending.keys() - kept:
            for version in failed:
                del self._pending[version]
            self._let_go()

    def _let_go(self) -> None:
        """Let the checkpoints be pruned that neither are the best nor wait for a score."""
        kept = {best.read(self._run).get("checkpoint"), *map(folder_name, self._pending.values())}
        self._writer.spare.intersection_update(kept)

    def _expect(self, version: int) -> None:
        """Let the checkpoint of the present state stay until `version` has its score."""
        self._pending[version] = self._algorithm.updates
        self._writer.spare.add(folder_name(self._algorithm.updates))


def folder_name(updates: int) -> str:
    """Of the checkpoint after so many updates."""
    return f"{updates:09d}"
