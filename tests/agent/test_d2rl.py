"""Dense trunks (D2RL): the input reaches every hidden layer of every network, in training and in the exported graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from agent.networks import MLP, EnsembleCritic, GaussianActor
from agent.networks.products import AFFINE
from export.onnx_writer import export_policy
from export.policy import write_policy
from export.runner import PolicyRunner
from export.template import Template
from tests.agent.learners import digest, learn, make_learner, random_transitions
from tests.export.policies import ACT, OBS, make_contract

HIDDEN = (16, 12, 8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_dense_perceptron_is_what_it_says() -> None:
    network = MLP(5, HIDDEN, 3, generator=generator(), dense=True)
    x = torch.randn(7, 5, generator=generator(1))
    first, second, third, last = (layer for layer in network.layers if isinstance(layer, torch.nn.Linear))
    assert [layer.in_features for layer in (first, second, third, last)] == [5, 16 + 5, 12 + 5, 8]
    h = torch.relu(first(x))
    h = torch.relu(second(torch.cat([h, x], 1)))
    h = torch.relu(third(torch.cat([h, x], 1)))
    assert torch.equal(network(x), last(h))  # the last layer sees the features alone, as published
    assert torch.equal(network.activations(x)[-1], h)


def test_dense_critics_are_what_they_say() -> None:
    critic = EnsembleCritic(4, 2, HIDDEN, members=3, generator=generator(), layer_norm=True, dense=True)
    s, a = torch.randn(7, 4, generator=generator(1)), torch.randn(7, 2, generator=generator(2))
    x = torch.cat([s, a], 1)
    for member in range(3):
        h = x
        for layer in range(4):
            inputs = torch.cat([h, x], 1) if layer in (1, 2) else h
            h = inputs @ critic.weights[layer][member] + critic.biases[layer][member]
            if layer < 3:
                h = torch.relu(torch.nn.functional.layer_norm(h, h.shape[-1:]))
        torch.testing.assert_close(critic(s, a)[member], h.squeeze(-1))


def test_with_one_hidden_layer_dense_is_plain() -> None:
    dense, plain = (MLP(5, (16,), 3, generator=generator(), dense=d) for d in (True, False))
    x = torch.randn(7, 5, generator=generator(1))
    assert torch.equal(dense(x), plain(x))


def test_with_bf16_products_the_input_is_not_rounded() -> None:
    # An input that bfloat16 cannot tell from 1, seen through the skip alone.
    network = MLP(1, (4, 1), 1, generator=generator(), dense=True)
    with torch.no_grad():
        for layer in network.layers:
            if isinstance(layer, torch.nn.Linear):
                layer.weight.zero_()
        network.layers[2].weight[0, -1] = 1.0
        network.layers[4].weight[:] = 1.0
        x = torch.tensor([[1.0 + 1e-4]])
        assert float(network(x, AFFINE["bf16"])) == pytest.approx(1.0 + 1e-4, abs=1e-6)


def test_a_dense_policy_exports_runs_and_is_patched_like_a_plain_one(tmp_path: Path) -> None:
    contract = make_contract(stochastic=True)
    ours, newer = (GaussianActor(OBS, ACT, HIDDEN, generator=generator(seed), dense=True) for seed in (0, 1))
    models = [export_policy(a.to_export()[0], log_std=a.to_export()[1], contract=contract) for a in (ours, newer)]
    assert Template.from_bytes(models[0]).patch(newer.exported_weights(), contract) == models[1]
    write_policy(tmp_path / "policy.onnx", models[1])
    runner = PolicyRunner(tmp_path / "policy.onnx")
    observations = np.random.default_rng(0).normal(scale=3.0, size=(64, OBS)).astype(np.float32)
    normalizer = contract.normalizer
    std = np.maximum(np.asarray(normalizer.std, np.float32), np.float32(1e-6))
    moving = np.asarray(normalizer.std) > 0
    observations[:, ~moving] = np.asarray(normalizer.mean, np.float32)[~moving]
    _, raw = runner.infer(observations, np.zeros((64, ACT), np.float32))
    normalized = np.clip((observations - np.asarray(normalizer.mean, np.float32)) / std, -10, 10)
    with torch.no_grad():
        expected = newer(torch.from_numpy(normalized.astype(np.float32))).numpy()
    np.testing.assert_allclose(raw, expected, atol=1e-4)


def test_a_dense_learner_resumes_exactly() -> None:
    whole, resumed = (make_learner(seed=seed, trunk="d2rl", hidden=HIDDEN, dropout=0.1) for seed in (0, 3))
    learn(whole, np.random.default_rng(0), 6)
    resumed.load_state_dict(whole.state_dict())
    batch = random_transitions(np.random.default_rng(1))
    for learner in (whole, resumed):
        learner.update(batch)
    assert digest(resumed) == digest(whole)
