"""How IQL's actor follows from its values: the policy loss L_π and its schedule.

  awr            −E[w·log π(a|s)],  w = min(exp(β·A), c)          (IQL, equation 7)
  deterministic  E[w·½‖a − μ(s)‖²]                                (the same with σ = 1)
  ddpg_bc        −E[Q(s, μ(s))]/E|Q| + α·E[½‖a − μ(s)‖²]          (Park et al. 2024, arXiv:2406.09329, equation 4)
  blended        (1 − ω)·awr + ω·ddpg_bc,  ω from 0 to 1 over the first online updates

Where σ is in none of the terms it follows the likelihood of the data's actions about the mean, which it does not move:
exploration then keeps the spread that the data have.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from agent import losses
from agent.algorithms.iql_config import IQLConfig

Judge = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Action [B, A] → what it is worth [B], with a gradient, and Q of it alone [B], which is logged."""


class Extraction:
    """L_π for one configuration; `blend` is ω as a tensor, so that a compiled step sees it change."""

    def __init__(self, config: IQLConfig, device: torch.device) -> None:
        self._config = config
        self.blend = torch.zeros((), device=device)

    def due(self, online_updates: int) -> str:
        """The part of the update for so many online updates before it: "all", or "blended" once Q is followed too."""
        return "blended" if self._config.policy == "blended" and online_updates >= 0 else "all"

    def set_schedule(self, online_updates: int) -> None:
        """ω of the coming update: a function of the count alone, so that a resumed run goes on with it."""
        self.blend.fill_(min(1.0, max(0.0, online_updates / self._config.blend_updates)))

    def loss(
        self, part: str, *, mean_BA: Tensor, log_std_A: Tensor, action_BA: Tensor, advantage_B: Tensor, judge: Judge
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """L_π, and what of it is to log: `weight` [B] where advantages weigh, `q_policy` [B] where Q is followed."""
        policy = self._config.policy
        if policy == "ddpg_bc":
            loss, q_B = self._follow_q(mean_BA, action_BA, judge)
            return loss + self._fit_spread(mean_BA, log_std_A, action_BA), {"q_policy": q_B}
        weights_B = losses.advantage_weights(advantage_B, self._config.beta, self._config.weight_clip)
        if policy == "deterministic":
            loss = losses.weighted_regression_loss(weights_B, -losses.squared_action_error(mean_BA, action_BA))
            return loss + self._fit_spread(mean_BA, log_std_A, action_BA), {"weight": weights_B}
        log_prob_B = losses.gaussian_log_prob(mean_BA, log_std_A, action_BA)
        loss = losses.weighted_regression_loss(weights_B, log_prob_B)
        if part != "blended":
            return loss, {"weight": weights_B}
        following, q_B = self._follow_q(mean_BA, action_BA, judge)
        following = following + self._fit_spread(mean_BA, log_std_A, action_BA)
        report = {"weight": weights_B, "q_policy": q_B, "blend": self.blend.clone()}
        return (1.0 - self.blend) * loss + self.blend * following, report

    def _follow_q(self, mean_BA: Tensor, action_BA: Tensor, judge: Judge) -> tuple[Tensor, Tensor]:
        worth_B, q_B = judge(mean_BA)
        held_back = self._config.bc_weight * losses.squared_action_error(mean_BA, action_BA).mean()
        return losses.policy_gradient_loss(worth_B, losses.scale_of(worth_B)) + held_back, q_B.detach()

    def _fit_spread(self, mean_BA: Tensor, log_std_A: Tensor, action_BA: Tensor) -> Tensor:
        return -losses.gaussian_log_prob(mean_BA.detach(), log_std_A, action_BA).mean()
