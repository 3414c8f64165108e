"""Hyper-parameters of IQL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from agent.algorithms.config import MOST_MEMBERS, Rule, count
from agent.algorithms.regression_config import RegressionConfig


@dataclass(frozen=True, kw_only=True)
class IQLConfig(RegressionConfig):
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
    actor_average: float = 0.0
    """κ: publish a moving average of the actor's weights that follows them with this rate while online; offline, and
    with 0, the weights themselves."""
    actor_online_rate: float = 1.0
    """The actor's step size while online, as a share of learning_rate, > 0."""
    target_rate: float = 0.005
    """α of the target critics' moving average, in (0, 1]."""
    value: Literal["network", "none"] = "network"
    """Where V comes from; none is an ablation that takes the expectile of the TD error itself and so trusts to luck."""
    critic: Literal["scalar", "quantile"] = "scalar"
    """What a critic gives; quantile an implicit distribution, of which all else takes the mean."""
    quantile_loss: Literal["huber", "squared"] = "huber"
    """Loss of quantile critics; squared makes all quantiles the mean."""
    quantiles: int = 32
    """Quantiles an update fits, and of which the mean is taken."""
    anti_exploration: Literal["none", "rnd", "cvae"] = "none"
    """Subtract a bonus b(s, a) from Q where the action is unlike the data, by the error of this network."""
    anti_exploration_scale: float = 0.1
    """Mean of b over the data, in units of the (scaled) rewards, ≥ 0."""
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

    @property
    def dense(self) -> bool:
        return self.trunk == "d2rl"

    @property
    def needs_next_action(self) -> bool:  # type: ignore[override]
        """Without V the target is Q of what the data did next."""
        return self.value == "none"

    def why_no_choice(self) -> str:
        if self.anti_exploration != "none":
            return "algorithm.anti_exploration takes a bonus off Q that the exported graph does not have"
        return super().why_no_choice()

    def rules(self) -> list[Rule]:
        return [
            *super().rules(),
            ("expectile", 0.0 < self.expectile < 1.0, "must lie in (0, 1)"),
            ("beta", self.beta >= 0.0, "must be 0 or more"),
            ("weight_clip", self.weight_clip > 0.0, "must be positive"),
            ("target_rate", 0.0 < self.target_rate <= 1.0, "must lie in (0, 1]"),
            ("actor_online_rate", self.actor_online_rate > 0.0, "must be positive"),
            ("actor_average", 0.0 <= self.actor_average <= 1.0, "must lie in [0, 1]"),
            ("bc_weight", self.bc_weight >= 0.0, "must be 0 or more"),
            ("blend_updates", self.blend_updates >= 1, "must be 1 or more"),
            count("quantiles", self.quantiles, MOST_MEMBERS),
            ("anti_exploration_scale", self.anti_exploration_scale >= 0.0, "must be 0 or more"),
            count("critics", self.critics, MOST_MEMBERS),
            ("critic_subset", 0 <= self.critic_subset <= self.critics, "must lie in 0 to algorithm.critics"),
            ("critic_dropout", 0.0 <= self.critic_dropout < 1.0, "must lie in [0, 1)"),
        ]
