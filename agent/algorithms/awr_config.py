"""Hyper-parameters of AWR."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from agent.algorithms.config import Rule
from agent.algorithms.regression_config import RegressionConfig


@dataclass(frozen=True, kw_only=True)
class AWRConfig(RegressionConfig):
    """Advantage-weighted regression (Peng et al. 2019) with its authors' temperature and clip, and IQL's sizes.

    The authors' returns are TD(λ) with λ = 0.95, which looks ahead 1/(1 − λ) = 20 steps on average.
    """

    name: Literal["awr"] = "awr"
    """Which algorithm."""
    n_step: int = 20
    """Steps of the returns, 1 or more; V bootstraps them unless the episode terminated within."""
    beta: float = 1.0
    """Inverse temperature of the weights of normalised advantages, ≥ 0: larger is greedier, 0 is behaviour cloning."""
    weight_clip: float = 20.0
    """Upper bound of the weights."""

    fine_tunes: ClassVar[bool] = False
    has_critic: ClassVar[bool] = False

    def sampling(self) -> dict[str, Any]:
        return {"n_step": self.n_step, "gamma": self.discount}

    def rules(self) -> list[Rule]:
        return [
            *super().rules(),
            ("n_step", self.n_step >= 1, "must be 1 or more"),
            ("beta", self.beta >= 0.0, "must be 0 or more"),
            ("weight_clip", self.weight_clip > 0.0, "must be positive"),
        ]
