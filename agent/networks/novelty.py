"""How unlike the data an action is, by the error of networks that were fitted to the data.

Shapes: B batch, O observation, A action, L latent.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from agent.networks.trunks import MLP

RND_FEATURES = 32
LOG_STD_MIN, LOG_STD_MAX = -4.0, 15.0
KL_WEIGHT = 0.5
MEAN_RATE = 0.005


class Novelty(nn.Module, ABC):
    """Learns by `loss` from the data's pairs and says by `error` how little others are like them."""

    noise_size = 0
    """Standard normal numbers that `loss` takes a row."""

    seen: Tensor
    """Batches that `follow` has taken in."""
    mean_error: Tensor
    """Running mean of the error over them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("mean_error", torch.zeros(()))

    @torch.no_grad()
    def follow(self, error: Tensor) -> None:
        """Take the mean error of a batch, a scalar, into the running one: a plain mean until that is the slower."""
        self.seen.add_(1.0)
        self.mean_error.lerp_(error, (1.0 / self.seen).clamp(min=MEAN_RATE))

    @abstractmethod
    def error(self, observation: Tensor, action: Tensor) -> Tensor:
        """[B, O], [B, A] → [B], ≥ 0, with a gradient by the action."""

    @abstractmethod
    def loss(self, observation: Tensor, action: Tensor, noise: Tensor) -> Tensor:
        """What is minimised over the data, a scalar; `noise` [B, noise_size]."""


class RND(Novelty):
    """Random network distillation (Burda et al. 2018, arXiv:1810.12894): ‖f(s, a) − f̄(s, a)‖², f̄ random and fixed."""

    def __init__(
        self, observation_size: int, action_size: int, hidden: Sequence[int], *, generator: torch.Generator
    ) -> None:
        super().__init__()
        inputs = observation_size + action_size
        self.predictor = MLP(inputs, hidden, RND_FEATURES, generator=generator)
        self.random = MLP(inputs, hidden, RND_FEATURES, generator=generator).requires_grad_(False)

    def error(self, observation: Tensor, action: Tensor) -> Tensor:
        x = torch.cat([observation, action], dim=-1)
        difference: Tensor = self.predictor(x) - self.random(x)
        return difference.square().sum(dim=-1)

    def loss(self, observation: Tensor, action: Tensor, noise: Tensor) -> Tensor:
        return self.error(observation, action).mean()


class ActionVAE(Novelty):
    """Conditional VAE of actions (as in BCQ, Fujimoto et al. 2018, arXiv:1812.02900): ‖a − D(s, E(s, a))‖²."""

    def __init__(
        self, observation_size: int, action_size: int, hidden: Sequence[int], *, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.noise_size = 2 * action_size
        self.encoder = MLP(observation_size + action_size, hidden, 2 * self.noise_size, generator=generator)
        self.decoder = MLP(observation_size + self.noise_size, hidden, action_size, generator=generator)

    def error(self, observation: Tensor, action: Tensor) -> Tensor:
        latent, _ = self._encode(observation, action)
        return (action - self._decode(observation, latent)).square().sum(dim=-1)

    def loss(self, observation: Tensor, action: Tensor, noise: Tensor) -> Tensor:
        mean, log_std = self._encode(observation, action)
        std = torch.exp(log_std)
        reconstruction = (action - self._decode(observation, mean + std * noise)).square().mean()
        divergence = (0.5 * (mean.square() + std.square() - 1.0) - log_std).mean()
        return reconstruction + KL_WEIGHT * divergence

    def _encode(self, observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.encoder(torch.cat([observation, action], dim=-1)).chunk(2, dim=-1)
        return mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)

    def _decode(self, observation: Tensor, latent: Tensor) -> Tensor:
        return torch.tanh(self.decoder(torch.cat([observation, latent], dim=-1)))
