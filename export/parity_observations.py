"""The observations that a parity check runs on: where an export would go wrong first, real ones, and drawn ones.

Shape legend: N observations, O observation entries.
"""

from __future__ import annotations

import numpy as np

from export.contract import Contract
from export.errors import ExportError

OBSERVATIONS = 10_000
ORDINARY_DEVIATIONS = 4.0


def edge_observations(contract: Contract) -> np.ndarray:
    """Observations [N, O] float32 where an export would go wrong first: constant, tiny, huge, at the clip's edge."""
    normalizer, size = contract.normalizer, contract.observation_size
    mean = np.asarray(normalizer.mean)
    std = np.maximum(normalizer.std, normalizer.eps)
    # Without a clip a huge observation overflows in any float32 network, so there the edge is 1,000 deviations.
    reach = 1e3 if normalizer.clip is None else normalizer.clip
    rows = [mean, *(np.full(size, value) for value in (0.0, -0.0, 1.0, -1.0, 1e-3, 1e-30, 1e-42, -1e-42))]
    for sign in (1.0, -1.0):
        edge = (mean + sign * reach * std).astype(np.float32)
        rows += [
            mean + sign * std,
            edge,
            np.nextafter(edge, np.float32(np.inf)),
            np.nextafter(edge, np.float32(-np.inf)),
        ]
        rows += [
            mean + sign * 0.999 * reach * std,
            mean + sign * reach * std * np.where(np.arange(size) % 2, 1.0, -1.0),
        ]
        if normalizer.clip is not None:
            rows += [mean + sign * 1e2 * std, *(np.full(size, sign * value) for value in (1e3, 1e6, 1e30, 3.4e38))]
        for entry in range(0, size, max(1, size // 8)):
            alone = mean.copy()
            alone[entry] += sign * reach * std[entry]
            rows.append(alone)
    return np.asarray(rows, dtype=np.float32)


def parity_observations(
    contract: Contract, rng: np.random.Generator, observations: np.ndarray | None = None, count: int = OBSERVATIONS
) -> tuple[np.ndarray, np.ndarray]:
    """At least `count` observations [N, O] float32, and which of them [N] bool are ordinary.

    First the edge cases, then up to half of real ones, from `observations` [n, O], the rest drawn: normal around the
    normaliser's mean with 1, 3 and 10 deviations. Ordinary are the real ones, else the drawn ones near the mean.
    Raises ExportError where `observations` is of another shape.
    """
    edges = edge_observations(contract)
    real = np.empty((0, contract.observation_size), np.float32)
    if observations is not None and len(observations):
        if observations.ndim != 2 or observations.shape[1] != contract.observation_size:
            raise ExportError(f"observations are {list(observations.shape)}, the policy takes [N, {edges.shape[1]}]")
        finite = observations[np.isfinite(observations).all(axis=1)]
        real = finite[rng.permutation(len(finite))[: count // 2]].astype(np.float32)
    drawn = max(count - len(edges) - len(real), 0)
    std = np.maximum(contract.normalizer.std, contract.normalizer.eps)
    spread = np.asarray([1.0, 3.0, 10.0])[rng.integers(3, size=(drawn, 1))]
    noise = rng.standard_normal((drawn, contract.observation_size))
    random = (np.asarray(contract.normalizer.mean) + spread * std * noise).astype(np.float32)
    inputs = np.concatenate([edges, real, random])
    index = np.arange(len(inputs))
    if len(real):
        return inputs, (index >= len(edges)) & (index < len(edges) + len(real))
    near = np.abs((inputs.astype(np.float64) - np.asarray(contract.normalizer.mean)) / std).max(axis=1)
    return inputs, (index >= len(edges)) & (near <= ORDINARY_DEVIATIONS)
