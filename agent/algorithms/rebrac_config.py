"""Hyper-parameters of ReBRAC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from agent.algorithms.config import Rule
from agent.algorithms.td3_config import TD3Config


@dataclass(frozen=True, kw_only=True)
class ReBRACConfig(TD3Config):
    """ReBRAC with what its authors' configurations have in common; they tune both penalties for each dataset.

    Locomotion has batches of 1024 and a learning rate of 1e-3 there, which is in that preset.
    """

    name: Literal["rebrac"] = "rebrac"
    """Which algorithm."""
    actor_penalty: float = 0.01
    """β1: what the policy pays for leaving the data's action, ≥ 0."""
    critic_penalty: float = 0.01
    """β2: what the target pays for leaving the data's next action, in units of reward, ≥ 0."""
    hidden: tuple[int, ...] = (256, 256, 256)
    """Widths of the hidden layers of all networks; three, since depth is one of the paper's points."""
    critic_layer_norm: bool = True
    """LayerNorm in the critics' hidden layers."""

    needs_next_action: ClassVar[bool] = True

    def rules(self) -> list[Rule]:
        return [
            *super().rules(),
            ("actor_penalty", self.actor_penalty >= 0.0, "must be 0 or more"),
            ("critic_penalty", self.critic_penalty >= 0.0, "must be 0 or more"),
        ]
