"""Every method solves a small task from mediocre data, where imitation of that data does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from agent.algorithms import config_class
from replay.statistics import returns
from replay.store import Store
from tests.agent.corridor import learned, mean_return, write_aimless_episodes

SMALL: dict[str, Any] = {"hidden": (32, 32), "batch_size": 64, "learning_rate": 2e-3}
UPDATES = 1200
STRAIGHT, BETTER = -21.0, -28.0
"""Mean returns of a policy that hardly errs on its way, and of one that is clearly better than the data's."""
METHODS: dict[str, tuple[str, dict[str, Any], float]] = {
    "iql": ("iql", {"expectile": 0.9, "beta": 10.0, "target_rate": 0.05}, STRAIGHT),
    # Returns of -20 to 0 make λ small beside what one action changes.
    "td3_bc": ("td3_bc", {"target_rate": 0.05, "bc_alpha": 40.0}, STRAIGHT),
    "rebrac": ("rebrac", {"target_rate": 0.05, "actor_penalty": 0.01}, STRAIGHT),
    "awac": ("awac", {"target_rate": 0.05, "beta": 10.0}, STRAIGHT),
    # Values of the data's own policy allow for one improvement of it and no more.
    "one_step": ("one_step", {"target_rate": 0.05, "beta": 10.0}, BETTER),
    "reverse_kl": ("one_step", {"target_rate": 0.05, "improvement": "reverse_kl", "kl_weight": 0.1}, STRAIGHT),
    # Over several steps the drift of the whole episode drowns what one action did.
    "awr": ("awr", {"beta": 10.0, "n_step": 1}, BETTER),
}
SOFT = {"target_rate": 0.05, "actor_learning_rate": 2e-3, "initial_temperature": 0.1, "sampled_actions": 4}
METHODS |= {
    "cql": ("cql", {**SOFT, "conservative_weight": 0.3}, STRAIGHT),
    "cal_ql": ("cal_ql", {**SOFT, "conservative_weight": 0.3}, STRAIGHT),
    "wsrl_iql": ("wsrl", {**SOFT, "pretraining": "iql", "critics": 2, "expectile": 0.9, "beta": 10.0}, STRAIGHT),
}
IMITATION: dict[str, dict[str, Any]] = {
    "iql": {"beta": 0.0},  # all weights 1: behaviour cloning
    "bc": {},
    "td3_bc": {"bc_alpha": 0.0},
    "cql": {**SOFT, "conservative_weight": 30.0},  # nothing that the data lack is worth anything
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_aimless_episodes(tmp_path_factory.mktemp("corridor") / "store")


def score(store: Store, name: str, changes: dict[str, Any], updates: int) -> float:
    config = config_class(name)(**{**SMALL, **changes})
    return mean_return(learned(store, config, updates), np.random.default_rng(2))


# What they share with a method beside them is most of what they are.
RELATED = ("cal_ql", "wsrl_iql", "reverse_kl")


@pytest.mark.parametrize("name", [pytest.param(m, marks=pytest.mark.full if m in RELATED else []) for m in METHODS])
def test_aimless_data_become_a_policy_that_goes_to_the_goal(store: Store, name: str) -> None:
    from_the_left_end = returns(store)[::3]
    assert from_the_left_end.mean() < -35.0  # the data are bad
    algorithm, changes, enough = METHODS[name]
    assert score(store, algorithm, changes, UPDATES) > enough


@pytest.mark.parametrize("name", IMITATION)
def test_imitation_of_the_same_data_does_not(store: Store, name: str) -> None:
    # The negative control.
    assert score(store, name, IMITATION[name], UPDATES // 2) < -35.0


def test_the_shortest_way_is_as_long_as_stated() -> None:
    assert -18.0 <= mean_return(np.ones_like, np.random.default_rng(2)) <= -17.0
