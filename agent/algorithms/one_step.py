"""One-step RL (Brandfonbrener, Whitney, Ranganath, Bruna 2021, arXiv:2106.08909): one improvement of the data's policy.

In the first half of the offline updates, on (s, a, r, s', a', terminated) with target critics Q̂:
  Q:  L_Q = Σ_i E[(r + γ(1 − terminated)·min_i Q̂_i(s', a') − Q_i(s, a))²]         SARSA: Q of the data's policy β
  V:  L_V = E[½(min_i Q̂_i(s, a) − V(s))²]
  π:  L_π = −E[log π(a|s)], so that π is β
In the second half, with Q and V fixed, π alone by one of
  exponential  L_π = −E[min(exp(β·(min_i Q̂_i(s, a) − V(s))), c)·log π(a|s)]
  reverse_kl   L_π = E[−min_i Q_i(s, ã) + α·KL(π(·|s) ‖ β(·|s))],  ã ~ π(·|s), clipped to ±1

A step that a limit or a fault cut off has no next action a', so the critics leave it out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from agent import losses
from agent.adam import FusedAdam
from agent.algorithms.critics import Critics
from agent.algorithms.one_step_config import OneStepConfig
from agent.algorithms.regression import Regression
from agent.networks import MLP
from agent.transitions import Transitions


class OneStep(Regression[OneStepConfig]):
    """Actor, value and critics of the data's policy, and with reverse_kl that policy itself."""

    name = "one_step"

    def __init__(self, config: OneStepConfig, **arguments: Any) -> None:
        super().__init__(config, **arguments)
        self.value = MLP(self.observation_size, config.hidden, 1, generator=self.generator).to(self.device)
        self.networks["value"] = self.value
        self.optimizers["value"] = FusedAdam(list(self.value.parameters()))
        self.critics = Critics(self, members=config.critics, target_rate=config.target_rate)
        if config.improvement == "reverse_kl":
            self.behaviour = self.make_actor().requires_grad_(False).eval()
            self.networks["behaviour"] = self.behaviour

    def weight_clip(self) -> float:
        return self.config.weight_clip

    def _first_improvement(self) -> int:
        return self.offline_steps // 2

    def due(self) -> str:
        """The data's policy and its values first, then the improvement."""
        return "values" if self.updates < self._first_improvement() else "policy"

    def actor_learning_rate(self) -> float:
        """The base rate, then over the improvement a cosine to zero."""
        return self.offline_cosine(self._first_improvement())

    def before_step(self, rows: int) -> None:
        super().before_step(rows)
        if self.config.improvement == "reverse_kl":
            if self.updates == self._first_improvement():
                self.behaviour.load_state_dict(self.actor.state_dict())
            self.noise.normal("actions", rows, self.action_size)

    def step(self, batch: Transitions) -> dict[str, Tensor]:
        judged = self._learn_values(batch) if self.part == "values" else self._judge(batch)
        if self.part == "policy" and self.config.improvement == "reverse_kl":
            actor_loss = self.move_actor(self._reverse_kl(batch))
        else:
            actor_loss = self.imitate(batch, judged.get("weight"))
        return {**judged, "actor_loss": actor_loss}

    def _learn_values(self, batch: Transitions) -> dict[str, Tensor]:
        assert batch.next_action is not None and batch.next_action_known is not None
        q_hat_B = self.critics.target_minimum(batch.observation, batch.action)
        v_B = self.value(batch.observation, self.affine).squeeze(-1)
        value_loss = losses.expectile_loss(q_hat_B - v_B, 0.5)
        self.optimizers["value"].minimize(value_loss, self.rate)

        next_q_B = self.critics.target_minimum(batch.next_observation, batch.next_action)
        target_B = losses.td_target(batch.reward, batch.discount, next_q_B)
        counts_B = torch.maximum(batch.next_action_known, (batch.discount == 0.0).to(target_B.dtype))
        learned = self.critics.learn(batch, target_B, counts_B)
        self.critics.move_targets()
        return {**learned, "value_loss": value_loss.detach(), "v": v_B.detach()}

    @torch.no_grad()
    def _judge(self, batch: Transitions) -> dict[str, Tensor]:
        q_hat_B = self.critics.target_minimum(batch.observation, batch.action)
        v_B = self.value(batch.observation, self.affine).squeeze(-1)
        judged = {"q": q_hat_B, "v": v_B, "advantage": q_hat_B - v_B}
        if self.config.improvement == "exponential":
            judged["weight"] = losses.advantage_weights(q_hat_B - v_B, self.config.beta, self.config.weight_clip)
        return judged

    def _reverse_kl(self, batch: Transitions) -> Tensor:
        mean_BA, log_std_A = self.mean(batch.observation), self.learned_actor.clamped_log_std()
        with torch.no_grad():
            data_mean_BA = torch.tanh(self.behaviour(batch.observation, self.affine))
            data_log_std_A = self.behaviour.clamped_log_std()
        action_BA = (mean_BA + log_std_A.exp() * self.noise["actions"]).clamp(-1.0, 1.0)
        q_B = self.critics.judge(batch.observation, action_BA).amin(dim=0)
        kl_B = losses.gaussian_kl(mean_BA, log_std_A, data_mean_BA, data_log_std_A)
        return (self.config.kl_weight * kl_B - q_B).mean()
