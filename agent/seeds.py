"""Independent randomness for each use within a run, from the run's one seed."""

from __future__ import annotations

import numpy as np

from agent.errors import ConfigError

SEED_NETWORKS, SEED_OFFLINE, SEED_ONLINE, SEED_DIAGNOSTICS = 0, 1, 2, 3


def seed_of(seed: int, branch: int) -> int:
    """A 63-bit seed of its own for each use."""
    return int(np.random.SeedSequence([seed, branch]).generate_state(1, np.uint64)[0] >> 1)


def generator_of(seed: int, branch: int) -> np.random.Generator:
    """A generator of its own for each use."""
    return np.random.default_rng(np.random.SeedSequence([seed, branch]))


def check_seed(seed: int) -> None:
    """ConfigError for a number that no randomness can be drawn from."""
    if seed < 0:
        raise ConfigError(f"--seed is {seed} but must be 0 or more")
