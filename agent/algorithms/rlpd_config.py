"""Hyper-parameters of RLPD."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from agent.algorithms.sac_config import SACConfig


@dataclass(frozen=True, kw_only=True)
class RLPDConfig(SACConfig):
    """RLPD with the values of its authors' code (ikostrikov/rlpd) for locomotion.

    Half of each batch is logged data (`online.offline_fraction`) and `online.utd` is theirs too: 20 critic updates a
    step, of which every twentieth also moves the policy.
    """

    name: str = "rlpd"
    """Which algorithm."""
    critics: int = 10
    """Members of the critic ensemble."""
    critic_subset: int = 2
    """The target takes the minimum over this many members, drawn anew for each update; 0 over all of them."""
    critic_layer_norm: bool = True
    """LayerNorm in the critics' hidden layers: bounds Q for actions that no data has."""
    policy_q: Literal["min", "mean"] = "mean"
    """The policy climbs the minimum or the mean over all critics."""
    policy_delay: int = 20
    """The policy and the temperature move in every so-many-th update only: once a step at `online.utd` 20."""
    target_entropy: float = -0.5
    """Entropy that the temperature aims for, times the number of action entries."""

    run_wide: ClassVar[Mapping[str, Any]] = {"pretrain_steps": 0, "online": {"offline_fraction": 0.5, "utd": 20.0}}
