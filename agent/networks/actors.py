"""Actors. `forward` gives the pre-squash mean that the exported graph starts from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from agent.networks.products import Affine, affine_float32
from agent.networks.trunks import MLP


class GaussianActor(nn.Module):
    """π(a|s) = N(tanh(μ(s)), diag exp(log σ)²) with a state-independent log σ, as in the IQL authors' code.

    The mean is squashed, the distribution is not: no tanh log-probability and none of its trouble at the clip edge.
    """

    LOG_STD_MIN = -5.0
    LOG_STD_MAX = 2.0

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        hidden: Sequence[int],
        *,
        generator: torch.Generator,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.trunk = MLP(observation_size, hidden, action_size, generator=generator, dropout=dropout)
        self.log_std = nn.Parameter(torch.zeros(action_size))

    def forward(self, observation: Tensor, affine: Affine = affine_float32) -> Tensor:
        """Normalised observation [B, O] → pre-squash mean [B, A]."""
        raw: Tensor = self.trunk(observation, affine)
        return raw

    def clamped_log_std(self) -> Tensor:
        """log σ as used by density and export alike. Shape [A]."""
        return self.log_std.clamp(self.LOG_STD_MIN, self.LOG_STD_MAX)

    def exported_weights(self) -> dict[str, np.ndarray]:
        """The parameters by the names that they have in the exported graph."""
        weights = {f"network.{name}": tensor.detach().numpy() for name, tensor in self.trunk.state_dict().items()}
        weights["log_std"] = self.clamped_log_std().detach().numpy()
        return weights
