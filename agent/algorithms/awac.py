"""Advantage-weighted actor-critic (AWAC; Nair, Gupta, Dalal, Levine 2020, arXiv:2006.09359).

One update on one batch (s, a, r, s', terminated), Q̂ the target critics, actions of the policy clipped to ±1:
  1. Q:  L_Q = Σ_i E[(r + γ(1 − terminated)·min_i Q̂_i(s', a') − Q_i)²],  a' ~ π(·|s')
  2. π:  L_π = −E[min(exp(β·A), c)·log π(a|s)],  A = min_i Q_i(s, a) − min_i Q_i(s, ã),  ã ~ π(·|s), with the new Q
  3. Q̂ ← (1 − α)·Q̂ + α·Q

Weights are clipped, as in CORL's code; the authors' normalise them to a sum of one over the batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from agent import losses
from agent.adam import FusedAdam
from agent.algorithms.awac_config import AWACConfig
from agent.algorithms.base import Algorithm
from agent.algorithms.critics import Critics
from agent.networks import GaussianActor
from agent.transitions import Transitions


class AWAC(Algorithm[AWACConfig]):
    """Actor, and critics of that actor with their targets."""

    name = "awac"
    actor: GaussianActor

    def __init__(self, config: AWACConfig, **arguments: Any) -> None:
        super().__init__(config, **arguments)
        self.actor = GaussianActor(
            self.observation_size, self.action_size, config.hidden, generator=self.generator, dropout=config.dropout
        ).to(self.device)
        self.networks = {"actor": self.actor}
        self.optimizers = {"actor": FusedAdam(list(self.actor.parameters()))}
        self.critics = Critics(
            self, members=config.critics, layer_norm=config.critic_layer_norm, target_rate=config.target_rate
        )
        self.noise_2BA = torch.empty(2, config.batch_size, self.action_size, device=self.device)
        """Standard normal noise of the coming update's actions in s and in s'."""
        self.actor.train()

    def weight_clip(self) -> float:
        return self.config.weight_clip

    def before_step(self, rows: int) -> None:
        self.actor.trunk.draw_masks(rows)
        if self.noise_2BA.shape[1] != rows:
            self.noise_2BA = torch.empty(2, rows, self.action_size, device=self.device)
        self.noise_2BA.normal_(generator=self.generator)

    def step(self, batch: Transitions) -> dict[str, Tensor]:
        c = self.config
        std_A = self.actor.clamped_log_std().detach().exp()
        with torch.no_grad():
            next_mean_BA = torch.tanh(self.actor(batch.next_observation, self.affine))
            next_action_BA = (next_mean_BA + std_A * self.noise_2BA[1]).clamp(-1.0, 1.0)
            next_q_B = self.critics.target_minimum(batch.next_observation, next_action_BA)
            target_B = losses.td_target(batch.reward, batch.discount, next_q_B)
        learned = self.critics.learn(batch, target_B)

        mean_BA = torch.tanh(self.actor(batch.observation, self.affine))
        with torch.no_grad():
            own_BA = (mean_BA + std_A * self.noise_2BA[0]).clamp(-1.0, 1.0)
            v_B = self.critics.judge(batch.observation, own_BA).amin(dim=0)
            advantage_B = self.critics.judge(batch.observation, batch.action).amin(dim=0) - v_B
            weights_B = losses.advantage_weights(advantage_B, c.beta, c.weight_clip)
        log_prob_B = losses.gaussian_log_prob(mean_BA, self.actor.clamped_log_std(), batch.action)
        actor_loss = losses.weighted_regression_loss(weights_B, log_prob_B)
        self.optimizers["actor"].minimize(actor_loss, self.rate)
        self.critics.move_targets()
        return {
            **learned, "actor_loss": actor_loss.detach(), "v": v_B, "advantage": advantage_B, "weight": weights_B,
        }  # fmt: skip
