"""What a learner says of itself while it trains: lines and histograms of updates, and diagnostics of its networks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from agent.algorithms.base import Algorithm
from agent.board import Board, CollectorSlot, Slot
from agent.config import TrainConfig
from agent.diagnostics import Diagnostics
from agent.execution import Execution
from agent.feeding import Feed
from agent.networks.actors import Actor
from agent.training_log import TrainingLog
from agent.transitions import Transitions


class Monitor:
    """Writes to the training log; changes nothing that an update depends on."""

    def __init__(
        self,
        config: TrainConfig,
        board: Board,
        algorithm: Algorithm[Any],
        log: TrainingLog,
        *,
        execution: Execution,
        diagnostics: Diagnostics,
    ) -> None:
        self._config, self._board, self._algorithm, self._log = config, board, algorithm, log
        self._execution, self._diagnostics = execution, diagnostics
        self._diagnosed_at = -1
        algorithm.gradients_every = config.log_every

    def training(self, result: dict[str, Tensor], feed: Feed, *, phase: str, blocked_ms: float) -> None:
        """A line about the last update; `blocked_ms` is how long a checkpoint has held training up since the last."""
        board = self._board
        context: dict[str, float] = {"checkpoint_block_ms": blocked_ms} if blocked_ms else {}
        if self._config.online.rate:
            context["overruns"] = board.total(CollectorSlot.OVERRUNS)
        self._execution.watch_precision(result)
        self._log.training(
            result, phase=phase, updates=self._algorithm.updates, online_steps=board.online_steps(),
            policy_version=board[Slot.POLICY_VERSION], wait_seconds=board[Slot.LEARNER_WAIT_NS] / 1e9,
            data_wait_fraction=feed.wait_fraction(),
            histograms=histograms(self._algorithm.actor, feed.batch, result), **context,
        )  # fmt: skip

    def diagnose_if_due(self, phase: str) -> None:
        """Every so many updates."""
        every = self._config.diagnostics_every
        if every and self._algorithm.updates % every == 0:
            self.diagnose(phase)

    def diagnose(self, phase: str) -> None:
        """Measure and log the networks and values, once an update at most."""
        updates = self._algorithm.updates
        if self._config.diagnostics_every and updates > self._diagnosed_at:
            self._log.diagnostics(self._diagnostics.measure(self._algorithm), phase=phase, updates=updates)
            self._diagnosed_at = updates


def histograms(actor: Actor, batch: Transitions | None, result: dict[str, Tensor]) -> dict[str, Tensor]:
    """What is worth a distribution: advantages, the batch's actions, and the policy's in their place."""
    if batch is None:
        return {}
    learning = actor.training
    with torch.no_grad():
        # Without dropout, whose masks come from a generator that training alone may advance.
        chosen = torch.tanh(actor.eval().raw(batch.observation))
    actor.train(learning)
    found = {"action/batch": batch.action, "action/policy": chosen}
    return found | {name: result[name] for name in ("advantage",) if name in result}
