"""Critics that give a distribution: implicit quantile networks (Dabney et al. 2018, arXiv:1806.06923).

Shapes: N critics, B batch, K quantiles, F features, C cosines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from agent.networks.critics import EnsembleCritic, Members, chosen
from agent.networks.products import Affine, affine_float32

COSINES = 64


class QuantileCritic(EnsembleCritic):
    """Z_i(s, a; ζ) = w·(ψ(s, a) ⊙ φ(ζ)) + b,  φ(ζ) = ReLU(Σ_c cos(πcζ)·e_c + d), for i = 1..N.

    Called like a scalar critic it gives the mean of the distribution, over `count` evenly spaced ζ. All rows of a batch
    share their ζ: the head is then one product of [B, F] with [F, K] a critic.
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        hidden: Sequence[int],
        *,
        members: int,
        generator: torch.Generator,
        count: int,
        **options: Any,
    ) -> None:
        """`options` are those of EnsembleCritic."""
        super().__init__(observation_size, action_size, hidden, members=members, generator=generator, **options)
        bound = 1.0 / math.sqrt(COSINES)
        embedding = torch.empty(members, COSINES, hidden[-1]).uniform_(-bound, bound, generator=generator)
        self.embedding = nn.Parameter(embedding)
        # One on average, so that the critics begin as scalar ones do.
        self.offset = nn.Parameter(torch.ones(members, 1, hidden[-1]))
        self.register_buffer("even", (torch.arange(count) + 0.5) / count, persistent=False)

    even: Tensor

    def head(self, features: Tensor, members: Members = None) -> Tensor:
        """[N, B, F] → the mean of the distribution [N, B]."""
        weight, bias = (self._embed(self.even) * self.weights[-1].mT).mean(dim=1, keepdim=True).mT, self.biases[-1]
        return affine_float32(features, chosen(weight, members), chosen(bias, members)).squeeze(-1)

    def quantiles(
        self,
        observation: Tensor,
        action: Tensor,
        zeta: Tensor,
        affine: Affine = affine_float32,
        *,
        masked: bool = False,
    ) -> Tensor:
        """Values of the quantiles ζ [K] in (0, 1): [N, B, K]."""
        features = self.features(observation, action, affine, masked=masked, found=[])
        return affine_float32(features, (self._embed(zeta) * self.weights[-1].mT).mT, self.biases[-1])

    def _embed(self, zeta: Tensor) -> Tensor:
        """φ(ζ) [N, K, F]."""
        numbers = torch.arange(COSINES, device=zeta.device, dtype=zeta.dtype)
        cosines = torch.cos(math.pi * zeta[:, None] * numbers)
        return functional.relu(torch.matmul(cosines, self.embedding) + self.offset)
