"""Hyper-parameters of TD3+BC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from agent.algorithms.config import Rule
from agent.algorithms.td3_config import TD3Config


@dataclass(frozen=True, kw_only=True)
class TD3BCConfig(TD3Config):
    """TD3+BC with its paper's values for locomotion (Fujimoto & Gu 2021, table 3); it normalises observations too."""

    name: Literal["td3_bc"] = "td3_bc"
    """Which algorithm."""
    bc_alpha: float = 2.5
    """α of λ = α / mean|Q|: how much the value counts beside staying near the data's actions, ≥ 0."""

    def rules(self) -> list[Rule]:
        return [*super().rules(), ("bc_alpha", self.bc_alpha >= 0.0, "must be 0 or more")]
