"""How many environment steps a collector may take now. Torch-free."""

from __future__ import annotations

from agent.board import Board, Phase, Slot
from agent.config import TrainConfig
from replay.limiter import Limiter


class Pacer:
    """Holds a collector back when it is ahead of the update-to-data ratio, or when the run has all its steps."""

    def __init__(self, board: Board, config: TrainConfig) -> None:
        self._board, self._config = board, config
        self._limiter = Limiter(utd=config.online.utd, tolerance_steps=config.online.tolerance_steps)

    def due(self) -> int:
        """How many of its environments may take a step now: all, none, or the last few of a phase."""
        board, online = self._board, self._config.online
        steps = board.online_steps()
        left = self._config.online_steps - steps
        if left <= 0 or board[Slot.POLICY_VERSION] == 0:
            return 0
        if board.phase == Phase.WARMUP:
            return max(0, min(online.warmup_steps - steps, online.envs_per_collector))
        # The learner owns the base: it moves after a rollback.
        self._limiter.base_steps = board[Slot.LIMITER_STEPS]
        self._limiter.base_updates = board[Slot.LIMITER_UPDATES]
        if board.phase != Phase.ONLINE or not self._limiter.may_collect(steps, board[Slot.ONLINE_UPDATES]):
            return 0
        return min(left, online.envs_per_collector)
