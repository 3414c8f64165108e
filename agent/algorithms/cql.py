"""Conservative Q-Learning, CQL(H) (Kumar, Zhou, Tucker, Levine 2020, arXiv:2006.04779), on SAC.

Beside SAC's L_Q, the critics' loss has for each critic (equation 4, with the log-sum-exp of appendix F)
  α·E[ log Σ_j exp(Q_i(s, a_j)) / μ(a_j) − Q_i(s, a) ],
a_j drawn uniformly, from the policy at s and from the policy at s', each with its density μ. With `lagrange` the gap
in brackets less τ is weighted by a factor α' ≥ 0 as well, which ascends on it (equation 30).

Factor and `max_target_backup` are as in Cal-QL's code (nakamotoo/Cal-QL, on JaxCQL). CQL's own weighs α·gap − τ by α',
which begins at 1, and takes the minimum over the critics of each one's maximum, not the maximum of their minimum.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import torch
from torch import Tensor

from agent import losses
from agent.adam import FusedAdam
from agent.algorithms.cql_config import CQLConfig
from agent.algorithms.sac import SAC
from agent.networks import LearnedScale
from agent.transitions import Transitions

C = TypeVar("C", bound=CQLConfig)

FIRST_FACTOR = math.e
"""Of the Lagrange multiplier, as in Cal-QL's code; at most LARGEST_FACTOR."""
LARGEST_FACTOR = 1e6


class CQL(SAC[C]):
    """SAC whose critics think little of actions that the data lack."""

    name = "cql"

    def __init__(self, config: C, **arguments: Any) -> None:
        super().__init__(config, **arguments)
        self.factor = LearnedScale(FIRST_FACTOR).to(self.device)
        if config.lagrange:
            self.networks["factor"] = self.factor
            self.optimizers["factor"] = FusedAdam(list(self.factor.parameters()))

    def before_step(self, rows: int) -> None:
        super().before_step(rows)
        shape = (self.config.sampled_actions, rows, self.action_size)
        self.noise.uniform("anywhere", *shape)
        self.noise.normal("conservative_now", *shape)
        self.noise.normal("conservative_next", *shape)

    def draw_next(self, rows: int) -> None:
        if self.config.max_target_backup:
            self.noise.normal("next", self.config.sampled_actions, rows, self.action_size)
        else:
            super().draw_next(rows)

    def next_value(self, batch: Transitions) -> Tensor:
        if not self.config.max_target_backup:
            return super().next_value(batch)
        action_KBA, log_prob_KB = self.actor.sample(batch.next_observation, self.noise["next"], self.affine)
        flat = action_KBA.flatten(0, 1)
        q_KB = self.critics.target_minimum(repeated(batch.next_observation, len(action_KBA)), flat).view(
            log_prob_KB.shape
        )
        q_B: Tensor
        q_B, best_B = q_KB.max(dim=0)
        if self.config.backup_entropy:
            q_B = q_B - self.temperature() * log_prob_KB.gather(0, best_B[None]).squeeze(0)
        return q_B

    def penalty(self, batch: Transitions, q_NB: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        c = self.config
        with torch.no_grad():
            now_KBA, log_now_KB = self.actor.sample(batch.observation, self.noise["conservative_now"], self.affine)
            next_KBA, log_next_KB = self.actor.sample(
                batch.next_observation, self.noise["conservative_next"], self.affine
            )
            anywhere_KBA = self.noise["anywhere"]
            action_MBA = torch.cat([anywhere_KBA, now_KBA, next_KBA])
            log_anywhere_KB = torch.full_like(log_now_KB, -self.action_size * math.log(2.0))
            log_density_MB = torch.cat([log_anywhere_KB, log_now_KB, log_next_KB])
        q_NMB = self.critics.judge(repeated(batch.observation, len(action_MBA)), action_MBA.flatten(0, 1))
        q_NMB = q_NMB.view(-1, *log_density_MB.shape)
        q_NMB, shown = self.calibrate(batch, q_NMB)
        gap_N = losses.conservative_gap(q_NMB, q_NB, log_density_MB if c.importance_sampling else None)
        shown["conservative_gap"] = gap_N.detach().mean()
        if not c.lagrange:
            return c.conservative_weight * gap_N.sum(), shown
        excess = c.conservative_weight * (gap_N - c.target_action_gap)
        factor = self.factor().clamp(max=LARGEST_FACTOR)
        shown["conservative_factor"] = factor.detach()
        self.optimizers["factor"].minimize(-factor * excess.detach().mean(), self.rate)
        return factor.detach() * excess.sum(), shown

    def calibrate(self, batch: Transitions, q_NMB: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The sampled actions' Q that enters the penalty: uniform ones first, then the policy's. Cal-QL's place."""
        return q_NMB, {}


def repeated(observation_BO: Tensor, times: int) -> Tensor:
    """[B, O] → [times·B, O]."""
    return observation_BO.expand(times, *observation_BO.shape).flatten(0, 1)
