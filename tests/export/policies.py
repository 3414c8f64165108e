"""Small policies for the export tests, and the same mathematics in float64 NumPy, written from the equations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from export.contract import Contract
from export.contract_parts import ActionSpec, Control, Normalizer, ObservationTerm, Stochastic

OBS, ACT = 17, 6


def make_contract(*, seed: int = 0, stochastic: bool = False, clip: float | None = 10.0, **changes: Any) -> Contract:
    rng = np.random.default_rng(seed)
    contract = Contract(
        policy_id=f"test-{seed}",
        observation=(
            ObservationTerm(name="qpos", offset=0, length=8, dtype="float64", unit="rad"),
            ObservationTerm(name="qvel", offset=8, length=9),
        ),
        normalizer=Normalizer(
            mean=tuple(rng.normal(scale=3.0, size=OBS)),
            std=(0.0, *rng.uniform(0.1, 2.0, OBS - 1)),  # one dimension never moved
            clip=clip,
            count=1000,
        ),
        action=ActionSpec(low=tuple(-rng.uniform(0.1, 3.0, ACT)), high=tuple(rng.uniform(0.1, 3.0, ACT))),
        control=Control(hz=50.0, max_obs_age_ms=100.0),
        algorithm="iql",
        run="test",
        step=1234,
        policy_version=7,
        dataset=("sha256:0123",),
        env={"id": "Test-v0", "kwargs": {}, "max_episode_steps": 200},
        stochastic=Stochastic(eps=stochastic),
    )
    return replace(contract, **changes)


def make_network(seed: int = 0, *, width: int = 32, layer_norm: bool = False) -> torch.nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    layers: list[torch.nn.Module] = [torch.nn.Linear(OBS, width), torch.nn.ReLU()]
    if layer_norm:
        layers.append(torch.nn.LayerNorm(width))
    layers += [torch.nn.Dropout(0.1), torch.nn.Linear(width, width), torch.nn.ReLU(), torch.nn.Linear(width, ACT)]
    network = torch.nn.Sequential(*layers)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5)
    return network


def make_gentle_network(seed: int = 0, *, width: int = 64) -> torch.nn.Sequential:
    """As `make_network` with smaller gains, so that actions do not magnify what happens to weights."""
    network = make_network(seed, width=width)
    with torch.no_grad():
        for layer in network:
            if isinstance(layer, torch.nn.Linear):
                layer.weight *= 0.4
    return network


def weights_of(network: torch.nn.Module, log_std: torch.Tensor | None = None) -> dict[str, np.ndarray]:
    weights = {f"network.{name}": value.numpy() for name, value in network.state_dict().items()}
    return weights if log_std is None else weights | {"log_std": log_std.numpy()}


class NumpyPolicy:
    """The policy in float64: what an export is held against. Understands `make_network(layer_norm=False)` only."""

    def __init__(self, network: torch.nn.Sequential, contract: Contract, log_std: np.ndarray | None = None) -> None:
        self.layers = [
            (layer.weight.detach().numpy().astype(np.float64), layer.bias.detach().numpy().astype(np.float64))
            for layer in network
            if isinstance(layer, torch.nn.Linear)
        ]
        self.contract = contract
        self.log_std = log_std

    def __call__(self, observations: np.ndarray, eps: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        normalizer, action = self.contract.normalizer, self.contract.action
        std = np.maximum(normalizer.std, normalizer.eps)
        # The graph knows these constants in float32; that rounding is part of the policy, not an error of the export.
        mean, inv_std = np.float32(normalizer.mean).astype(float), np.float32(1.0 / std).astype(float)
        x = (observations.astype(np.float64) - mean) * inv_std
        if normalizer.clip is not None:
            x = np.clip(x, -normalizer.clip, normalizer.clip)
        for index, (weight, bias) in enumerate(self.layers):
            x = x @ weight.T + bias
            if index < len(self.layers) - 1:
                x = np.maximum(x, 0.0)
        unit = np.tanh(x)
        if eps is not None and self.log_std is not None:
            unit = np.clip(unit + np.exp(self.log_std.astype(np.float64)) * eps, -1.0, 1.0)
        low, high = np.asarray(action.low), np.asarray(action.high)
        return np.clip(unit * (high - low) / 2 + (high + low) / 2, low, high), x
