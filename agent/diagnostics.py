"""What a training's losses do not show: rank and dead units of the networks' features, and Q against real returns.

Measured on steps of the offline data that are drawn once and stay the same; the training is not touched.

Shapes: S steps, O observation, A action, N critics, F features.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agent.algorithms.base import Algorithm
from agent.networks import EnsembleCritic
from agent.transitions import Preparer, Transitions
from replay.episodes import episode_table
from replay.reader import StoreReader
from replay.sampler import Batch
from replay.store import Store

STATES = 2048
"""Steps on which features are looked at."""
POOL = 4 * STATES
"""Steps of the episodes that these are drawn from."""
RANK_SHARE = 0.01
"""δ of the effective rank."""
BINS = 20
LARGEST_TAIL = 0.5
"""Share that a value at a cut may have in what counts as a return."""


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Steps of whole episodes, as the learner sees them."""

    observation: Tensor
    """[S, O]"""
    action: Tensor
    """[S, A]"""
    reward_to_go: Tensor
    """[S], Σ γᵏ·r up to the end, or up to the last step before a cut."""
    tail: Tensor
    """[S], γᵏ before the value of that last step; 0 where the episode ended in the task's sense."""
    last: Tensor
    """[S] int64, the place of that last step."""


class Diagnostics:
    """Measures an algorithm that has an actor's trunk, and where it has one a critic in its networks."""

    def __init__(self, store: Store, prepare: Preparer, rng: np.random.Generator) -> None:
        """Steps of `store`, drawn by `rng` at the first measurement."""
        self._store, self._prepare, self._rng = store, prepare, rng

    @functools.cached_property
    def _all(self) -> Steps:
        return draw_episodes(self._store.reader(), self._prepare, self._rng)

    @functools.cached_property
    def _states(self) -> Tensor:
        return torch.from_numpy(np.sort(self._rng.permutation(len(self._all.tail))[:STATES]))

    @functools.cached_property
    def _known(self) -> Tensor:
        """Those whose return is more than a value at a cut."""
        known = torch.nonzero(self._all.tail <= LARGEST_TAIL).squeeze(-1).numpy()
        return torch.from_numpy(np.sort(self._rng.permutation(known)[:STATES]))

    @torch.no_grad()
    def measure(self, algorithm: Algorithm[Any]) -> dict[str, Any]:
        """JSON-able figures: srank_*, dead_units_* (share), `calibration`; the critic's where there is one."""
        steps, device = self._all, algorithm.device
        observation, action = steps.observation[self._states].to(device), steps.action[self._states].to(device)
        hidden = algorithm.actor.trunk.activations(observation)
        values: dict[str, Any] = {"srank_actor": effective_rank(hidden[-1]), "dead_units_actor": dead_units(hidden)}
        critic = algorithm.networks.get("critic")
        if isinstance(critic, EnsembleCritic):
            hidden = critic.activations(observation, action)
            # The members are alike: the rank of the first stands for all.
            values |= {"srank_critic": effective_rank(hidden[-1][0]), "dead_units_critic": dead_units(hidden)}
            values["calibration"] = self._calibration(critic, device)
        return values

    def _calibration(self, critic: EnsembleCritic, device: torch.device) -> dict[str, list[float]]:
        steps, known = self._all, self._known
        last = steps.last[known]
        both = torch.cat([known, last])
        q = critic(steps.observation[both].to(device), steps.action[both].to(device)).mean(dim=0).cpu()
        predicted, at_the_cut = q[: len(known)], q[len(known) :]
        return bins(predicted, steps.reward_to_go[known] + steps.tail[known] * at_the_cut)


def effective_rank(features_SF: Tensor, share: float = RANK_SHARE) -> float:
    """srank_δ: how many singular values make up 1 − δ of their sum (Kumar et al. 2021, arXiv:2010.14498)."""
    x = features_SF.double()
    # By the Gram matrix: F is far smaller than S.
    singular = torch.linalg.eigvalsh(x.mT @ x).clamp(min=0.0).sqrt().flip(0)
    total = singular.sum()
    if not bool(total > 0):
        return 0.0
    return float((singular.cumsum(0) < (1.0 - share) * total).sum() + 1)


def dead_units(hidden: list[Tensor]) -> float:
    """Share of units [..., S, F] of all hidden layers whose ReLU lets nothing through on any of the states."""
    dead = [(layer <= 0).all(dim=-2).float().flatten() for layer in hidden]
    return float(torch.cat(dead).mean())


def bins(q_S: Tensor, return_S: Tensor) -> dict[str, list[float]]:
    """Mean Q and mean return of equally large groups of steps, in the order of Q."""
    order = torch.argsort(q_S)
    groups = [group for group in torch.tensor_split(order, BINS) if len(group)]
    return {
        name: [float(f"{float(values[group].mean()):.6g}") for group in groups]
        for name, values in (("q", q_S), ("return", return_S))
    }


def draw_episodes(reader: StoreReader, prepare: Preparer, rng: np.random.Generator) -> Steps:
    """All steps of randomly drawn whole episodes, until there are enough of them."""
    table = episode_table(reader)
    whole = np.flatnonzero(~table.interrupted)
    parts: list[dict[str, NDArray[Any]]] = []
    count = 0
    for e in rng.permutation(whole if len(whole) else len(table.length)):
        start = int(table.start[e])
        rows = reader.rows(table.stream[e], start, start + int(table.length[e]) + 1)
        # As a sampler packs them: each row beside its successor.
        batch = Batch(np.concatenate([rows[:-1], rows[1:]], axis=1), reader.spec)
        parts.append(_steps(prepare(batch), prepare.preparation.discount, bool(table.terminated[e]), first=count))
        count += len(rows) - 1
        if count >= POOL:
            break
    return Steps(**{name: torch.from_numpy(np.concatenate([part[name] for part in parts])) for name in parts[0]})


def _steps(prepared: Transitions, discount: float, terminated: bool, *, first: int) -> dict[str, NDArray[Any]]:
    """The columns of `Steps` for one episode whose first step is number `first`."""
    reward = prepared.reward.cpu().numpy().astype(np.float64)
    length = len(reward)
    to_go = np.zeros(length)
    # The value of a cut episode's last step stands for that step and all that would have followed.
    to_go[-1] = reward[-1] if terminated else 0.0
    for t in range(length - 2, -1, -1):
        to_go[t] = reward[t] + discount * to_go[t + 1]
    ahead = length - 1 - np.arange(length)
    return {
        "observation": prepared.observation.cpu().numpy().copy(),
        "action": prepared.action.cpu().numpy().copy(),
        "reward_to_go": to_go.astype(np.float32),
        "tail": (np.zeros(length) if terminated else discount**ahead).astype(np.float32),
        "last": np.full(length, first + length - 1),
    }
