"""Hyper-parameters of SAC, and of what is built on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from agent.algorithms.config import MOST_MEMBERS, AlgorithmConfig, Rule, count


@dataclass(frozen=True, kw_only=True)
class SACConfig(AlgorithmConfig):
    """Soft Actor-Critic with its authors' values (Haarnoja et al. 2018, arXiv:1812.05905, table 1). Online only."""

    name: str = "sac"
    """Which algorithm."""
    actor_learning_rate: float = 3e-4
    """Adam's step size for the actor and the temperature."""
    target_rate: float = 0.005
    """α of the target critics' moving average, in (0, 1]."""
    critics: int = 2
    """Members of the critic ensemble."""
    critic_subset: int = 0
    """The target takes the minimum over this many members, drawn anew for each update; 0 over all of them."""
    critic_layer_norm: bool = False
    """LayerNorm in the critics' hidden layers: bounds Q for actions that no data has (Ball et al. 2023)."""
    policy_q: Literal["min", "mean"] = "min"
    """The policy climbs the minimum or the mean over all critics."""
    policy_delay: int = 1
    """The policy and the temperature move in every so-many-th update only, 1 or more."""
    backup_entropy: bool = True
    """Whether the target counts the entropy of what is to come."""
    initial_temperature: float = 1.0
    """Weight of the entropy at the first update, positive; learned from then on."""
    target_entropy: float = -1.0
    """Entropy that the temperature aims for, times the number of action entries."""

    pretrains: ClassVar[bool] = False
    run_wide: ClassVar[Mapping[str, Any]] = {"pretrain_steps": 0, "online": {"offline_fraction": 0.0}}

    def rules(self) -> list[Rule]:
        return [
            *super().rules(),
            ("actor_learning_rate", self.actor_learning_rate > 0.0, "must be positive"),
            ("target_rate", 0.0 < self.target_rate <= 1.0, "must lie in (0, 1]"),
            count("critics", self.critics, MOST_MEMBERS),
            ("critic_subset", 0 <= self.critic_subset <= self.critics, "must lie in 0 to algorithm.critics"),
            ("policy_delay", self.policy_delay >= 1, "must be 1 or more"),
            ("initial_temperature", self.initial_temperature > 0.0, "must be positive"),
        ]
