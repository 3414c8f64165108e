"""The newest published policy, as a collector runs it. Torch-free."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from agent.board import Board, Slot
from agent.publish import policy_path
from export.runner import PolicyRunner


class LatestPolicy:
    """The newest published policy, swapped at step boundaries; acts by sampling its Gaussian."""

    def __init__(self, folder: Path, board: Board, *, noise: float, rng: np.random.Generator) -> None:
        self._folder, self._board, self._noise, self._rng = folder, board, noise, rng
        self.version = 0
        self._published_ns = 0
        self._runner: PolicyRunner | None = None

    def refresh(self) -> None:
        """Load the newest version if it is newer than the present one."""
        # The time first: where both change in between, the age comes out too high rather than too low.
        published_ns = self._board[Slot.PUBLISHED_NS]
        newest = self._board[Slot.POLICY_VERSION]
        if newest != self.version:
            self._runner = PolicyRunner(policy_path(self._folder, newest))
            self.version, self._published_ns = newest, published_ns

    def age_seconds(self) -> float:
        """Since the acting version was published."""
        return (time.monotonic_ns() - self._published_ns) / 1e9

    def versions_behind(self) -> int:
        """How many newer ones have been published."""
        return self._board[Slot.POLICY_VERSION] - self.version

    def reset(self) -> None:
        """An episode begins: a policy with a state starts from its initial one."""
        if self._runner is not None:
            self._runner.reset()

    def act(self, observations: np.ndarray) -> np.ndarray:
        """[N, O] float32 → [N, A] float32, environment units; each row with noise of its own."""
        runner = self._runner
        assert runner is not None
        shape = (len(observations), runner.action_size)
        noise = self._rng.standard_normal(shape, dtype=np.float32) * np.float32(self._noise)
        if len(observations) == 1:
            # Through the bound buffers, the faster way for a single row.
            return runner.act(observations[0], noise[0])[None]
        return runner.act(observations, noise)
