"""TD3's update (Fujimoto, van Hoof, Meger 2018, arXiv:1802.09477), without which of the data's actions hold it back.

One update on one batch (s, a, r, s', terminated), with target critics Q̂ and target policy π̂:
  1. ã = clip(π̂(s') + clip(σ·ε, ±c), ±1),  y = r + γ(1 − terminated)·(min_i Q̂_i(s', ã) − penalty(s', ã))
     Q:  L_Q = Σ_i E[(y − Q_i(s, a))²]
  2. in every `policy_delay`-th update, with the new critics,
     π:  L_π, a subclass's;  then Q̂ ← (1 − α)·Q̂ + α·Q and π̂ ← (1 − α)·π̂ + α·π
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from agent import losses
from agent.adam import FusedAdam
from agent.algorithms.base import Algorithm, move_targets
from agent.algorithms.critics import Critics
from agent.algorithms.td3_config import TD3Config
from agent.networks import DeterministicActor, Members
from agent.transitions import Transitions

C = TypeVar("C", bound=TD3Config)


class TD3(Algorithm[C]):
    """Deterministic policy, its target, critics with theirs. A subclass says what keeps it near the data."""

    actor: DeterministicActor
    policy_judges: ClassVar[Members] = None
    """The critics that the policy's loss asks."""

    def __init__(self, config: C, **arguments: Any) -> None:
        super().__init__(config, **arguments)
        self.actor = self._make_actor()
        self.target_actor = self._make_actor().requires_grad_(False)
        self.target_actor.load_state_dict(self.actor.state_dict())
        self.networks = {"actor": self.actor, "target_actor": self.target_actor}
        self.optimizers = {"actor": FusedAdam(list(self.actor.parameters()))}
        self.critics = Critics(
            self, members=config.critics, layer_norm=config.critic_layer_norm, target_rate=config.target_rate
        )
        self._actor_parameters: list[Tensor] = list(self.actor.parameters())
        self._target_parameters: list[Tensor] = list(self.target_actor.parameters())

    def _make_actor(self) -> DeterministicActor:
        c = self.config
        return DeterministicActor(
            self.observation_size, self.action_size, c.hidden,
            generator=self.generator, exploration_std=c.exploration_std,
        ).to(self.device)  # fmt: skip

    @abstractmethod
    def policy_loss(self, batch: Transitions, action_BA: Tensor, q_NB: Tensor) -> Tensor:
        """L_π of the policy's actions [B, A], which `policy_judges` think worth q [N, B]."""

    def next_penalty(self, batch: Transitions, next_action_BA: Tensor) -> Tensor | float:
        """What leaving the data's next action costs the target, [B]."""
        return 0.0

    def due(self) -> str:
        """The critics, and with every `policy_delay`-th update the policy and the targets too."""
        return "all" if (self.updates + 1) % self.config.policy_delay == 0 else "critics"

    def before_step(self, rows: int) -> None:
        self.noise.normal("smoothing", rows, self.action_size)

    def step(self, batch: Transitions) -> dict[str, Tensor]:
        c = self.config
        with torch.no_grad():
            smoothing_BA = (c.target_noise * self.noise["smoothing"]).clamp(-c.target_noise_clip, c.target_noise_clip)
            next_action_BA = self.target_actor(batch.next_observation, self.affine) + smoothing_BA
            next_action_BA = next_action_BA.clamp(-1.0, 1.0)
            next_q_B = self.critics.target_minimum(batch.next_observation, next_action_BA)
            next_q_B = next_q_B - self.next_penalty(batch, next_action_BA)
            target_B = losses.td_target(batch.reward, batch.discount, next_q_B)
        learned = self.critics.learn(batch, target_B)
        if self.part == "critics":
            return learned
        action_BA = self.actor(batch.observation, self.affine)
        q_NB = self.critics.judge(batch.observation, action_BA, self.policy_judges)
        actor_loss = self.policy_loss(batch, action_BA, q_NB)
        self.optimizers["actor"].minimize(actor_loss, self.rate)
        with torch.no_grad():
            move_targets(self._target_parameters, self._actor_parameters, c.target_rate)
        self.critics.move_targets()
        return {**learned, "actor_loss": actor_loss.detach(), "q_policy": q_NB.detach()}
