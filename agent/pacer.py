"""How many environment steps a collector may take now. Torch-free."""

from __future__ import annotations

import time

import numpy as np

from agent.board import Board, CollectorSlot, Pause, Phase, Slot
from agent.config import TrainConfig
from agent.incidents import Incidents
from replay.limiter import Limiter


def pause_seconds(tolerance_steps: float) -> float:
    """How long a side that is ahead stands still before it looks again.

    Short against the time in which the other side uses the tolerance up, and no shorter: each look takes some 50 µs
    from whoever computes on that core or its sibling.
    """
    return min(0.01, max(0.001, 1e-5 * tolerance_steps))


class Pacer:
    """Holds a collector back while it is ahead of the update-to-data ratio, while the newest policy is too old, and
    when the run has all its steps."""

    def __init__(self, board: Board, config: TrainConfig, incidents: Incidents, slots: np.ndarray) -> None:
        self._board, self._config, self._incidents, self._slots = board, config, incidents, slots
        self.pause_seconds = pause_seconds(config.online.tolerance_steps)
        """Between two looks, while nothing is due."""
        self._limiter = Limiter(utd=config.online.utd, tolerance_steps=config.online.tolerance_steps)

    def due(self) -> int:
        """How many of its environments may take a step now: all, none, or the last few of a phase.

        Asked for one step and by each collector for itself: where several step at once, tolerance, warm-up and total
        are exceeded by up to one step for each environment but one.
        """
        board, online = self._board, self._config.online
        steps, phase = board.online_steps(), board[Slot.PHASE]
        left = self._config.online_steps - steps
        if left <= 0 or board[Slot.POLICY_VERSION] == 0:
            return 0
        if phase == Phase.WARMUP:
            return max(0, min(online.warmup_steps - steps, online.envs_per_collector))
        # The learner owns the base: it moves after a rollback.
        self._limiter.base_steps = board[Slot.LIMITER_STEPS]
        self._limiter.base_updates = board[Slot.LIMITER_UPDATES]
        if phase != Phase.ONLINE or not self._limiter.may_collect(steps, board[Slot.ONLINE_UPDATES]):
            return 0
        return 0 if self._stale() else min(left, online.envs_per_collector)

    def _stale(self) -> bool:
        """Whether the learner has not published for longer than `max_staleness_seconds`: it hangs, died, is starved."""
        limit = self._config.online.max_staleness_seconds
        age = (time.monotonic_ns() - self._board[Slot.PUBLISHED_NS]) / 1e9
        paused = int(self._slots[CollectorSlot.PAUSE]) == Pause.STALE_POLICY
        if (age > limit) != paused:
            self._slots[CollectorSlot.PAUSE] = Pause.NONE if paused else Pause.STALE_POLICY
            if paused:
                self._incidents.event("collection_resumed", "there is a new policy")
            else:
                self._incidents.event(
                    "collection_paused", f"the newest policy is {age:.0f} s old, over {limit:g} s: waiting for another"
                )
        return age > limit
