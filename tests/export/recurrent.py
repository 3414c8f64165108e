"""A small recurrent policy for the tests: a gated cell of plain layers, and what it gives in torch's own arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from export.contract import Contract
from export.contract_parts import Recurrent
from tests.export.policies import ACT, OBS, make_contract

H = 8
INITIAL = tuple(np.linspace(-0.5, 0.5, H).tolist())


class Gated(torch.nn.Module):
    """(normalised observation [B, O], h_in [B, H]) to (mean [B, A], h_out [B, H])."""

    def __init__(self) -> None:
        super().__init__()
        self.gates = torch.nn.Linear(OBS + H, 2 * H)
        self.candidate = torch.nn.Linear(OBS + H, H)
        self.head = torch.nn.Linear(H, ACT)

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        reset, update = torch.sigmoid(self.gates(torch.cat([x, h], dim=1))).chunk(2, dim=1)
        new = torch.tanh(self.candidate(torch.cat([x, reset * h], dim=1)))
        h_out = (1.0 - update) * new + update * h
        return self.head(h_out), h_out


def make_recurrent_network(seed: int = 0) -> Gated:
    generator = torch.Generator().manual_seed(seed)
    network = Gated()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5)
    return network


def make_recurrent_contract(**changes: Any) -> Contract:
    return make_contract(**{"recurrent": Recurrent(size=H, initial=INITIAL), **changes})


class TorchPolicy:
    """(observations [N, O], h [N, H]) to (action, raw, h_out): what the export is held against."""

    def __init__(self, network: Gated, contract: Contract) -> None:
        self.network, self.contract = network, contract

    def __call__(self, observations: np.ndarray, h: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        constants = {name: torch.from_numpy(value) for name, value in self.contract.constants().items()}
        x = (torch.from_numpy(observations) - constants["normalizer.mean"]) * constants["normalizer.inv_std"]
        x = torch.clamp(x, constants["normalizer.clip_low"], constants["normalizer.clip_high"])
        with torch.no_grad():
            raw, h_out = self.network(x, torch.from_numpy(h))
        action = torch.tanh(raw) * constants["action.scale"] + constants["action.shift"]
        action = torch.minimum(torch.maximum(action, constants["action.low"]), constants["action.high"])
        return action.numpy(), raw.numpy(), h_out.numpy()
