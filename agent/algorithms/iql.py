"""Implicit Q-Learning (Kostrikov, Nair, Levine 2021, arXiv:2110.06169), in the order of the authors' code.

One update on one batch (s, a, r, s', terminated), Q̂ the target critics:
  1. V:  L_V = E[|τ − 1(Q̂min − V < 0)|·(Q̂min − V)²]                              (equation 5)
  2. Q:  L_Q = Σ_i E[(r + γ(1 − terminated)·V(s') − Q_i)²], with the new V           (equation 6)
     π:  L_π = −E[min(exp(β·(Q̂min − V)), 100)·log π(a|s)], with the new V            (equation 7)
         (or another extraction: agent/algorithms/extraction.py)
  3. Q̂ ← (1 − α)·Q̂ + α·Q
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from agent import losses
from agent.adam import FusedAdam
from agent.algorithms.base import Algorithm, move_targets
from agent.algorithms.extraction import Extraction
from agent.algorithms.iql_config import IQLConfig
from agent.networks import MLP, EnsembleCritic, GaussianActor, Subset
from agent.transitions import Transitions


class IQL(Algorithm[IQLConfig]):
    """Actor, critics with their targets, and value."""

    name = "iql"
    actor: GaussianActor

    def __init__(self, config: IQLConfig, **arguments: Any) -> None:
        super().__init__(config, **arguments)
        dense = config.trunk == "d2rl"
        self.actor = GaussianActor(
            self.observation_size, self.action_size, config.hidden,
            generator=self.generator, dropout=config.dropout, dense=dense,
        ).to(self.device)  # fmt: skip
        self.critic = self._make_critic()
        self.target_critic = self._make_critic().requires_grad_(False)
        self.target_critic.load_state_dict(self.critic.state_dict())
        self.value = MLP(self.observation_size, config.hidden, 1, generator=self.generator, dense=dense).to(self.device)
        self.networks = {
            "actor": self.actor, "critic": self.critic, "target_critic": self.target_critic, "value": self.value,
        }  # fmt: skip
        self.optimizers = {
            "value": FusedAdam(list(self.value.parameters())),
            "critic": FusedAdam(list(self.critic.parameters())),
            "actor": FusedAdam(list(self.actor.parameters())),
        }
        self.extraction = Extraction(config, self.device)
        self._subset = Subset(config.critics, config.critic_subset, generator=self.generator, device=self.device)
        self._actor_rate = self.rate.clone()
        self._critic_params: list[Tensor] = list(self.critic.parameters())
        self._target_params: list[Tensor] = list(self.target_critic.parameters())
        self.actor.train()

    def _make_critic(self) -> EnsembleCritic:
        return EnsembleCritic(
            self.observation_size,
            self.action_size,
            self.config.hidden,
            members=self.config.critics,
            generator=self.generator,
            layer_norm=self.config.critic_layer_norm,
            dropout=self.config.critic_dropout,
            dense=self.config.trunk == "d2rl",
        ).to(self.device)

    def weight_clip(self) -> float:
        return self.config.weight_clip

    def actor_learning_rate(self) -> float:
        """Cosine from the base rate to zero over the offline extraction; constant at the base rate once online."""
        return self.offline_cosine(self._first_extraction())

    def _first_extraction(self) -> int:
        return self.offline_steps // 2 if self.config.extraction == "after" else 0

    def due(self) -> str:
        """All networks, or with `extraction` "after" while offline the values first and then the policy alone."""
        if self.config.extraction == "concurrent" or self.updates >= self.offline_steps:
            return self.extraction.due(self.updates - self.offline_steps)
        return "values" if self.updates < self._first_extraction() else "policy"

    def before_step(self, rows: int) -> None:
        if self.part != "values":
            self.actor.trunk.draw_masks(rows)
            self._actor_rate.fill_(self.actor_learning_rate())
            self.extraction.set_schedule(self.updates - self.offline_steps)
        if self.part != "policy":
            self.critic.draw_masks(rows)
        self._subset.draw()

    def step(self, batch: Transitions) -> dict[str, Tensor]:
        with torch.no_grad():
            target_q_NB = self.target_critic(batch.observation, batch.action, self.affine)
            q_hat_B = self._subset.minimum(target_q_NB)
        if self.part == "policy":
            with torch.no_grad():
                v_B = self.value(batch.observation, self.affine).squeeze(-1)
            judged = {"q": target_q_NB, "v": v_B, "advantage": q_hat_B - v_B}
        else:
            judged = self._learn_values(batch, q_hat_B)
        if self.part == "values":
            return judged
        return {**judged, **self._extract_policy(batch, judged["advantage"])}

    def _learn_values(self, batch: Transitions, q_hat_B: Tensor) -> dict[str, Tensor]:
        c = self.config
        v_B = self.value(batch.observation, self.affine).squeeze(-1)
        value_loss = losses.expectile_loss(q_hat_B - v_B, c.expectile)
        self.optimizers["value"].minimize(value_loss, self.rate)

        with torch.no_grad():
            both = self.value(torch.cat([batch.observation, batch.next_observation]), self.affine).squeeze(-1)
            new_v_B, next_v_B = both.chunk(2)
            target_B = losses.td_target(batch.reward, batch.discount, next_v_B)
        q_NB = self.critic(batch.observation, batch.action, self.affine, masked=True)
        critic_loss = losses.td_loss(q_NB, target_B)
        self.optimizers["critic"].minimize(critic_loss, self.rate)
        with torch.no_grad():
            move_targets(self._target_params, self._critic_params, c.target_rate)
        return {
            "value_loss": value_loss.detach(),
            "critic_loss": critic_loss.detach(),
            "q": q_NB.detach(),
            "v": new_v_B,
            "advantage": q_hat_B - new_v_B,
        }

    def _extract_policy(self, batch: Transitions, advantage_B: Tensor) -> dict[str, Tensor]:
        loss, report = self.extraction.loss(
            self.part,
            mean_BA=torch.tanh(self.actor(batch.observation, self.affine)),
            log_std_A=self.actor.clamped_log_std(),
            action_BA=batch.action,
            advantage_B=advantage_B,
            judge=lambda action_BA: self._subset.minimum(self.critic(batch.observation, action_BA, self.affine)),
        )
        self.optimizers["actor"].minimize(loss, self._actor_rate)
        return {"actor_loss": loss.detach(), **report}
