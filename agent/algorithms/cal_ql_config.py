"""Hyper-parameters of Cal-QL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from agent.algorithms.cql_config import CQLConfig


@dataclass(frozen=True, kw_only=True)
class CalQLConfig(CQLConfig):
    """Calibrated Q-Learning with the values of its authors' code (nakamotoo/Cal-QL)."""

    name: str = "cal_ql"
    """Which algorithm."""
    conservative_weight: float = 5.0
    """α: how much Q of the policy's actions is pushed below Q of the data's, ≥ 0."""
    max_target_backup: bool = True
    """The target takes the best of `sampled_actions` actions at s' instead of one."""

    needs_return_to_go: ClassVar[bool] = True
