"""Hyper-parameters of CQL, and of what is built on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from agent.algorithms.config import MOST_MEMBERS, Rule, count
from agent.algorithms.sac_config import SACConfig


@dataclass(frozen=True, kw_only=True)
class CQLConfig(SACConfig):
    """CQL(H) (Kumar et al. 2020, arXiv:2006.04779, appendix F); α = 10 for locomotion as in CORL's configurations."""

    name: str = "cql"
    """Which algorithm."""
    actor_learning_rate: float = 1e-4
    """Adam's step size for the actor and the temperature."""
    backup_entropy: bool = False
    """Whether the target counts the entropy of what is to come."""
    conservative_weight: float = 10.0
    """α: how much Q of the policy's actions is pushed below Q of the data's, ≥ 0."""
    sampled_actions: int = 10
    """Actions drawn at random, from the policy at s, and from it at s', so many each, 1 or more."""
    importance_sampling: bool = True
    """Weigh the sampled actions by their density in the log-sum-exp, which then estimates log ∫ exp Q(s, a) da."""
    lagrange: bool = False
    """Learn a further factor of α that keeps the gap between sampled and data's Q near `target_action_gap`."""
    target_action_gap: float = 5.0
    """That gap, in the (prepared) reward's units."""
    max_target_backup: bool = False
    """The target takes the best of `sampled_actions` actions at s' instead of one."""

    pretrains: ClassVar[bool] = True
    run_wide: ClassVar[Mapping[str, Any]] = {}

    def rules(self) -> list[Rule]:
        return [
            *super().rules(),
            ("conservative_weight", self.conservative_weight >= 0.0, "must be 0 or more"),
            count("sampled_actions", self.sampled_actions, MOST_MEMBERS),
        ]
