"""Independent randomness for each use within a run, from the run's one seed."""

from __future__ import annotations

import numpy as np

SEED_NETWORKS, SEED_OFFLINE, SEED_ONLINE, SEED_DIAGNOSTICS = 0, 1, 2, 3


def seed_of(seed: int, branch: int) -> int:
    """A 63-bit seed of its own for each use."""
    return int(np.random.SeedSequence([seed, branch]).generate_state(1, np.uint64)[0] >> 1)


def generator_of(seed: int, branch: int) -> np.random.Generator:
    """A generator of its own for each use."""
    return np.random.default_rng(np.random.SeedSequence([seed, branch]))
