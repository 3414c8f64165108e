"""WSRL, warm-start reinforcement learning (Zhou, Peng, Li, Levine, Kumar 2024, arXiv:2412.07762).

Offline, one of
  cal_ql, cql   their update (`CalQL`, `CQL`), policy included, with an ensemble of critics and LayerNorm
  iql           V and Q as IQL's (Kostrikov et al. 2021, equations 5 and 6), the policy by advantage-weighted
                likelihood (equation 7) under the squashed Gaussian that SAC then goes on with
Online, after `online.warmup_steps` steps of the frozen policy, plain SAC from these networks with many updates a step,
no pessimism, and no offline data (`online.offline_fraction` 0): the warm-up's steps alone bridge from the data to the
policy's own. Targets, moments and temperature go on as they are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from agent import losses
from agent.adam import FusedAdam
from agent.algorithms.cal_ql import floored
from agent.algorithms.cql import CQL
from agent.algorithms.sac import SAC
from agent.algorithms.wsrl_config import WSRLConfig
from agent.networks import MLP
from agent.transitions import Transitions


class WSRL(CQL[WSRLConfig]):
    """Conservative or implicit critics offline, SAC's online, one policy throughout."""

    name = "wsrl"

    def __init__(self, config: WSRLConfig, **arguments: Any) -> None:
        super().__init__(config, **arguments)
        if config.pretraining == "iql":
            self.value = MLP(self.observation_size, config.hidden, 1, generator=self.generator).to(self.device)
            self.networks["value"] = self.value
            self.optimizers["value"] = FusedAdam(list(self.value.parameters()))

    def weight_clip(self) -> float:
        return self.config.weight_clip if self.config.pretraining == "iql" else super().weight_clip()

    def due(self) -> str:
        """Offline the pretraining's whole update; online SAC's, of which some are the critics' alone."""
        if self.updates < self.offline_steps:
            return self.config.pretraining
        return super().due()

    @property
    def pessimistic(self) -> bool:
        """Whether the update that is due is CQL's or Cal-QL's."""
        return self.part in ("cal_ql", "cql")

    def before_step(self, rows: int) -> None:
        if self.part == "iql":
            self.critics.subset.draw()
        elif self.pessimistic:
            super().before_step(rows)
        else:
            SAC.before_step(self, rows)

    def draw_next(self, rows: int) -> None:
        if self.pessimistic:
            super().draw_next(rows)
        else:
            SAC.draw_next(self, rows)

    def step(self, batch: Transitions) -> dict[str, Tensor]:
        return self.step_iql(batch) if self.part == "iql" else super().step(batch)

    def next_value(self, batch: Transitions) -> Tensor:
        return super().next_value(batch) if self.pessimistic else SAC.next_value(self, batch)

    def penalty(self, batch: Transitions, q_NB: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return super().penalty(batch, q_NB) if self.pessimistic else SAC.penalty(self, batch, q_NB)

    def calibrate(self, batch: Transitions, q_NMB: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        if self.part == "cql":
            return q_NMB, {}
        return floored(q_NMB, batch.return_to_go, uniform=self.config.sampled_actions)

    def step_iql(self, batch: Transitions) -> dict[str, Tensor]:
        """V, critics and policy as IQL's, in its order."""
        c = self.config
        q_hat_B = self.critics.target_minimum(batch.observation, batch.action)
        v_B = self.value(batch.observation, self.affine).squeeze(-1)
        value_loss = losses.expectile_loss(q_hat_B - v_B, c.expectile)
        self.optimizers["value"].minimize(value_loss, self.rate)
        with torch.no_grad():
            both = self.value(torch.cat([batch.observation, batch.next_observation]), self.affine).squeeze(-1)
            new_v_B, next_v_B = both.chunk(2)
            target_B = losses.td_target(batch.reward, batch.discount, next_v_B)
        learned = self.critics.learn(batch, target_B)
        self.critics.move_targets()

        weights_B = losses.advantage_weights(q_hat_B - new_v_B, c.beta, c.weight_clip)
        log_prob_B = self.actor.log_prob(batch.observation, batch.action, self.affine)
        actor_loss = losses.weighted_regression_loss(weights_B, log_prob_B)
        self.optimizers["actor"].minimize(actor_loss, self._actor_rate)
        return {
            **learned,
            "value_loss": value_loss.detach(),
            "v": new_v_B,
            "advantage": q_hat_B - new_v_B,
            "weight": weights_B,
            "actor_loss": actor_loss.detach(),
        }
