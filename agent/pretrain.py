"""The offline phase."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from agent.transitions import Preparer, Transitions
from replay.sampler import Batch


class Sampler(Protocol):
    """Anything that draws batches of stored transitions."""

    def next(self) -> Batch:
        """The next batch; its arrays are reused by the following call."""
        ...


class Algorithm(Protocol):
    """Anything that learns from batches and counts its updates."""

    updates: int

    def update(self, batch: Transitions) -> dict[str, Tensor]:
        """One gradient step; tensors for the log."""
        ...


def pretrain(
    algorithm: Algorithm,
    sampler: Sampler,
    prepare: Preparer,
    *,
    steps: int,
    stopping: Callable[[], bool],
    after_update: Callable[[dict[str, Tensor]], None],
) -> bool:
    """Update on offline batches until `algorithm.updates` reaches `steps`; False if stopped before."""
    while algorithm.updates < steps:
        if stopping():
            return False
        batch = sampler.next()
        result = algorithm.update(prepare(batch))
        after_update(result)
    return True
