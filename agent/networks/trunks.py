"""Plain multilayer perceptrons, orthogonally initialised as in the IQL authors' code."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class GeneratorDropout(nn.Module):
    """Inverted dropout whose mask comes from an explicit generator, so that a resumed run draws the same masks."""

    def __init__(self, rate: float, generator: torch.Generator) -> None:
        super().__init__()
        self.rate = rate
        self.generator = generator

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        return x * torch.empty_like(x).bernoulli_(keep, generator=self.generator).div_(keep)

    def __deepcopy__(self, memo: dict[int, object]) -> GeneratorDropout:
        # A torch.Generator cannot be copied; copies are made for export, where dropout is off.
        return GeneratorDropout(self.rate, self.generator).train(self.training)


class MLP(nn.Module):
    """`inputs` → hidden layers with ReLU (and optional LayerNorm, dropout) → `outputs`. [B, inputs] → [B, outputs]."""

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        outputs: int,
        *,
        generator: torch.Generator,
        layer_norm: bool = False,
        dropout: float = 0.0,
        output_gain: float = math.sqrt(2.0),
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = inputs
        for size in hidden:
            layers.append(orthogonal_linear(width, size, math.sqrt(2.0), generator))
            if layer_norm:
                layers.append(nn.LayerNorm(size))
            layers.append(nn.ReLU())
            if dropout > 0.0:
                layers.append(GeneratorDropout(dropout, generator))
            width = size
        layers.append(orthogonal_linear(width, outputs, output_gain, generator))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


def orthogonal_linear(inputs: int, outputs: int, gain: float, generator: torch.Generator) -> nn.Linear:
    """A linear layer with orthogonal weights of the given gain and zero bias."""
    layer = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")
    with torch.no_grad():
        nn.init.orthogonal_(layer.weight, gain, generator=generator)
        layer.bias.zero_()
    return layer
