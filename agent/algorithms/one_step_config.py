"""Hyper-parameters of one-step RL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from agent.algorithms.config import MOST_MEMBERS, Rule, count
from agent.algorithms.regression_config import RegressionConfig


@dataclass(frozen=True, kw_only=True)
class OneStepConfig(RegressionConfig):
    """One-step RL (Brandfonbrener et al. 2021), with IQL's sizes; its authors tune β and α for each dataset."""

    name: Literal["one_step"] = "one_step"
    """Which algorithm."""
    improvement: Literal["exponential", "reverse_kl"] = "exponential"
    """The one step: imitation weighted by exp(β·A), or E[Q] less α times the divergence from the data's policy."""
    beta: float = 3.0
    """Inverse temperature of exponential weights, ≥ 0: larger is greedier, 0 is behaviour cloning."""
    weight_clip: float = 100.0
    """Upper bound of the exponential weights."""
    kl_weight: float = 1.0
    """α of reverse_kl, in units of Q, ≥ 0: larger stays nearer the data."""
    target_rate: float = 0.005
    """α of the target critics' moving average, in (0, 1]."""
    critics: int = 2
    """Members of the critic ensemble; the minimum over them is used."""

    fine_tunes: ClassVar[bool] = False
    needs_next_action: ClassVar[bool] = True

    def rules(self) -> list[Rule]:
        return [
            *super().rules(),
            ("beta", self.beta >= 0.0, "must be 0 or more"),
            ("weight_clip", self.weight_clip > 0.0, "must be positive"),
            ("kl_weight", self.kl_weight >= 0.0, "must be 0 or more"),
            ("target_rate", 0.0 < self.target_rate <= 1.0, "must lie in (0, 1]"),
            count("critics", self.critics, MOST_MEMBERS),
        ]
