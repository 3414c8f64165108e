"""Policy extraction after TD learning: first the values alone, then the policy alone, the same policy in the end."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agent.algorithms.iql import IQL
from agent.executors.compiled import Compiled
from tests.agent.learners import digest, learn, make_learner, random_transitions

POLICY = ("actor.", "adam.actor.")


def changed(algorithm: IQL, before: dict[str, torch.Tensor]) -> set[str]:
    """Which parts' tensors an update has moved."""
    now = algorithm.state_dict()["tensors"]
    names = {name for name, tensor in now.items() if not torch.equal(tensor, before[name])}
    return {"policy" if name.startswith(POLICY) else "values" for name in names}


def snapshot(algorithm: IQL) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in algorithm.state_dict()["tensors"].items()}


def test_values_learn_first_then_the_policy_alone_and_online_both() -> None:
    algorithm, rng = make_learner(offline_steps=10, extraction="after"), np.random.default_rng(0)
    moved = []
    for _ in range(12):
        before = snapshot(algorithm)
        algorithm.update(random_transitions(rng))
        moved.append(changed(algorithm, before))
    assert moved == [{"values"}] * 5 + [{"policy"}] * 5 + [{"values", "policy"}] * 2


def test_values_are_those_of_concurrent_extraction_bit_for_bit() -> None:
    # Offline the policy never feeds back into Q or V, so when it is extracted changes neither.
    after, concurrent = (make_learner(offline_steps=40, extraction=how) for how in ("after", "concurrent"))
    for algorithm in (after, concurrent):
        learn(algorithm, np.random.default_rng(0), 20)
    ours, theirs = (snapshot(algorithm) for algorithm in (after, concurrent))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours if not name.startswith(POLICY))
    assert not torch.equal(after.actor.trunk.layers[0].weight, concurrent.actor.trunk.layers[0].weight)


@pytest.mark.parametrize("online", [1.0, 0.1])
def test_the_actors_schedule_spans_the_extraction_and_is_its_share_of_the_rate_once_online(online: float) -> None:
    algorithm = make_learner(offline_steps=10, extraction="after", actor_online_rate=online)
    rates = []
    for updates in range(5, 12):
        algorithm.updates = updates
        rates.append(algorithm.actor_learning_rate() / algorithm.config.learning_rate)
    expected = [0.5 * (1 + np.cos(np.pi * k / 5)) for k in range(5)] + [online, online]
    np.testing.assert_allclose(rates, expected)


def test_a_resume_in_the_midst_of_extraction_goes_on_bit_for_bit() -> None:
    whole = make_learner(offline_steps=20, extraction="after", dropout=0.1)
    rng = np.random.default_rng(0)
    batches = [random_transitions(rng) for _ in range(25)]
    for batch in batches[:13]:
        whole.update(batch)
    resumed = make_learner(seed=5, offline_steps=20, extraction="after", dropout=0.1)
    resumed.load_state_dict(whole.state_dict())
    for algorithm in (whole, resumed):
        for batch in batches[13:]:
            algorithm.update(batch)
    assert digest(resumed) == digest(whole)


def test_compiled_extraction_after_moves_the_same_parts() -> None:
    plain, compiled = (make_learner(offline_steps=4, extraction="after") for _ in range(2))
    messages: list[str] = []
    compiled.executor = Compiled(messages.append)
    for algorithm in (plain, compiled):
        learn(algorithm, np.random.default_rng(0), 4)
    assert messages == []
    for name, tensor in plain.state_dict()["tensors"].items():
        torch.testing.assert_close(compiled.state_dict()["tensors"][name], tensor, rtol=1e-4, atol=1e-6)
