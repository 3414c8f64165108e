"""An ensemble of critics as stacked tensors: N networks cost one batched matrix product a layer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from agent.networks.products import Affine, affine_float32, affine_joined
from agent.networks.trunks import GeneratorDropout

Members = Tensor | slice | None
"""Which of an ensemble: indices [M] int64, a slice, or all."""


class EnsembleCritic(nn.Module):
    """Q_i(s, a) for i = 1..N. Weights are [N, in, out]; members never share anything but the input.

    `dense` also gives the input to every hidden layer after the first (D2RL, Sinha et al. 2020, arXiv:2010.09163).
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        hidden: Sequence[int],
        *,
        members: int,
        generator: torch.Generator,
        layer_norm: bool = False,
        dropout: float = 0.0,
        dense: bool = False,
    ) -> None:
        super().__init__()
        sizes = [observation_size + action_size, *hidden, 1]
        self.dense = dense
        self.layer_norm = layer_norm
        self.dropouts = [GeneratorDropout(dropout, generator) for _ in hidden] if dropout > 0.0 else []
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        self.scales = nn.ParameterList()
        self.shifts = nn.ParameterList()
        for layer, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
            if dense and 0 < layer < len(hidden):
                inputs += sizes[0]
            weight = torch.empty(members, inputs, outputs)
            for member in weight:
                # Initialised as [out, in], then transposed: orthogonal_ treats rows as outputs.
                member.copy_(nn.init.orthogonal_(torch.empty(outputs, inputs), math.sqrt(2.0), generator=generator).T)
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(torch.zeros(members, 1, outputs)))
        if layer_norm:
            for size in hidden:
                self.scales.append(nn.Parameter(torch.ones(members, 1, size)))
                self.shifts.append(nn.Parameter(torch.zeros(members, 1, size)))

    def draw_masks(self, rows: int) -> None:
        """Draw what dropout needs for one pass over a batch of `rows`."""
        for layer, dropout in enumerate(self.dropouts):
            weight = self.weights[layer]
            dropout.draw((weight.shape[0], rows, weight.shape[2]), weight)

    def forward(
        self,
        observation: Tensor,
        action: Tensor,
        affine: Affine = affine_float32,
        *,
        masked: bool = False,
        members: Members = None,
    ) -> Tensor:
        """[B, O], [B, A] → [N, B]. `affine` maps hidden layer to hidden layer, as in `MLP.forward`.

        `masked` applies the dropout masks drawn last; without it there is no dropout. `members` (indices [M] int64,
        or a slice) asks those critics alone, [M, B], at their cost alone.
        """
        features = self.features(observation, action, affine, masked=masked, found=[], members=members)
        return self.head(features, members)

    def activations(self, observation: Tensor, action: Tensor) -> list[Tensor]:
        """What the hidden layers give after their ReLU, first to last, [N, B, width] each; without dropout."""
        found: list[Tensor] = []
        self.features(observation, action, affine_float32, masked=False, found=found)
        return found

    def head(self, features: Tensor, members: Members = None) -> Tensor:
        """The last layer: [N, B, width] → [N, B]."""
        weight, bias = chosen(self.weights[-1], members), chosen(self.biases[-1], members)
        return affine_float32(features, weight, bias).squeeze(-1)

    def features(
        self,
        observation: Tensor,
        action: Tensor,
        affine: Affine,
        *,
        masked: bool,
        found: list[Tensor],
        members: Members = None,
    ) -> Tensor:
        """What `head` takes; `found` gets what `activations` gives."""
        count = len(members) if isinstance(members, Tensor) else len(chosen(self.weights[0], members))
        x = inputs = torch.cat([observation, action], dim=-1).expand(count, -1, -1)
        for index in range(len(self.weights) - 1):
            weight, bias = chosen(self.weights[index], members), chosen(self.biases[index], members)
            if index > 0 and self.dense:
                x = affine_joined(x, inputs, weight, bias, affine)
            else:
                x = (affine if index > 0 else affine_float32)(x, weight, bias)
            if self.layer_norm:
                scale, shift = chosen(self.scales[index], members), chosen(self.shifts[index], members)
                x = functional.layer_norm(x, x.shape[-1:]) * scale + shift
            x = functional.relu(x)
            found.append(x)
            if masked and self.dropouts:
                x = self.dropouts[index](x)
        return x


def chosen(stack: Tensor, members: Members) -> Tensor:
    """The named members of a stack [N, ...], or all; a view where they are a slice."""
    if members is None:
        return stack
    return stack[members] if isinstance(members, slice) else stack.index_select(0, members)


class Subset:
    """Minimum over random members of an ensemble, drawn for each update (REDQ, Chen et al. 2021, arXiv:2101.05982).

    Where the subset is the whole ensemble nothing is drawn.
    """

    def __init__(self, members: int, subset: int, *, generator: torch.Generator, device: torch.device) -> None:
        """`subset` of 0 stands for all `members`."""
        self._members, self._generator = members, generator
        self._whole = subset in (0, members)
        self.chosen = torch.arange(subset, device=device)
        """Indices of the members that count in the coming update."""

    def draw(self) -> None:
        """Choose for the coming update."""
        if not self._whole:
            order = torch.randperm(self._members, generator=self._generator)
            self.chosen.copy_(order[: len(self.chosen)])

    @property
    def members(self) -> Tensor | None:
        """What `EnsembleCritic.forward` takes to ask these alone; None for all."""
        return None if self._whole else self.chosen
