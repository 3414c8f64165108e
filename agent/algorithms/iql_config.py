"""Hyper-parameters of IQL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from agent.algorithms.config import AlgorithmConfig, Rule


@dataclass(frozen=True, kw_only=True)
class IQLConfig(AlgorithmConfig):
    """Implicit Q-Learning; defaults are the paper's for locomotion (appendix B).

    The actor's learning rate follows a cosine to zero over the offline steps only.
    """

    name: Literal["iql"] = "iql"
    """Which algorithm."""
    expectile: float = 0.7
    """τ of the value loss, in (0, 1): larger trusts the best actions in the data more."""
    beta: float = 3.0
    """Inverse temperature of policy extraction, ≥ 0: larger is greedier, 0 is behaviour cloning."""
    extraction: Literal["concurrent", "after"] = "concurrent"
    """Offline, the policy is extracted in every update, or in the second half of them with values only in the first."""
    weight_clip: float = 100.0
    """Upper bound of the advantage weights."""
    policy: Literal["awr", "deterministic", "ddpg_bc", "blended"] = "awr"
    """How the policy is extracted: advantage-weighted likelihood, its squared error, −Q/mean|Q| + α·BC, or from the
    first to the third while online."""
    bc_weight: float = 1.0
    """α of ddpg_bc and blended: how much the data's actions hold the policy back, ≥ 0."""
    blend_updates: int = 10_000
    """Online updates over which blended goes from awr to ddpg_bc."""
    target_rate: float = 0.005
    """α of the target critics' moving average, in (0, 1]."""
    trunk: Literal["plain", "d2rl"] = "plain"
    """Hidden layers of all networks; d2rl gives the input to every one of them, which keeps deep networks' rank."""
    critics: int = 2
    """Members of the critic ensemble; the minimum over their targets is used (1 is single Q-learning)."""
    critic_subset: int = 0
    """Take the minimum over this many members, drawn anew for each update; 0 over all of them."""
    critic_layer_norm: bool = False
    """LayerNorm in the critics' hidden layers: steadier fine-tuning."""
    critic_dropout: float = 0.0
    """Dropout rate of the critics while they learn; their targets have none."""
    dropout: float = 0.0
    """Dropout rate of the actor (0.1 in the paper for Adroit and Kitchen)."""

    def rules(self) -> list[Rule]:
        return [
            *super().rules(),
            ("expectile", 0.0 < self.expectile < 1.0, "must lie in (0, 1)"),
            ("beta", self.beta >= 0.0, "must be 0 or more"),
            ("weight_clip", self.weight_clip > 0.0, "must be positive"),
            ("target_rate", 0.0 < self.target_rate <= 1.0, "must lie in (0, 1]"),
            ("bc_weight", self.bc_weight >= 0.0, "must be 0 or more"),
            ("blend_updates", self.blend_updates >= 1, "must be 1 or more"),
            ("critics", self.critics >= 1, "must be 1 or more"),
            ("critic_subset", 0 <= self.critic_subset <= self.critics, "must lie in 0 to algorithm.critics"),
            ("critic_dropout", 0.0 <= self.critic_dropout < 1.0, "must lie in [0, 1)"),
            ("dropout", 0.0 <= self.dropout < 1.0, "must lie in [0, 1)"),
        ]
