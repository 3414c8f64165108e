"""Behaviour cloning: maximum likelihood of the data's actions, L_π = −E[log π(a|s)].

Of all data, or of the best episodes alone: then the sampler draws from nothing else.

The same as IQL's extraction with β = 0 (all weights 1), without the values that it then has no use for.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from agent import losses
from agent.adam import FusedAdam
from agent.algorithms.base import Algorithm
from agent.algorithms.bc_config import CloningConfig
from agent.networks import GaussianActor
from agent.transitions import Transitions


class BC(Algorithm[CloningConfig]):
    """The actor alone."""

    name = "bc"
    actor: GaussianActor

    def __init__(self, config: CloningConfig, **arguments: Any) -> None:
        super().__init__(config, **arguments)
        self.actor = GaussianActor(
            self.observation_size, self.action_size, config.hidden, generator=self.generator, dropout=config.dropout
        ).to(self.device)
        self.networks = {"actor": self.actor}
        self.optimizers = {"actor": FusedAdam(list(self.actor.parameters()))}
        self._actor_rate = self.rate.clone()
        self.actor.train()

    def before_step(self, rows: int) -> None:
        self.actor.trunk.draw_masks(rows)
        self._actor_rate.fill_(self.offline_cosine())

    def step(self, batch: Transitions) -> dict[str, Tensor]:
        mean_BA = torch.tanh(self.actor(batch.observation, self.affine))
        log_prob_B = losses.gaussian_log_prob(mean_BA, self.actor.clamped_log_std(), batch.action)
        actor_loss = -log_prob_B.mean()
        self.optimizers["actor"].minimize(actor_loss, self._actor_rate)
        return {"actor_loss": actor_loss.detach()}


class TopBC(BC):
    """The same of the best episodes, which `TopBCConfig.sampling` chooses."""

    name = "top_bc"
