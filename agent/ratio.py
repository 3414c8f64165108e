"""The update-to-data ratio as the learner keeps it: what the collected steps have earned, and what the board shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.algorithms.base import Algorithm
from agent.board import Board, Slot
from agent.config import TrainConfig
from agent.training_log import TrainingLog
from replay.limiter import Limiter


class Ratio:
    """The learner's side of the limiter. Collectors read from the board where it counts from."""

    def __init__(self, config: TrainConfig, board: Board, algorithm: Algorithm[Any], log: TrainingLog) -> None:
        self._config, self._board, self._algorithm, self._log = config, board, algorithm, log
        self.limiter = Limiter(
            utd=config.online.utd,
            tolerance_steps=config.online.tolerance_steps,
            base_steps=config.online.warmup_steps,
        )
        self._collected = 0
        "Online steps at the checkpoint that this learner began with."

    def online_updates(self) -> int:
        """Gradient steps since the switch."""
        return max(0, self._algorithm.updates - self._config.pretrain_steps)

    def last_update(self) -> int:
        """Online updates at the end of the run: the ratio times the steps left since the limiter's base."""
        steps_left = self._config.online_steps - self.limiter.base_steps
        return self.limiter.base_updates + max(0, round(self._config.online.utd * steps_left))

    def state_dict(self) -> dict[str, Any]:
        """JSON-able: the limiter's, and how far collecting was."""
        return {**self.limiter.state_dict(), "collected": self._board.online_steps()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.limiter.load_state_dict(state)
        self._collected = int(state["collected"])

    def resume(self, collected: int) -> None:
        """Go on at the steps `collected`.

        What was collected since the checkpoint asks for no updates: those are lost (pretraining's too, with a warm-up
        that went on), and would be made up for in a burst. Whoever was ahead at the checkpoint still is.
        """
        since = collected - max(self._collected, self.limiter.base_steps)
        if since > 0:
            forgiven = self.limiter.forgive(since)
            self._log.event("limiter_rebased", f"forgave a deficit of {forgiven:.0f} updates", deficit=forgiven)
        self._collected = max(collected, self._collected)
        self.show()

    def show(self) -> None:
        """Put on the board where the limiter counts from."""
        board, limiter = self._board, self.limiter
        board[Slot.LIMITER_STEPS], board[Slot.LIMITER_UPDATES] = limiter.base_steps, limiter.base_updates
        board[Slot.ONLINE_UPDATES] = self.online_updates()
