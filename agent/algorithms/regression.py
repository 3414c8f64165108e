"""What algorithms whose policy is regressed on the data's actions share: the actor, its dropout and its rate.

L_π = −E[w·log π(a|s)], where w says what an action is worth: the subclasses' part, as is whatever judges it.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor

from agent import losses
from agent.adam import FusedAdam
from agent.algorithms.base import Algorithm
from agent.algorithms.regression_config import RegressionConfig
from agent.networks import GaussianActor
from agent.transitions import Transitions

C = TypeVar("C", bound=RegressionConfig)


class Regression(Algorithm[C]):
    """A Gaussian actor with its optimiser. A subclass adds the rest after `super().__init__`, and the update.

    `learned_actor` is the one that the update moves: `actor` itself, unless a subclass publishes another.
    """

    actor: GaussianActor

    def __init__(self, config: C, **arguments: Any) -> None:
        super().__init__(config, **arguments)
        self.actor = self.learned_actor = self.make_actor()
        self.networks = {"actor": self.actor}
        self.optimizers = {"actor": FusedAdam(list(self.actor.parameters()))}
        self.actor_rate = self.rate.clone()
        """The actor's learning rate in the coming update."""
        self.actor.train()

    def make_actor(self) -> GaussianActor:
        """A freshly initialised one."""
        c = self.config
        return GaussianActor(
            self.observation_size, self.action_size, c.hidden,
            generator=self.generator, dropout=c.dropout, dense=c.dense,
        ).to(self.device)  # fmt: skip

    def actor_learning_rate(self) -> float:
        """A cosine from the base rate to zero over the offline updates; the base rate once online."""
        return self.offline_cosine()

    def before_step(self, rows: int) -> None:
        self.learned_actor.trunk.draw_masks(rows)
        self.actor_rate.fill_(self.actor_learning_rate())

    def mean(self, observation_BO: Tensor) -> Tensor:
        """The policy's mean action [B, A]."""
        return torch.tanh(self.learned_actor(observation_BO, self.affine))

    def imitate(self, batch: Transitions, weights_B: Tensor | None = None) -> Tensor:
        """One step of the actor towards the data's actions, by `weights_B` or all alike; returns L_π."""
        return self.move_actor(self.imitation(batch, self.mean(batch.observation), weights_B))

    def imitation(self, batch: Transitions, mean_BA: Tensor, weights_B: Tensor | None = None) -> Tensor:
        """L_π of the policy with this mean, a scalar."""
        log_prob_B = losses.gaussian_log_prob(mean_BA, self.learned_actor.clamped_log_std(), batch.action)
        return -log_prob_B.mean() if weights_B is None else losses.weighted_regression_loss(weights_B, log_prob_B)

    def move_actor(self, loss: Tensor) -> Tensor:
        """One step of the actor down `loss`, which is returned for the log."""
        self.optimizers["actor"].minimize(loss, self.actor_rate)
        return loss.detach()
