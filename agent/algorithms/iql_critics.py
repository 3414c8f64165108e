"""IQL's critics and their loss: scalar ones as published, or distributions.

The target r + γV(s') has a distribution only through reward and next state, for V is a number: what quantile critics
learn is the spread of one step, not of returns, and no fixed point of the distributional Bellman operator. With the
squared loss every quantile tends to the same mean.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from agent import losses
from agent.algorithms.base import Algorithm
from agent.algorithms.iql_config import IQLConfig
from agent.networks import EnsembleCritic, QuantileCritic
from agent.transitions import Transitions


class CriticLoss:
    """L_Q of one configuration; makes the critics that it is for."""

    def __init__(self, algorithm: Algorithm[IQLConfig]) -> None:
        self._algorithm, self._config = algorithm, algorithm.config
        self._zeta = torch.zeros(self._config.quantiles, device=algorithm.device)

    def make(self) -> EnsembleCritic:
        """Freshly initialised critics."""
        a, c = self._algorithm, self._config
        sizes = (a.observation_size, a.action_size, c.hidden)
        options: dict[str, Any] = {
            "members": c.critics, "generator": a.generator, "layer_norm": c.critic_layer_norm,
            "dropout": c.critic_dropout, "dense": c.dense,
        }  # fmt: skip
        made = EnsembleCritic(*sizes, **options) if c.critic == "scalar" else None
        return (made or QuantileCritic(*sizes, count=c.quantiles, **options)).to(a.device)

    def draw(self) -> None:
        """The quantiles of the coming update."""
        if self._config.critic == "quantile":
            self._zeta.uniform_(generator=self._algorithm.generator)

    def __call__(self, critic: EnsembleCritic, batch: Transitions, target_B: Tensor) -> tuple[Tensor, Tensor]:
        """L_Q, a scalar, and what the critics say, [N, B]."""
        s, a, affine = batch.observation, batch.action, self._algorithm.affine
        if not isinstance(critic, QuantileCritic):
            q_NB = critic(s, a, affine, masked=True)
            return losses.td_loss(q_NB, target_B), q_NB
        z_NBK = critic.quantiles(s, a, self._zeta, affine, masked=True)
        if self._config.quantile_loss == "huber":
            loss = losses.quantile_huber_loss(z_NBK, target_B, self._zeta)
        else:
            loss = losses.td_loss(z_NBK.flatten(1), target_B.repeat_interleave(len(self._zeta)))
        return loss, z_NBK.mean(dim=-1)
