"""Anti-exploration (Rezaeifar et al. 2021, arXiv:2106.06431): wherever a value is asked for, b(s, a) is taken off.

  b(s, a) = scale · e(s, a) / ē,   e the error of a novelty network, ē its running mean over the data's own pairs

so that the data's pairs cost `scale` on average, in units of the prepared rewards, whatever the networks' own units.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from agent.adam import FusedAdam
from agent.algorithms.base import Algorithm
from agent.networks import RND, ActionVAE, Novelty
from agent.transitions import Transitions

SMALLEST = 1e-8


class AntiExploration:
    """The novelty network, entered in the algorithm as `anti_exploration`; it learns along, from every batch."""

    def __init__(self, algorithm: Algorithm[Any], kind: Literal["rnd", "cvae"], *, scale: float) -> None:
        self._algorithm, self._scale = algorithm, scale
        make = {"rnd": RND, "cvae": ActionVAE}[kind]
        self.novelty: Novelty = make(
            algorithm.observation_size, algorithm.action_size, algorithm.config.hidden, generator=algorithm.generator
        ).to(algorithm.device)
        learned = [parameter for parameter in self.novelty.parameters() if parameter.requires_grad]
        self._optimizer = FusedAdam(learned)
        algorithm.networks["anti_exploration"] = self.novelty
        algorithm.optimizers["anti_exploration"] = self._optimizer

    def draw(self, rows: int) -> None:
        """The noise of the coming update."""
        self._algorithm.noise.normal("novelty", rows, self.novelty.noise_size)

    def learn(self, batch: Transitions) -> dict[str, Tensor]:
        """One step on the data's pairs."""
        loss = self.novelty.loss(batch.observation, batch.action, self._algorithm.noise["novelty"])
        self._optimizer.minimize(loss, self._algorithm.rate)
        with torch.no_grad():
            self.novelty.follow(self.novelty.error(batch.observation, batch.action).mean())
        return {"anti_exploration_loss": loss.detach()}

    def __call__(self, observation: Tensor, action: Tensor) -> Tensor:
        """b(s, a) [B], with a gradient by the action."""
        return self._scale * self.novelty.error(observation, action) / self.novelty.mean_error.clamp(min=SMALLEST)
