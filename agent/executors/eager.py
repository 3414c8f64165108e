"""The update as written, operation by operation."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from agent.transitions import Transitions


class Steppable(Protocol):
    """An algorithm whose update is tensor operations in place on its state."""

    part: str
    """What the update that is due changes; each is a graph of its own."""

    def step(self, batch: Transitions) -> dict[str, Tensor]:
        """One update."""
        ...


class Executor(Protocol):
    """Runs an algorithm's `step` on a batch."""

    def __call__(self, algorithm: Steppable, batch: Transitions) -> dict[str, Tensor]:
        """One update; the tensors that `step` returns."""
        ...


def eager(algorithm: Steppable, batch: Transitions) -> dict[str, Tensor]:
    """Call it."""
    return algorithm.step(batch)
