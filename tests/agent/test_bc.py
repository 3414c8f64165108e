"""Behaviour cloning: IQL's extraction with equal weights, and refused where it cannot work."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from agent.algorithms.bc_config import BCConfig
from agent.config import TrainConfig
from agent.config_files import load_preset, merge, validate
from agent.errors import ConfigError
from tests.agent.learners import make_algorithm, make_learner, random_transitions


def test_one_step_moves_the_actor_as_iql_with_beta_zero_does() -> None:
    bc, iql = make_algorithm("bc"), make_learner(beta=0.0)
    iql.actor.load_state_dict(bc.actor.state_dict())
    rng = np.random.default_rng(0)
    for _ in range(5):
        batch = random_transitions(rng)
        ours, theirs = bc.update(batch), iql.update(batch)
        torch.testing.assert_close(ours["actor_loss"], theirs["actor_loss"])
    for key, tensor in bc.actor.state_dict().items():
        torch.testing.assert_close(tensor, iql.actor.state_dict()[key])


def test_the_loss_is_the_mean_negative_log_likelihood_of_the_actions() -> None:
    bc = make_algorithm("bc")
    batch = random_transitions(np.random.default_rng(1))
    with torch.no_grad():
        mean, std = torch.tanh(bc.actor(batch.observation)), bc.actor.clamped_log_std().exp()
        expected = -torch.distributions.Normal(mean, std).log_prob(batch.action).sum(-1).mean()
    torch.testing.assert_close(bc.update(batch)["actor_loss"], expected)


def test_it_recovers_the_policy_that_made_the_data() -> None:
    bc = make_algorithm("bc", hidden=(32, 32), offline_steps=600, learning_rate=1e-2)
    rng = np.random.default_rng(2)
    noise = 0.1
    for _ in range(600):
        batch = random_transitions(rng, rows=128)
        action = 0.8 * torch.sin(batch.observation[:, :2]) + noise * torch.from_numpy(
            rng.standard_normal((128, 2), dtype=np.float32)
        )
        bc.update(dataclasses.replace(batch, action=action))
    probe = random_transitions(rng, rows=512).observation
    with torch.no_grad():
        error = (torch.tanh(bc.actor(probe)) - 0.8 * torch.sin(probe[:, :2])).square().mean().sqrt()
        std = bc.actor.clamped_log_std().exp()
    assert float(error) < 0.1
    assert bool(((std > 0.07) & (std < 0.2)).all())


def test_it_refuses_an_online_phase_and_takes_its_own_part_of_a_preset() -> None:
    config = merge(TrainConfig(), load_preset("adroit", "bc"), where="preset adroit")
    assert config.algorithm == BCConfig(dropout=0.1)
    with pytest.raises(ConfigError, match="bc cannot fine-tune"):
        validate(dataclasses.replace(config, replay=Path("a"), out=Path("b"), online_steps=10_000))
