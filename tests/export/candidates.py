"""Small policies that choose between candidates, and the same choice in float64 NumPy, written from the equations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from agent.networks import CandidatePolicy, EnsembleCritic, GaussianActor
from export.candidates import EXPANSION, Candidates
from export.contract import Contract
from tests.export.policies import ACT, OBS, make_contract

WIDTHS = (24, 24)
BEST_OF_5 = Candidates(count=5)
EITHER = Candidates(count=2, choice=EXPANSION, temperature=0.3)

Weights = dict[str, np.ndarray]


def make_policy(candidates: Candidates, seed: int = 0) -> CandidatePolicy:
    generator = torch.Generator().manual_seed(seed)

    def actor() -> GaussianActor:
        made = GaussianActor(OBS, ACT, WIDTHS, generator=generator, dropout=0.1)
        with torch.no_grad():
            made.log_std.copy_(torch.linspace(-2.0, 0.0, ACT))
        return made

    critic = EnsembleCritic(OBS, ACT, WIDTHS, members=3, generator=generator, layer_norm=True)
    frozen = actor() if candidates.choice == EXPANSION else None
    return CandidatePolicy(actor(), critic, candidates, action_size=ACT, frozen=frozen)


def contract_of(policy: CandidatePolicy) -> Contract:
    return replace(make_contract(), stochastic=policy.stochastic, candidates=policy.candidates)


def weights_of(policy: CandidatePolicy) -> Weights:
    return {name.removeprefix("network."): w.astype(np.float64) for name, w in policy.exported_weights().items()}


def mean_by_hand(weights: Weights, name: str, x: np.ndarray) -> np.ndarray:
    """The pre-squash mean of actor `name` for normalised observations [B, O]."""
    for layer in (0, 3, 6):  # between them ReLU and dropout, which is off
        x = x @ weights[f"{name}.trunk.layers.{layer}.weight"].T + weights[f"{name}.trunk.layers.{layer}.bias"]
        x = np.maximum(x, 0.0) if layer < 6 else x
    return x


def value_by_hand(weights: Weights, observation: np.ndarray, action: np.ndarray) -> np.ndarray:
    """min_j Q_j [B]."""
    values = []
    for j in range(len(weights["critic.weights.0"])):
        x = np.concatenate([observation, action], axis=1)
        for layer in range(2):
            x = x @ weights[f"critic.weights.{layer}"][j] + weights[f"critic.biases.{layer}"][j]
            x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
            x = np.maximum(x * weights[f"critic.scales.{layer}"][j] + weights[f"critic.shifts.{layer}"][j], 0.0)
        values.append((x @ weights["critic.weights.2"][j] + weights["critic.biases.2"][j])[:, 0])
    return np.min(values, axis=0)


def by_hand(
    policy: CandidatePolicy, contract: Contract, observations: np.ndarray, eps: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(action [B, A], q [B, K], by how much the choice was made [B]: of q, or of probability)."""
    w = weights_of(policy)
    constants = {name: value.astype(np.float64) for name, value in contract.constants().items()}
    x = np.clip((observations - constants["normalizer.mean"]) * constants["normalizer.inv_std"], -10.0, 10.0)
    unit = np.tanh(mean_by_hand(w, "actor", x))
    std = np.exp(w["actor.log_std"])
    expands = policy.candidates.choice == EXPANSION
    normal = eps[:, :ACT, None].transpose(0, 2, 1) if expands else eps.reshape(len(eps), -1, ACT)
    drawn = np.clip(unit[:, None] + std * normal, -1.0, 1.0)
    if expands:
        drawn = np.concatenate([np.tanh(mean_by_hand(w, "frozen", x))[:, None], drawn], axis=1)
    q = np.stack([value_by_hand(w, x, drawn[:, i]) for i in range(drawn.shape[1])], axis=1)
    if expands:
        weights = np.exp((q - q.max(1, keepdims=True)) / policy.candidates.temperature)
        share = weights[:, 1] / weights.sum(axis=1)
        chosen, margin = (eps[:, ACT] <= share).astype(int), np.abs(eps[:, ACT] - share)
    else:
        chosen = q.argmax(axis=1)
        margin = q.max(axis=1) - np.sort(q, axis=1)[:, -2]
    action = drawn[np.arange(len(q)), chosen]
    scaled = action * constants["action.scale"] + constants["action.shift"]
    return np.clip(scaled, constants["action.low"], constants["action.high"]), q, margin
