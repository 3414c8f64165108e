"""What a learner holds and what a reference holds, in the same terms: float64 arrays by network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from agent.algorithms.base import Algorithm
from agent.transitions import Transitions
from tests.golden.iql_reference import Network

FIELDS = {
    "s": "observation", "a": "action", "r": "reward", "discount": "discount", "s2": "next_observation",
    "a2": "next_action", "known": "next_action_known", "to_go": "return_to_go",
}  # fmt: skip
"""Of a batch, by the references' names."""


def as_transitions(batch: Mapping[str, np.ndarray], discount: float, dtype: torch.dtype = torch.float64) -> Transitions:
    """A reference's batch; where it names no discounts they are `discount`, and 0 where `terminated`."""
    values = {"discount": discount * (1.0 - batch["terminated"]), **batch} if "terminated" in batch else batch
    return Transitions(**{FIELDS[k]: torch.tensor(v, dtype=dtype) for k, v in values.items() if k in FIELDS})


def tensors_of(ours: Algorithm[Any]) -> dict[str, np.ndarray]:
    """All that a learner holds, by its name in checkpoints; copies."""
    return {name: t.double().numpy().copy() for name, t in ours.state_dict()["tensors"].items()}


def perceptron(tensors: Mapping[str, np.ndarray], prefix: str) -> Network:
    """A network of torch Linear layers, whose weights are [out, in]."""
    numbers = sorted({int(name.removeprefix(prefix).split(".")[0]) for name in tensors if name.startswith(prefix)})
    return Network(
        weights=[tensors[f"{prefix}{i}.weight"].T.copy() for i in numbers],
        biases=[tensors[f"{prefix}{i}.bias"].copy() for i in numbers],
    )


def critic(tensors: Mapping[str, np.ndarray], prefix: str, member: int) -> Network:
    """One member of the stacked ensemble: weights [N, in, out], biases, scales and shifts [N, 1, out]."""

    def part(name: str) -> list[np.ndarray]:
        found = sorted(key for key in tensors if key.startswith(f"{prefix}{name}."))
        return [
            tensors[key][member].reshape(tensors[key].shape[1 if name == "weights" else 2 :]).copy() for key in found
        ]

    return Network(weights=part("weights"), biases=part("biases"), scales=part("scales"), shifts=part("shifts"))


def critics_of(ours: Algorithm[Any]) -> dict[str, Network]:
    """The members of the ensemble and of its targets."""
    tensors = tensors_of(ours)
    members = range(ours.config.critics)
    return {
        **{f"critic {i}": critic(tensors, "critic.", i) for i in members},
        **{f"target {i}": critic(tensors, "target_critic.", i) for i in members},
    }


def numbered(name: str, networks: Iterable[Network]) -> dict[str, Network]:
    """A reference's networks by the names of `critics_of`."""
    return {f"{name} {i}": network for i, network in enumerate(networks)}


def parameters(networks: Mapping[str, Network]) -> dict[str, list[np.ndarray]]:
    """Those of each network."""
    return {name: network.parameters() for name, network in networks.items()}


def movement_errors(
    start: Mapping[str, Sequence[np.ndarray]],
    end: Mapping[str, Sequence[np.ndarray]],
    wanted: Mapping[str, Sequence[np.ndarray]],
) -> dict[str, float]:
    """Of each network's parameters, how far their movement is from the one wanted, relative to that."""
    assert start.keys() == end.keys() == wanted.keys()

    def moved(name: str, to: Mapping[str, Sequence[np.ndarray]]) -> np.ndarray:
        return np.concatenate([(e - s).ravel() for s, e in zip(start[name], to[name], strict=True)])

    return {
        name: float(np.linalg.norm(moved(name, end) - moved(name, wanted)) / np.linalg.norm(moved(name, wanted)))
        for name in start
    }
