"""Numbers that are learned like networks are."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class LearnedScale(nn.Module):
    """A positive number, learned as its logarithm."""

    def __init__(self, initial: float) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor(math.log(initial)))

    def forward(self) -> Tensor:
        """The number, a scalar."""
        return torch.exp(self.log)
