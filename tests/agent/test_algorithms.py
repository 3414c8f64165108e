"""What every registered algorithm keeps: same seed, same bits; exact resume; one mathematics under all executors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agent.algorithms import ALGORITHMS, config_class
from agent.executors.compiled import Compiled
from tests.agent.learners import digest, learn, make_algorithm, random_transitions

NAMES = sorted(ALGORITHMS)


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_fixes_every_bit_and_another_seed_does_not(name: str) -> None:
    def trained(seed: int) -> str:
        algorithm = make_algorithm(name, seed=seed)
        learn(algorithm, np.random.default_rng(0), 20)
        return digest(algorithm)

    assert trained(3) == trained(3) != trained(4)


@pytest.mark.parametrize("name", NAMES)
def test_a_restored_learner_goes_on_bit_for_bit(name: str) -> None:
    whole, first = make_algorithm(name, offline_steps=20), make_algorithm(name, offline_steps=20)
    rng = np.random.default_rng(1)
    batches = [random_transitions(rng) for _ in range(30)]
    for batch in batches:
        whole.update(batch)
    for batch in batches[:13]:
        first.update(batch)
    second = make_algorithm(name, seed=99, offline_steps=20)
    second.load_state_dict(first.state_dict())
    for batch in batches[13:]:
        second.update(batch)
    assert digest(second) == digest(whole)


# A compilation takes some ten seconds: in the normal run an update in one piece and one in two parts. IQL's compiled
# updates are compared with the reference itself, in tests/golden.
@pytest.mark.parametrize(
    "name", [name if name in ("sac", "td3_bc") else pytest.param(name, marks=pytest.mark.full) for name in NAMES]
)
def test_compiled_updates_are_the_eager_ones(name: str) -> None:
    plain, compiled = make_algorithm(name), make_algorithm(name)
    compiled.executor = Compiled(pytest.fail)
    rng = np.random.default_rng(2)
    for _ in range(10):
        batch = random_transitions(rng)
        plain.update(batch)
        compiled.update(batch)
    ours = compiled.state_dict()["tensors"]
    for key, tensor in plain.state_dict()["tensors"].items():
        if tensor.is_floating_point():
            torch.testing.assert_close(ours[key], tensor, rtol=1e-3, atol=1e-4, msg=lambda text, k=key: f"{k}: {text}")


@pytest.mark.parametrize("name", NAMES)
def test_no_update_leaves_a_network_untouched_that_has_an_optimiser(name: str) -> None:
    algorithm = make_algorithm(name)
    before = {key: tensor.clone() for key, tensor in algorithm.actor.state_dict().items()}
    learn(algorithm, np.random.default_rng(3), 20)  # some move the policy in every twentieth only
    assert all(not torch.equal(tensor, before[key]) for key, tensor in algorithm.actor.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_an_algorithm_says_that_it_has_a_critic_if_and_only_if_it_does(name: str) -> None:
    assert config_class(name).has_critic == ("critic" in make_algorithm(name).networks)


@pytest.mark.parametrize("name", NAMES)
def test_the_configuration_bears_the_registered_name_and_its_defaults_can_work(name: str) -> None:
    config = config_class(name)()
    assert config.name == name == make_algorithm(name).name
    assert all(holds for _, holds, _ in config.rules())
