"""WSRL is Cal-QL, CQL or IQL offline and SAC online, bit for bit; as the recipe `fast` it drops the offline data."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from agent.algorithms.base import Algorithm
from agent.config import TrainConfig
from agent.config_files import load_recipe, merge
from tests.agent.learners import learn, make_algorithm, random_transitions

SHARED: dict[str, Any] = {"critics": 3, "critic_subset": 2, "critic_layer_norm": True, "sampled_actions": 2}
SOFT: dict[str, Any] = {"critics": 3, "critic_subset": 2, "critic_layer_norm": True, "policy_delay": 4}


def same(ours: Algorithm[Any], theirs: Algorithm[Any]) -> bool:
    mine, expected = ours.state_dict()["tensors"], theirs.state_dict()["tensors"]
    assert mine.keys() == expected.keys()
    return all(torch.equal(mine[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(("pretraining", "other"), [("cal_ql", "cal_ql"), ("cql", "cql")])
def test_offline_it_is_the_named_method(pretraining: str, other: str) -> None:
    wsrl = make_algorithm("wsrl", pretraining=pretraining, **SHARED)
    backup = {"max_target_backup": True, "conservative_weight": 5.0}
    named = make_algorithm(other, **{**SHARED, **backup})
    for algorithm in (wsrl, named):
        learn(algorithm, np.random.default_rng(0), 6)
    assert same(wsrl, named)


def test_online_it_is_sac_from_what_pretraining_left() -> None:
    wsrl = make_algorithm("wsrl", offline_steps=7, **SHARED)
    learn(wsrl, np.random.default_rng(0), 8)  # one update online: the eighth moves the policy too
    sac = make_algorithm("sac", actor_learning_rate=1e-4, backup_entropy=False, offline_steps=7, **SOFT)
    sac.load_state_dict(wsrl.state_dict())
    for algorithm in (wsrl, sac):
        learn(algorithm, np.random.default_rng(1), 9)
    assert same(wsrl, sac)


def test_iqls_critics_and_value_learn_as_iqls_do() -> None:
    # The policies differ (a squashed Gaussian against a plain one), values do not depend on them.
    wsrl = make_algorithm("wsrl", pretraining="iql", **SHARED)
    iql = make_algorithm("iql", critics=3, critic_layer_norm=True)
    tensors = {**iql.state_dict()["tensors"]}
    shared = ("critic.", "target_critic.", "value.")
    tensors |= {k: t.clone() for k, t in wsrl.state_dict()["tensors"].items() if k.startswith(shared)}
    iql.load_state_dict({"tensors": tensors, "numbers": iql.state_dict()["numbers"]})
    # The whole ensemble counts for both.
    whole = make_algorithm("wsrl", pretraining="iql", **{**SHARED, "critic_subset": 0})
    whole.load_state_dict(wsrl.state_dict())
    whole.config = dataclasses.replace(whole.config, target_rate=iql.config.target_rate)
    for algorithm in (whole, iql):
        learn(algorithm, np.random.default_rng(0), 5)
    ours, theirs = whole.state_dict()["tensors"], iql.state_dict()["tensors"]
    for name in (n for n in theirs if n.startswith(shared)):
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-6, msg=name)


def test_its_extraction_recovers_a_deterministic_policys_actions() -> None:
    wsrl = make_algorithm("wsrl", pretraining="iql", beta=0.0, actor_learning_rate=1e-2, hidden=(32, 32), critics=2)
    rng = np.random.default_rng(2)
    for _ in range(300):
        batch = random_transitions(rng, rows=128)
        action = 0.8 * torch.sin(batch.observation[:, :2])
        wsrl.update(dataclasses.replace(batch, action=action))
    probe = random_transitions(rng, rows=512).observation
    with torch.no_grad():
        error = (torch.tanh(wsrl.actor.raw(probe)) - 0.8 * torch.sin(probe[:, :2])).square().mean().sqrt()
    assert float(error) < 0.1


def test_actions_at_the_bounds_have_a_finite_likelihood_and_gradient() -> None:
    wsrl = make_algorithm("wsrl", pretraining="iql", **SHARED)
    batch = dataclasses.replace(random_transitions(np.random.default_rng(3)), action=torch.ones(32, 2))
    for _ in range(20):
        assert bool(torch.isfinite(wsrl.update(batch)["actor_loss"]))
    assert all(bool(torch.isfinite(t).all()) for t in wsrl.actor.state_dict().values())


def test_the_fast_recipe_keeps_no_offline_data_and_warms_up_for_5000_steps() -> None:
    config = merge(TrainConfig(), load_recipe("fast"), where="recipe fast")
    algorithm: Any = config.algorithm
    assert (algorithm.name, algorithm.critics, algorithm.critic_subset) == ("wsrl", 10, 2)
    assert algorithm.critic_layer_norm
    assert (config.online.utd, config.online.offline_fraction, config.online.warmup_steps) == (4.0, 0.0, 5000)
    assert algorithm.policy_delay == config.online.utd
