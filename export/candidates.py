"""Policies that propose several actions and take one by its value: what their graph is told, and the noise it is fed.

The graph holds the critics beside the actor and gives `q` [B, K], the smallest critic's value of each candidate:

    best        a_i = the actor's action under noise i, i < K;  the action is argmax_i q_i
    expansion   a_0 = the frozen policy's mean, a_1 = the actor's action under noise;  a_1 where u ≤ P(a_1), else a_0,
                P(a_1) = 1 / (1 + exp((q_0 - q_1) / temperature)): the softmax of q / temperature over both

Noise is the input `eps` [B, E]: K·A standard normal numbers, one candidate after another (best), or A of them and u,
uniform in [0, 1) (expansion). Zeros are the actor's mean in both: all candidates are alike, or u is at its least. With
a `seed` the noise is part of the graph, which then has no such input; the mean is the first of its candidates.

Shape legend: B batch, K candidates, A action entries, E entries of noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from export.errors import ContractError

if TYPE_CHECKING:
    from export.contract import Contract

BEST, EXPANSION = "best", "expansion"
LARGEST_COUNT = 256


@dataclass(frozen=True, kw_only=True)
class Candidates:
    count: int
    "K, actions that are judged for each observation."
    choice: str = BEST
    "Which of them is taken: `best` or `expansion`."
    temperature: float | None = None
    "Of the softmax of an expansion, in units of Q; None: there is none."
    seed: int | None = None
    "Of the noise within the graph; None: it is the input `eps`."

    def __post_init__(self) -> None:
        expands = self.choice == EXPANSION
        if self.choice not in (BEST, EXPANSION):
            raise ContractError(f"contract candidates.choice is {self.choice!r}: give {BEST} or {EXPANSION}")
        if isinstance(self.count, bool) or not isinstance(self.count, int) or not 1 <= self.count <= LARGEST_COUNT:
            raise ContractError(f"contract candidates.count is {self.count!r}: give a number from 1 to {LARGEST_COUNT}")
        if expands != (self.temperature is not None) or (expands and self.count != 2):
            raise ContractError("contract candidates: an expansion has 2 and a temperature, and nothing else has one")
        if self.temperature is not None and not 0.0 < self.temperature < np.inf:
            raise ContractError(f"contract candidates.temperature is {self.temperature}: give a positive number")
        if self.seed is not None and (expands or not isinstance(self.seed, int) or self.seed < 0):
            raise ContractError("contract candidates.seed: give 0 or more, and none to an expansion")

    def noise_size(self, action_size: int) -> int:
        """E, entries of the noise for one observation."""
        return action_size + 1 if self.choice == EXPANSION else self.count * action_size


def embedded_noise(candidates: Candidates, action_size: int) -> np.ndarray:
    """The noise of a graph that holds its own [K, A] float32; the first row is zero, the mean."""
    noise = np.random.default_rng(candidates.seed).standard_normal((candidates.count, action_size), dtype=np.float32)
    noise[0] = 0.0
    return noise


def draw_noise(contract: Contract, rng: np.random.Generator, rows: int, *, spread: float = 1.0) -> np.ndarray:
    """Noise for `rows` observations [rows, E] float32, as the input `eps` of the contract's graph takes it.

    `spread` multiplies what is normal.
    """
    expands = contract.candidates is not None and contract.candidates.choice == EXPANSION
    normal = rng.standard_normal((rows, contract.noise_size - expands), dtype=np.float32) * np.float32(spread)
    return np.concatenate([normal, rng.random((rows, 1), dtype=np.float32)], axis=1) if expands else normal
