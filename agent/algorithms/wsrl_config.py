"""Hyper-parameters of WSRL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from agent.algorithms.cal_ql_config import CalQLConfig
from agent.algorithms.config import Rule


@dataclass(frozen=True, kw_only=True)
class WSRLConfig(CalQLConfig):
    """WSRL with its authors' values (Zhou et al. 2024, arXiv:2412.07762, appendix), but for `sampled_actions`.

    Four of them instead of ten: with ten critics a pretraining update then costs 0.4 as much on a CPU.
    """

    name: str = "wsrl"
    """Which algorithm."""
    pretraining: Literal["cal_ql", "cql", "iql"] = "cal_ql"
    """What learns from the logged data; the online phase is SAC's in any case."""
    critics: int = 10
    """Members of the critic ensemble."""
    critic_subset: int = 2
    """The target takes the minimum over this many members, drawn anew for each update; 0 over all of them."""
    critic_layer_norm: bool = True
    """LayerNorm in the critics' hidden layers: bounds Q for actions that no data has."""
    policy_delay: int = 4
    """Online, the policy and the temperature move in every so-many-th update only: once a step at `online.utd` 4."""
    backup_entropy: bool = False
    """Whether the target counts the entropy of what is to come."""
    sampled_actions: int = 4
    """Actions drawn at random, from the policy at s, and from it at s', so many each, 1 or more."""
    expectile: float = 0.7
    """τ of IQL's value loss, in (0, 1), where `pretraining` is iql."""
    beta: float = 3.0
    """Inverse temperature of IQL's policy extraction, ≥ 0, where `pretraining` is iql."""
    weight_clip: float = 100.0
    """Upper bound of IQL's advantage weights."""

    run_wide: ClassVar[Mapping[str, Any]] = {
        "online": {"offline_fraction": 0.0, "utd": 4.0, "warmup_steps": 5000},
    }

    def rules(self) -> list[Rule]:
        return [
            *super().rules(),
            ("expectile", 0.0 < self.expectile < 1.0, "must lie in (0, 1)"),
            ("beta", self.beta >= 0.0, "must be 0 or more"),
            ("weight_clip", self.weight_clip > 0.0, "must be positive"),
        ]
