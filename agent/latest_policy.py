"""The published policies that a collector acts with. Torch-free."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agent.board import Board, Slot
from agent.publish import policy_path
from export.candidates import draw_noise
from export.errors import ExportError
from export.runner import PolicyRunner


@dataclass(kw_only=True, eq=False)
class ActingPolicy:
    """One published version, as it acts in some environments."""

    version: int
    published_ns: int
    """Monotonic time of its publication."""
    runner: PolicyRunner
    superseded_ns: int = 0
    """Monotonic time at which a newer version was first seen while this one acted; 0 before."""

    def age_seconds(self) -> float:
        """Since it was published."""
        return (time.monotonic_ns() - self.published_ns) / 1e9


class LatestPolicy:
    """Which published version acts, and its actions: what it makes of noise.

        acting = policy.newest()                    # an episode begins
        acting = policy.at_step(acting)             # before each of its steps
        actions = policy.act(acting, observations)

    A newer version takes over at the next step, or with `by_episode` at the next episode: then an episode is one
    version's, unless that has been superseded for more than `limit_seconds`, of which `on_overdue(old, new)` hears.
    """

    def __init__(
        self, folder: Path, board: Board, *, noise: float, rng: np.random.Generator, by_episode: bool = False,
        limit_seconds: float = math.inf, on_overdue: Callable[[int, int], None] = lambda old, new: None,
    ) -> None:  # fmt: skip
        self._folder, self._board, self._noise, self._rng = folder, board, noise, rng
        self._by_episode, self._limit_ns, self._on_overdue = by_episode, 1e9 * limit_seconds, on_overdue
        self._newest: ActingPolicy | None = None

    def newest(self) -> ActingPolicy:
        """The newest published version, loaded where it is not yet."""
        # The time first: where both change in between, the age comes out too high rather than too low.
        published_ns = self._board[Slot.PUBLISHED_NS]
        version = self._board[Slot.POLICY_VERSION]
        if self._newest is not None and version == self._newest.version:
            return self._newest
        try:
            runner = PolicyRunner(policy_path(self._folder, version))
        except ExportError:
            if version == self._board[Slot.POLICY_VERSION]:
                raise
            return self.newest()  # this process stood still for so long that the file has been removed since
        self._newest = ActingPolicy(version=version, published_ns=published_ns, runner=runner)
        return self._newest

    def at_step(self, acting: ActingPolicy) -> ActingPolicy:
        """What takes the next step of an episode in which `acting` took the one before."""
        if self._board[Slot.POLICY_VERSION] == acting.version:
            return acting
        if self._by_episode:
            now = time.monotonic_ns()
            acting.superseded_ns = acting.superseded_ns or now
            if now - acting.superseded_ns <= self._limit_ns:
                return acting
            self._on_overdue(acting.version, self.newest().version)
        return self.newest()

    def versions_behind(self, acting: ActingPolicy) -> int:
        """How many newer ones have been published."""
        return self._board[Slot.POLICY_VERSION] - acting.version

    def act(self, acting: ActingPolicy, observations: np.ndarray) -> np.ndarray:
        """[N, O] float32 → [N, A] float32, environment units; each row with noise of its own."""
        runner = acting.runner
        noise = draw_noise(runner.contract, self._rng, len(observations), spread=self._noise)
        if len(observations) == 1:
            # Through the bound buffers, the faster way for a single row.
            return runner.act(observations[0], noise[0])[None]
        return runner.act(observations, noise)
