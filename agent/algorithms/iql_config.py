"""Hyper-parameters of IQL, apart from the algorithm so that processes without torch can read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class IQLConfig:
    """Hyper-parameters; defaults are the paper's for locomotion (appendix B)."""

    expectile: float = 0.7
    """τ of the value loss, in (0, 1): larger trusts the best actions in the data more."""
    beta: float = 3.0
    """Inverse temperature of policy extraction, ≥ 0: larger is greedier, 0 is behaviour cloning."""
    extraction: Literal["concurrent", "after"] = "concurrent"
    """Offline, the policy is extracted in every update, or in the second half of them with values only in the first."""
    weight_clip: float = 100.0
    """Upper bound of the advantage weights."""
    discount: float = 0.99
    """γ, per environment step, in [0, 1)."""
    target_rate: float = 0.005
    """α of the target critics' moving average, in (0, 1]."""
    learning_rate: float = 3e-4
    """Adam's step size for all networks; the actor's follows a cosine to zero over the offline steps only."""
    batch_size: int = 256
    """Transitions an update."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers of all networks."""
    critics: int = 2
    """Members of the critic ensemble; the minimum over their targets is used."""
    critic_layer_norm: bool = False
    """LayerNorm in the critics' hidden layers: steadier fine-tuning."""
    dropout: float = 0.0
    """Dropout rate of the actor (0.1 in the paper for Adroit and Kitchen)."""
