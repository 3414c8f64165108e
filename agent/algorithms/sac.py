"""Soft Actor-Critic (Haarnoja et al. 2018, arXiv:1812.05905), with ensembles as in RLPD (Ball et al. 2023).

One update on one batch (s, a, r, s', terminated), Q̂ the target critics, a' and ã drawn from the policy:
  1. Q:  y = r + γ(1 − terminated)·(min_i Q̂_i(s', a') − α·log π(a'|s')),  i over a random subset
         L_Q = Σ_i E[(y − Q_i(s, a))²]                                       (equations 5 and 6)
     Q̂ ← (1 − τ)·Q̂ + τ·Q
  2. every `policy_delay` updates, with the new critics,
     π:  L_π = E[α·log π(ã|s) − min_i Q_i(s, ã)], or the mean over i          (equation 9)
     α:  L_α = E[−α·log π(ã|s)] − α·H̄                                       (equation 18)
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor

from agent import losses
from agent.adam import FusedAdam
from agent.algorithms.base import Algorithm
from agent.algorithms.critics import Critics
from agent.algorithms.sac_config import SACConfig
from agent.networks import LearnedScale, SquashedGaussianActor
from agent.transitions import Transitions

C = TypeVar("C", bound=SACConfig)


class SAC(Algorithm[C]):
    """Squashed Gaussian policy, critics with their targets, and the entropy's weight."""

    name = "sac"
    actor: SquashedGaussianActor

    def __init__(self, config: C, **arguments: Any) -> None:
        super().__init__(config, **arguments)
        self.actor = SquashedGaussianActor(
            self.observation_size, self.action_size, config.hidden, generator=self.generator
        ).to(self.device)
        self.temperature = LearnedScale(config.initial_temperature).to(self.device)
        self.networks = {"actor": self.actor, "temperature": self.temperature}
        self.optimizers = {
            "actor": FusedAdam(list(self.actor.parameters())),
            "temperature": FusedAdam(list(self.temperature.parameters())),
        }
        self.critics = Critics(
            self,
            members=config.critics,
            layer_norm=config.critic_layer_norm,
            target_rate=config.target_rate,
            subset=config.critic_subset,
        )
        self.target_entropy = config.target_entropy * self.action_size
        self._actor_rate = torch.tensor(config.actor_learning_rate, device=self.device)

    def hold_actor(self, held: bool) -> None:
        super().hold_actor(held)
        # It answers to an entropy that cannot change meanwhile, and would go on without end.
        self.optimizers["temperature"].hold(held)

    def due(self) -> str:
        """The critics, and with every `policy_delay`-th update the policy and the temperature too."""
        return "all" if (self.updates + 1) % self.config.policy_delay == 0 else "critics"

    def before_step(self, rows: int) -> None:
        self.draw_next(rows)
        self.critics.subset.draw()
        if self.part != "critics":
            self.noise.normal("now", rows, self.action_size)

    def draw_next(self, rows: int) -> None:
        """The noise of the actions at s'."""
        self.noise.normal("next", rows, self.action_size)

    def step(self, batch: Transitions) -> dict[str, Tensor]:
        with torch.no_grad():
            target_B = losses.td_target(batch.reward, batch.discount, self.next_value(batch))
        learned = self.learn_critics(batch, target_B)
        return learned if self.part == "critics" else {**learned, **self.learn_policy(batch)}

    def next_value(self, batch: Transitions) -> Tensor:
        """V(s') [B] by the target critics, one action of the policy and, if it counts, its entropy."""
        action_BA, log_prob_B = self.actor.sample(batch.next_observation, self.noise["next"], self.affine)
        q_B = self.critics.target_minimum(batch.next_observation, action_BA)
        return q_B - self.temperature() * log_prob_B if self.config.backup_entropy else q_B

    def learn_critics(self, batch: Transitions, target_B: Tensor) -> dict[str, Tensor]:
        """One step on all critics towards `target_B`, then on the targets."""
        shown: dict[str, Tensor] = {}

        def penalty(q_NB: Tensor) -> Tensor:
            loss, more = self.penalty(batch, q_NB)
            shown.update(more)
            return loss

        learned = self.critics.learn(batch, target_B, penalty=penalty)
        self.critics.move_targets()
        if self.config.backup_entropy:
            # What entropy can add to a reward: values may exceed the rewards' sum by as much.
            with torch.no_grad():
                shown["bonus"] = self.action_size * self.temperature().clamp(min=self.config.initial_temperature)
        return {**learned, **shown}

    def penalty(self, batch: Transitions, q_NB: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """What a subclass adds to the critics' loss, a scalar, and what of it is worth logging."""
        return q_NB.new_zeros(()), {}

    def learn_policy(self, batch: Transitions) -> dict[str, Tensor]:
        """One step on the policy and one on the temperature."""
        action_BA, log_prob_B = self.actor.sample(batch.observation, self.noise["now"], self.affine)
        q_NB = self.critics.judge(batch.observation, action_BA)
        q_B = q_NB.amin(dim=0) if self.config.policy_q == "min" else q_NB.mean(dim=0)
        actor_loss = losses.soft_policy_loss(log_prob_B, q_B, self.temperature())
        self.optimizers["actor"].minimize(actor_loss, self._actor_rate)
        temperature_loss = losses.temperature_loss(self.temperature(), log_prob_B, self.target_entropy)
        self.optimizers["temperature"].minimize(temperature_loss, self._actor_rate)
        return {
            "actor_loss": actor_loss.detach(),
            "entropy": -log_prob_B.detach().mean(),
            "temperature": self.temperature().detach(),
        }
