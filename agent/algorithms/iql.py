"""Implicit Q-Learning (Kostrikov, Nair, Levine 2021, arXiv:2110.06169), in the order of the authors' code.

One update on one batch (s, a, r, s', terminated), Q̂ the target critics:
  1. V:  L_V = E[|τ − 1(Q̂min − V < 0)|·(Q̂min − V)²]                              (equation 5)
  2. Q:  L_Q = Σ_i E[(r + γ(1 − terminated)·V(s') − Q_i)²], with the new V           (equation 6)
     π:  L_π = −E[min(exp(β·(Q̂min − V)), 100)·log π(a|s)], with the new V            (equation 7)
         (or another extraction: agent/algorithms/extraction.py)
  3. Q̂ ← (1 − α)·Q̂ + α·Q;  optionally π̄ ← (1 − κ)·π̄ + κ·π, published in place of π
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from agent import losses
from agent.adam import FusedAdam
from agent.algorithms.anti_exploration import AntiExploration
from agent.algorithms.critics import Critics
from agent.algorithms.extraction import Extraction
from agent.algorithms.iql_config import IQLConfig
from agent.algorithms.iql_critics import CriticLoss
from agent.algorithms.regression import Regression
from agent.networks import MLP, EnsembleCritic
from agent.transitions import Transitions


class IQL(Regression[IQLConfig]):
    """Actor, critics with their targets, and value."""

    name = "iql"

    def __init__(self, config: IQLConfig, **arguments: Any) -> None:
        super().__init__(config, **arguments)
        self._critic_loss = CriticLoss(self)
        self.critics = Critics(
            self, members=config.critics, target_rate=config.target_rate,
            subset=config.critic_subset, make=self._critic_loss.make,
        )  # fmt: skip
        if config.value == "network":
            value = MLP(self.observation_size, config.hidden, 1, generator=self.generator, dense=config.dense)
            self.value = value.to(self.device)
            self.networks["value"] = self.value
            self.optimizers["value"] = FusedAdam(list(self.value.parameters()))
        self.anti_exploration: AntiExploration | None = None
        if config.anti_exploration != "none":
            self.anti_exploration = AntiExploration(self, config.anti_exploration, scale=config.anti_exploration_scale)
        self.extraction = Extraction(config, self.device)
        self._average_rate = torch.ones((), device=self.device)
        if config.actor_average > 0.0:
            self._publish_average()

    def _publish_average(self) -> None:
        """Let `actor` be the moving average of `learned_actor`."""
        self.actor = copy.deepcopy(self.learned_actor).requires_grad_(False).eval()
        self.networks |= {"actor": self.actor, "learned_actor": self.learned_actor}

    def set_actor(self, state: Mapping[str, Tensor]) -> None:
        super().set_actor(state)
        self.learned_actor.load_state_dict(state)

    def weight_clip(self) -> float:
        return self.config.weight_clip

    def actor_learning_rate(self) -> float:
        """Cosine from the base rate to zero over the offline extraction; constant once online."""
        if self.updates >= self.offline_steps:
            return self.config.learning_rate * self.config.actor_online_rate
        return self.offline_cosine(self._first_extraction())

    def _first_extraction(self) -> int:
        return self.offline_steps // 2 if self.config.extraction == "after" else 0

    def due(self) -> str:
        """All networks, or with `extraction` "after" while offline the values first and then the policy alone."""
        if self.config.extraction == "concurrent" or self.updates >= self.offline_steps:
            return self.extraction.due(self.updates - self.offline_steps)
        return "values" if self.updates < self._first_extraction() else "policy"

    def before_step(self, rows: int) -> None:
        if self.part != "values" or self.config.value == "none":
            self.learned_actor.trunk.draw_masks(rows)
        if self.part != "values":
            self._average_rate.fill_(1.0 if self.updates < self.offline_steps else self.config.actor_average)
            self.actor_rate.fill_(self.actor_learning_rate())
            self.extraction.set_schedule(self.updates - self.offline_steps)
        if self.part != "policy":
            self.critics.online.draw_masks(rows)
            self._critic_loss.draw()
            if self.anti_exploration is not None:
                self.anti_exploration.draw(rows)
        self.critics.subset.draw()

    def step(self, batch: Transitions) -> dict[str, Tensor]:
        novelty: dict[str, Tensor] = {}
        if self.anti_exploration is not None:
            novelty["bonus"] = batch.reward.new_full((), self.config.anti_exploration_scale)
            if self.part != "policy":
                novelty |= self.anti_exploration.learn(batch)
        with torch.no_grad():
            q_B = self._minimum(self.critics.target, batch.observation, batch.action)
            q_hat_B = self._worth(q_B, batch.observation, batch.action)
        if self.part == "policy":
            v_B, shown_v_B = self._baseline(batch.observation)
            judged = {"q": q_B, "v": shown_v_B, "advantage": q_hat_B - v_B}
        elif self.config.value == "none":
            judged = self._learn_q_alone(batch, q_hat_B)
        else:
            judged = self._learn_values(batch, q_hat_B)
        if self.part == "values":
            return {**judged, **novelty}
        return {**judged, **novelty, **self._extract_policy(batch, judged["advantage"])}

    def _minimum(self, critic: EnsembleCritic, observation_BO: Tensor, action_BA: Tensor) -> Tensor:
        """min Q [B]."""
        q_B: Tensor = critic(observation_BO, action_BA, self.affine, members=self.critics.subset.members).amin(dim=0)
        return q_B

    def _worth(self, q_B: Tensor, observation_BO: Tensor, action_BA: Tensor) -> Tensor:
        """min Q − b [B]: what actions are worth wherever values are compared.

        Q alone is what is logged and watched: b has no bound where the data are far.
        """
        return q_B if self.anti_exploration is None else q_B - self.anti_exploration(observation_BO, action_BA)

    @torch.no_grad()
    def _baseline(self, observation_BO: Tensor) -> tuple[Tensor, Tensor]:
        """V(s) [B], or where there is no V what the policy's mean is worth; and the same without b."""
        if self.config.value == "network":
            v_B: Tensor = self.value(observation_BO, self.affine).squeeze(-1)
            return v_B, v_B
        mean_BA = self.mean(observation_BO)
        q_B = self._minimum(self.critics.target, observation_BO, mean_BA)
        return self._worth(q_B, observation_BO, mean_BA), q_B

    def _learn_values(self, batch: Transitions, q_hat_B: Tensor) -> dict[str, Tensor]:
        v_B = self.value(batch.observation, self.affine).squeeze(-1)
        value_loss = losses.expectile_loss(q_hat_B - v_B, self.config.expectile)
        self.optimizers["value"].minimize(value_loss, self.rate)

        with torch.no_grad():
            both = self.value(torch.cat([batch.observation, batch.next_observation]), self.affine).squeeze(-1)
            new_v_B, next_v_B = both.chunk(2)
            target_B = losses.td_target(batch.reward, batch.discount, next_v_B)
        critic_loss, q_NB = self._critic_loss(self.critics.online, batch, target_B)
        return {
            "value_loss": value_loss.detach(),
            **self._move_critics(critic_loss),
            "q": q_NB.detach(),
            "v": new_v_B,
            "advantage": q_hat_B - new_v_B,
        }

    def _learn_q_alone(self, batch: Transitions, q_hat_B: Tensor) -> dict[str, Tensor]:
        """Equation 4, the ablation: the expectile of r + γQ̂(s', a') − Q(s, a) over the data's next actions.

        It cannot tell a good action from a lucky outcome.
        """
        assert batch.next_action is not None and batch.next_action_known is not None
        with torch.no_grad():
            next_q_B = self._minimum(self.critics.target, batch.next_observation, batch.next_action)
            next_q_B = self._worth(next_q_B, batch.next_observation, batch.next_action)
            target_B = losses.td_target(batch.reward, batch.discount, next_q_B)
            # After an end in the task's sense nothing follows; after a cut what follows is not known.
            counts_B = ((batch.next_action_known > 0) | (batch.discount == 0)).float()
        v_B, shown_v_B = self._baseline(batch.observation)
        q_NB = self.critics.online(batch.observation, batch.action, self.affine, masked=True)
        critic_loss = losses.expectile_td_loss(q_NB, target_B, self.config.expectile, counts_B)
        moved = self._move_critics(critic_loss)
        return {**moved, "q": q_NB.detach(), "v": shown_v_B, "advantage": q_hat_B - v_B}

    def _move_critics(self, loss: Tensor) -> dict[str, Tensor]:
        self.critics.optimizer.minimize(loss, self.rate)
        self.critics.move_targets()
        return {"critic_loss": loss.detach()}

    def _extract_policy(self, batch: Transitions, advantage_B: Tensor) -> dict[str, Tensor]:
        def judge(action_BA: Tensor) -> tuple[Tensor, Tensor]:
            q_B = self._minimum(self.critics.online, batch.observation, action_BA)
            return self._worth(q_B, batch.observation, action_BA), q_B

        loss, report = self.extraction.loss(
            self.part,
            mean_BA=self.mean(batch.observation),
            log_std_A=self.learned_actor.clamped_log_std(),
            action_BA=batch.action,
            advantage_B=advantage_B,
            judge=judge,
        )
        moved = self.move_actor(loss)
        if self.config.actor_average > 0.0:
            with torch.no_grad():
                for average, weight in zip(self.actor.parameters(), self.learned_actor.parameters(), strict=True):
                    average.lerp_(weight, self._average_rate)
        return {"actor_loss": moved, **report}
