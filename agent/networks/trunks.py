"""Multilayer perceptrons, plain or with dense skips, orthogonally initialised as in the IQL authors' code."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from agent.networks.products import Affine, affine_float32, affine_joined


class GeneratorDropout(nn.Module):
    """Inverted dropout by a mask that `draw` takes from an explicit generator, so that a resumed run draws the same.

    Drawing is apart from applying because a compiled graph cannot hold a torch.Generator.
    """

    def __init__(self, rate: float, generator: torch.Generator) -> None:
        super().__init__()
        self.rate = rate
        self.generator = generator
        self.mask: Tensor | None = None

    def draw(self, shape: tuple[int, ...], like: Tensor) -> None:
        """A new mask of `shape` [..., rows, width], written into the last one's memory where that is its shape too."""
        if self.mask is None or self.mask.shape != shape:
            self.mask = torch.empty(shape, dtype=like.dtype, device=like.device)
        keep = 1.0 - self.rate
        self.mask.bernoulli_(keep, generator=self.generator).div_(keep)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        assert self.mask is not None, "draw a mask before each update"
        return x * self.mask

    def __deepcopy__(self, memo: dict[int, object]) -> GeneratorDropout:
        # A torch.Generator cannot be copied; copies are made for export, where dropout is off.
        return GeneratorDropout(self.rate, self.generator).train(self.training)


class MLP(nn.Module):
    """`inputs` → hidden layers with ReLU (and optional LayerNorm, dropout) → `outputs`. [B, inputs] → [B, outputs].

    `dense` also gives the input to every hidden layer after the first (D2RL, Sinha et al. 2020, arXiv:2010.09163).
    """

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
        dense: bool = False,
    ) -> None:
        super().__init__()
        self.dense = dense
        layers: list[nn.Module] = []
        width = inputs
        for size in hidden:
            joined = width + inputs if dense and layers else width
            layers.append(orthogonal_linear(joined, size, math.sqrt(2.0), generator))
            if layer_norm:
                layers.append(nn.LayerNorm(size))
            layers.append(nn.ReLU())
            if dropout > 0.0:
                layers.append(GeneratorDropout(dropout, generator))
            width = size
        layers.append(orthogonal_linear(width, outputs, output_gain, generator))
        self.layers = nn.Sequential(*layers)

    def draw_masks(self, rows: int) -> None:
        """Draw what dropout needs for one pass over a batch of `rows`."""
        width = 0
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                width = layer.out_features
            elif isinstance(layer, GeneratorDropout):
                layer.draw((rows, width), next(self.parameters()))

    def forward(self, x: Tensor, affine: Affine = affine_float32) -> Tensor:
        """[B, inputs] → [B, outputs]. `affine` maps hidden layer to hidden layer; the first and last are exact.

        Rounding observations or values would cost far more accuracy than these two narrow products cost time.
        """
        return self._through(x, affine, [])

    def activations(self, x: Tensor) -> list[Tensor]:
        """What the hidden layers give after their ReLU, first to last, [B, width] each; without dropout."""
        was_training = self.training
        found: list[Tensor] = []
        self.eval()._through(x, affine_float32, found)
        self.train(was_training)
        return found

    def _through(self, x: Tensor, affine: Affine, found: list[Tensor]) -> Tensor:
        last, inputs = len(self.layers) - 1, x
        for index, layer in enumerate(self.layers):
            hidden = 0 < index < last
            if isinstance(layer, nn.Linear) and hidden and affine is not affine_float32:
                weight, bias = layer.weight.mT, layer.bias
                x = affine_joined(x, inputs, weight, bias, affine) if self.dense else affine(x, weight, bias)
            elif isinstance(layer, nn.Linear) and hidden and self.dense:
                x = layer(torch.cat([x, inputs], dim=-1))
            else:
                x = layer(x)  # a linear layer of torch's: what export and its quantisation know
            if isinstance(layer, nn.ReLU):
                found.append(x)
        return x


def orthogonal_linear(inputs: int, outputs: int, gain: float, generator: torch.Generator) -> nn.Linear:
    """A linear layer with orthogonal weights of the given gain and zero bias."""
    # Not by way of the meta device, whose first tensor made real imports sympy: 0.4 s of a learner's start.
    with torch.random.fork_rng(devices=()):
        layer = nn.Linear(inputs, outputs)
    with torch.no_grad():
        nn.init.orthogonal_(layer.weight, gain, generator=generator)
        layer.bias.zero_()
    return layer
