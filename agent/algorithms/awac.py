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
from agent.algorithms.awac_config import AWACConfig
from agent.algorithms.critics import Critics
from agent.algorithms.regression import Regression
from agent.transitions import Transitions


class AWAC(Regression[AWACConfig]):
    """Actor, and critics of that actor with their targets."""

    name = "awac"

    def __init__(self, config: AWACConfig, **arguments: Any) -> None:
        super().__init__(config, **arguments)
        self.critics = Critics(
            self, members=config.critics, layer_norm=config.critic_layer_norm, target_rate=config.target_rate
        )

    def weight_clip(self) -> float:
        return self.config.weight_clip

    def actor_learning_rate(self) -> float:
        """Always the base rate, as its authors'."""
        return self.config.learning_rate

    def before_step(self, rows: int) -> None:
        super().before_step(rows)
        self.noise.normal("actions", 2, rows, self.action_size)

    def step(self, batch: Transitions) -> dict[str, Tensor]:
        c = self.config
        eps_BA, next_eps_BA = self.noise["actions"]
        std_A = self.learned_actor.clamped_log_std().detach().exp()
        with torch.no_grad():
            next_action_BA = (self.mean(batch.next_observation) + std_A * next_eps_BA).clamp(-1.0, 1.0)
            next_q_B = self.critics.target_minimum(batch.next_observation, next_action_BA)
            target_B = losses.td_target(batch.reward, batch.discount, next_q_B)
        learned = self.critics.learn(batch, target_B)

        mean_BA = self.mean(batch.observation)
        with torch.no_grad():
            own_BA = (mean_BA + std_A * eps_BA).clamp(-1.0, 1.0)
            v_B = self.critics.judge(batch.observation, own_BA).amin(dim=0)
            advantage_B = self.critics.judge(batch.observation, batch.action).amin(dim=0) - v_B
            weights_B = losses.advantage_weights(advantage_B, c.beta, c.weight_clip)
        actor_loss = self.move_actor(self.imitation(batch, mean_BA, weights_B))
        self.critics.move_targets()
        return {
            **learned, "actor_loss": actor_loss, "v": v_B, "advantage": advantage_B, "weight": weights_B,
        }  # fmt: skip
