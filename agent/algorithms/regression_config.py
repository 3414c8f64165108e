"""Hyper-parameters of every policy that is regressed on the data's actions."""

from __future__ import annotations

from dataclasses import dataclass

from agent.algorithms.config import AlgorithmConfig, Rule


@dataclass(frozen=True, kw_only=True)
class RegressionConfig(AlgorithmConfig):
    """Those of the actor."""

    dropout: float = 0.0
    """Dropout rate of the actor (0.1 in IQL's paper for Adroit and Kitchen)."""

    @property
    def dense(self) -> bool:
        """Whether the input goes to every hidden layer."""
        return False

    def rules(self) -> list[Rule]:
        return [*super().rules(), ("dropout", 0.0 <= self.dropout < 1.0, "must lie in [0, 1)")]
