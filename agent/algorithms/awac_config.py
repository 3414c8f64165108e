"""Hyper-parameters of AWAC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from agent.algorithms.config import MOST_MEMBERS, Rule, count
from agent.algorithms.regression_config import RegressionConfig


@dataclass(frozen=True, kw_only=True)
class AWACConfig(RegressionConfig):
    """Advantage-weighted actor-critic (Nair et al. 2020), with the sizes and the clip of its CORL implementation."""

    name: Literal["awac"] = "awac"
    """Which algorithm."""
    beta: float = 1.0
    """1/λ, inverse temperature of the policy's weights, ≥ 0: larger is greedier, 0 is behaviour cloning."""
    weight_clip: float = 100.0
    """Upper bound of the advantage weights."""
    target_rate: float = 0.005
    """α of the target critics' moving average, in (0, 1]."""
    critics: int = 2
    """Members of the critic ensemble; the minimum over them is used."""
    critic_layer_norm: bool = False
    """LayerNorm in the critics' hidden layers: steadier fine-tuning."""

    def rules(self) -> list[Rule]:
        return [
            *super().rules(),
            ("beta", self.beta >= 0.0, "must be 0 or more"),
            ("weight_clip", self.weight_clip > 0.0, "must be positive"),
            ("target_rate", 0.0 < self.target_rate <= 1.0, "must lie in (0, 1]"),
            count("critics", self.critics, MOST_MEMBERS),
        ]
