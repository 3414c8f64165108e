"""An ensemble of critics as stacked tensors: N networks cost one batched matrix product a layer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from agent.networks.products import Affine, affine_float32


class EnsembleCritic(nn.Module):
    """Q_i(s, a) for i = 1..N. Weights are [N, in, out]; members never share anything but the input."""

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        hidden: Sequence[int],
        *,
        members: int,
        generator: torch.Generator,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        sizes = [observation_size + action_size, *hidden, 1]
        self.layer_norm = layer_norm
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        self.scales = nn.ParameterList()
        self.shifts = nn.ParameterList()
        for inputs, outputs in itertools.pairwise(sizes):
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

    def forward(self, observation: Tensor, action: Tensor, affine: Affine = affine_float32) -> Tensor:
        """[B, O], [B, A] → [N, B]. `affine` maps hidden layer to hidden layer, as in `MLP.forward`."""
        members = self.weights[0].shape[0]
        x = torch.cat([observation, action], dim=-1).expand(members, -1, -1)
        last = len(self.weights) - 1
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = (affine if 0 < index < last else affine_float32)(x, weight, bias)
            if index < last:
                if self.layer_norm:
                    x = functional.layer_norm(x, x.shape[-1:]) * self.scales[index] + self.shifts[index]
                x = functional.relu(x)
        return x.squeeze(-1)
