"""Hyper-parameters of behaviour cloning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from agent.algorithms.config import AlgorithmConfig, Rule


@dataclass(frozen=True, kw_only=True)
class BCConfig(AlgorithmConfig):
    """Behaviour cloning with IQL's actor, schedule and sizes, so that the two differ in nothing but the weights."""

    name: Literal["bc"] = "bc"
    """Which algorithm."""
    dropout: float = 0.0
    """Dropout rate of the actor."""

    fine_tunes: ClassVar[bool] = False

    def rules(self) -> list[Rule]:
        return [*super().rules(), ("dropout", 0.0 <= self.dropout < 1.0, "must lie in [0, 1)")]
