"""Actors. Each says how its noise enters the exported graph; `raw` is the pre-squash mean, the graph's start."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from agent import losses
from agent.networks.products import Affine, affine_float32
from agent.networks.trunks import MLP
from export.contract_parts import SQUASHED_NOISE, Stochastic


class Actor(nn.Module):
    """A policy that can be trained, acts by tanh(`raw`) without noise, and exports itself."""

    stochastic: ClassVar[Stochastic]
    """Whether and how noise enters, for the contract."""

    candidates: ClassVar[None] = None
    """It has one action to give."""

    trunk: MLP

    @abstractmethod
    def raw(self, observation: Tensor, affine: Affine = affine_float32) -> Tensor:
        """Normalised observation [B, O] → pre-squash mean [B, A]."""

    @abstractmethod
    def propose(self, observation: Tensor, eps_BKA: Tensor) -> tuple[Tensor, Tensor]:
        """Actions [B, K, A] under standard normal noise, and `raw` [B, A], for a normalised observation [B, O]."""

    @abstractmethod
    def spread(self, observation: Tensor) -> Tensor:
        """log σ [B, A] of the noise, for a normalised observation [B, O]."""

    @abstractmethod
    def to_export(self) -> tuple[nn.Module, Tensor | None]:
        """What `export.onnx_writer.export_policy` takes: the network, and log σ [A] where it is a weight of its own."""

    def exported_weights(self) -> dict[str, np.ndarray]:
        """The parameters by the names that they have in the exported graph."""
        network, log_std = self.to_export()
        weights = {f"network.{name}": tensor.detach().numpy() for name, tensor in network.state_dict().items()}
        return weights if log_std is None else weights | {"log_std": log_std.detach().numpy()}


class GaussianActor(Actor):
    """π(a|s) = N(tanh(μ(s)), diag exp(log σ)²) with a state-independent log σ, as in the IQL authors' code.

    The mean is squashed, the distribution is not: no tanh log-probability and none of its trouble at the clip edge.
    """

    LOG_STD_MIN = -5.0
    LOG_STD_MAX = 2.0
    stochastic = Stochastic(eps=True)

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        hidden: Sequence[int],
        *,
        generator: torch.Generator,
        dropout: float = 0.0,
        dense: bool = False,
    ) -> None:
        super().__init__()
        self.trunk = MLP(observation_size, hidden, action_size, generator=generator, dropout=dropout, dense=dense)
        self.log_std = nn.Parameter(torch.zeros(action_size))

    def forward(self, observation: Tensor, affine: Affine = affine_float32) -> Tensor:
        """Normalised observation [B, O] → pre-squash mean [B, A]."""
        raw: Tensor = self.trunk(observation, affine)
        return raw

    def raw(self, observation: Tensor, affine: Affine = affine_float32) -> Tensor:
        return self.forward(observation, affine)

    def clamped_log_std(self) -> Tensor:
        """log σ as used by density and export alike. Shape [A]."""
        return self.log_std.clamp(self.LOG_STD_MIN, self.LOG_STD_MAX)

    def propose(self, observation: Tensor, eps_BKA: Tensor) -> tuple[Tensor, Tensor]:
        return _around(self.raw(observation), self.clamped_log_std(), eps_BKA)

    def spread(self, observation: Tensor) -> Tensor:
        return self.clamped_log_std().expand(observation.shape[0], -1)

    def to_export(self) -> tuple[nn.Module, Tensor | None]:
        return self.trunk, self.clamped_log_std()


class DeterministicActor(Actor):
    """π(s) = tanh(μ(s)). Only exploration adds noise, of one spread for all actions that nothing learns.

    The last layer begins near zero: a policy that follows ∂Q/∂a learns nothing where tanh starts out saturated.
    """

    OUTPUT_GAIN = 0.01
    stochastic = Stochastic(eps=True)
    log_std: Tensor

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        hidden: Sequence[int],
        *,
        generator: torch.Generator,
        exploration_std: float,
    ) -> None:
        super().__init__()
        self.trunk = MLP(observation_size, hidden, action_size, generator=generator, output_gain=self.OUTPUT_GAIN)
        self.register_buffer("log_std", torch.full((action_size,), math.log(exploration_std)), persistent=False)

    def forward(self, observation: Tensor, affine: Affine = affine_float32) -> Tensor:
        """Normalised observation [B, O] → action [B, A] in [−1, 1]."""
        return torch.tanh(self.raw(observation, affine))

    def raw(self, observation: Tensor, affine: Affine = affine_float32) -> Tensor:
        raw: Tensor = self.trunk(observation, affine)
        return raw

    def propose(self, observation: Tensor, eps_BKA: Tensor) -> tuple[Tensor, Tensor]:
        return _around(self.raw(observation), self.log_std, eps_BKA)

    def spread(self, observation: Tensor) -> Tensor:
        return self.log_std.expand(observation.shape[0], -1)

    def to_export(self) -> tuple[nn.Module, Tensor | None]:
        return self.trunk, self.log_std


class SquashedGaussianActor(Actor):
    """a = tanh(μ(s) + σ(s)·ε), ε standard normal: SAC's policy (Haarnoja et al. 2018, arXiv:1812.05905, appendix C).

    log σ is clamped to the authors' [−20, 2].
    """

    DATA_EDGE = 0.99
    LOG_STD_MIN = -20.0
    LOG_STD_MAX = 2.0
    stochastic = Stochastic(eps=True, form=SQUASHED_NOISE)

    def __init__(
        self, observation_size: int, action_size: int, hidden: Sequence[int], *, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.trunk = MLP(observation_size, hidden, 2 * action_size, generator=generator)

    def forward(self, observation: Tensor, affine: Affine = affine_float32) -> tuple[Tensor, Tensor]:
        """Normalised observation [B, O] → pre-squash mean μ [B, A], log σ [B, A]."""
        mean, log_std = self.trunk(observation, affine).chunk(2, dim=-1)
        return mean, log_std.clamp(self.LOG_STD_MIN, self.LOG_STD_MAX)

    def raw(self, observation: Tensor, affine: Affine = affine_float32) -> Tensor:
        return self.forward(observation, affine)[0]

    def sample(self, observation: Tensor, eps: Tensor, affine: Affine = affine_float32) -> tuple[Tensor, Tensor]:
        """Actions [..., B, A] in (−1, 1) and log π of them [..., B], for [B, O] and noise [..., B, A]."""
        mean, log_std = self.forward(observation, affine)
        before = mean + torch.exp(log_std) * eps
        return torch.tanh(before), losses.squashed_gaussian_log_prob(eps, log_std, before)

    def log_prob(self, observation: Tensor, action: Tensor, affine: Affine = affine_float32) -> Tensor:
        """log π(a|s) [B] of logged actions [B, A], which are first drawn in from the bounds, where it is infinite.

        By DATA_EDGE, as in WSRL's code; what the policy drew itself needs no inversion (`sample`).
        """
        mean, log_std = self.forward(observation, affine)
        before = torch.atanh(action.clamp(-self.DATA_EDGE, self.DATA_EDGE))
        return losses.squashed_gaussian_log_prob((before - mean) * torch.exp(-log_std), log_std, before)

    def propose(self, observation: Tensor, eps_BKA: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.forward(observation)
        return torch.tanh(mean.unsqueeze(1) + torch.exp(log_std).unsqueeze(1) * eps_BKA), mean

    def spread(self, observation: Tensor) -> Tensor:
        return self.forward(observation)[1]

    def to_export(self) -> tuple[nn.Module, Tensor | None]:
        return self, None


def _around(raw: Tensor, log_std: Tensor, eps_BKA: Tensor) -> tuple[Tensor, Tensor]:
    """Clipped noise around tanh(raw), with log σ [A]."""
    return (torch.tanh(raw).unsqueeze(1) + torch.exp(log_std) * eps_BKA).clamp(-1.0, 1.0), raw
