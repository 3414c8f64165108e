"""Hyper-parameters of behaviour cloning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from agent.algorithms.config import Rule
from agent.algorithms.regression_config import RegressionConfig


@dataclass(frozen=True, kw_only=True)
class CloningConfig(RegressionConfig):
    """Imitation with IQL's actor, schedule and sizes, so that the two differ in nothing but the weights."""

    fine_tunes: ClassVar[bool] = False
    has_critic: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class BCConfig(CloningConfig):
    """Behaviour cloning of all data."""

    name: Literal["bc"] = "bc"
    """Which algorithm."""


@dataclass(frozen=True, kw_only=True)
class TopBCConfig(CloningConfig):
    """Behaviour cloning of the best episodes alone: 10% BC of Chen et al. 2021 (arXiv:2106.01345) and the IQL paper."""

    name: Literal["top_bc"] = "top_bc"
    """Which algorithm."""
    top_fraction: float = 0.1
    """Learn from as few of the episodes with the highest return as hold this share of all steps, in (0, 1]."""

    def sampling(self) -> dict[str, Any]:
        return {"top_fraction": self.top_fraction}

    def rules(self) -> list[Rule]:
        return [*super().rules(), ("top_fraction", 0.0 < self.top_fraction <= 1.0, "must lie in (0, 1]")]
