"""How varied logged behaviour is, from a sample of its steps.

Offline learning can only choose among what was tried: where every state was answered by one action, there is nothing to
prefer, and where states were answered at random, a value function has much to sort out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NEIGHBOURS = 1024
"""Steps among which nearest neighbours are looked for."""
LEAST_STEPS = 64
STD_FLOOR = 1e-3


@dataclass(frozen=True, kw_only=True)
class Diversity:
    """Figures without units."""

    action_spread: float
    """Distance of the actions in neighbouring states over that in any two states: 0 where the state decides the action,
    about 1 where it does not."""
    neighbour_distance: float
    """Distance of neighbouring states over that of any two: the smaller it is, the more the figure above says."""
    state_dimensions: float
    """Participation ratio of the states' covariance (Σλ)² / Σλ²: over how many directions they spread, 1 to O."""
    action_dimensions: float
    """The same of the actions, 1 to A."""


def diversity(
    observations: NDArray[np.float32], actions: NDArray[np.floating], episodes: NDArray[np.int64]
) -> Diversity | None:
    """From a sample of steps: observations [n, O], actions [n, A] in shares of their range, episode numbers [n].

    Neighbours are steps of different episodes whose observations, each dimension in standard deviations, are nearest.
    None for fewer than 64 steps, a single episode, or observations that never change.
    """
    if len(observations) < LEAST_STEPS or len(np.unique(episodes)) < 2:
        return None
    std = observations.std(axis=0, dtype=np.float64)
    varying = std > STD_FLOOR
    if not varying.any():
        return None
    states = (observations[:, varying] - observations[:, varying].mean(axis=0)) / std[varying].astype(np.float32)
    thinned = np.linspace(0, len(states) - 1, min(NEIGHBOURS, len(states))).astype(np.int64)
    few, acted, ids = states[thinned], actions[thinned].astype(np.float32), episodes[thinned]
    gaps = _distances(few)
    apart = ids[:, None] != ids[None, :]
    nearest = np.where(apart, gaps, np.inf).argmin(axis=1)
    rows = np.arange(len(few))
    has = apart.any(axis=1)
    between = np.sqrt(((acted - acted[nearest]) ** 2).sum(axis=1))[has].mean()
    any_two = _distances(acted)[apart].mean()
    return Diversity(
        action_spread=float(between / any_two) if any_two > 0 else 0.0,
        neighbour_distance=float(gaps[rows, nearest][has].mean() / gaps[apart].mean()),
        state_dimensions=participation(states),
        action_dimensions=participation(np.asarray(actions, np.float64)),
    )


def participation(values: NDArray[np.floating]) -> float:
    """(Σλ)² / Σλ² over the eigenvalues λ of the covariance of values [n, D]; 0 where nothing varies."""
    covariance = np.atleast_2d(np.cov(values, rowvar=False))
    squares = float((covariance**2).sum())
    return float(np.trace(covariance) ** 2 / squares) if squares > 0 else 0.0


def _distances(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Euclidean distances of all pairs [n, n]."""
    squares = (values**2).sum(axis=1)
    products = squares[:, None] + squares[None, :] - 2.0 * (values @ values.T)
    distances: NDArray[np.float32] = np.sqrt(np.maximum(products, 0.0))
    return distances
