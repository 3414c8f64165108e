"""Parts of IQL beside the published ones: quantile critics, the anti-exploration bonus, Q without V."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from agent.algorithms.anti_exploration import AntiExploration
from agent.algorithms.iql import IQL
from agent.algorithms.iql_config import IQLConfig
from agent.divergence import check_bounds
from agent.networks import QuantileCritic
from agent.transitions import Transitions
from tests.agent.learners import make_algorithm, make_learner, random_transitions


def bandit(action: Tensor, reward: Tensor) -> Transitions:
    """One state, one step: [B, A] and [B]."""
    state, rows = torch.ones(len(action), 1), len(action)
    return Transitions(
        observation=state, action=action, reward=reward, discount=torch.zeros(rows), next_observation=state,
        next_action=torch.zeros_like(action), next_action_known=torch.zeros(rows),
    )  # fmt: skip


def learner_of(config: IQLConfig, *, actions: int = 1, offline_steps: int = 10_000) -> IQL:
    return IQL(
        config, observation_size=1, action_size=actions, offline_steps=offline_steps,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip


# --- quantile critics -------------------------------------------------------------------------------------------------


def test_a_quantile_critic_is_what_it_says_and_its_mean_is_over_even_quantiles() -> None:
    critic = QuantileCritic(3, 2, (16, 8), members=2, generator=torch.Generator().manual_seed(0), count=5)
    with torch.no_grad():
        critic.biases[-1].fill_(0.7)
    s, a = torch.randn(4, 3), torch.randn(4, 2)
    zeta = np.array([0.1, 0.3, 0.5, 0.7, 0.9])
    found = critic.quantiles(s, a, torch.from_numpy(zeta).float())
    cosines = np.cos(np.pi * zeta[:, None] * np.arange(64))
    for member in range(2):
        parameters = {name: value[member].detach().double().numpy() for name, value in critic.named_parameters()}
        psi = np.concatenate([s, a], axis=1).astype(np.float64)
        for layer in (0, 1):
            psi = np.maximum(psi @ parameters[f"weights.{layer}"] + parameters[f"biases.{layer}"], 0)
        phi = np.maximum(cosines @ parameters["embedding"] + parameters["offset"], 0)
        expected = np.einsum("bf,kf,f->bk", psi, phi, parameters["weights.2"][:, 0]) + 0.7
        np.testing.assert_allclose(found[member].detach().numpy(), expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(critic(s, a)[member].detach().numpy(), expected.mean(axis=1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loss", ["huber", "squared"])
def test_the_quantiles_of_a_random_reward_are_learnt_and_only_the_squared_loss_collapses_them(loss: Any) -> None:
    # Reward 0 or 10, each half of the time: quantiles 0.1 and 0.9 are the two, the mean is 5.
    config = IQLConfig(hidden=(32,), critic="quantile", quantile_loss=loss, learning_rate=3e-3, critics=1, quantiles=16)
    learner, rng = learner_of(config), np.random.default_rng(0)
    for _ in range(600):
        reward = torch.from_numpy(10.0 * rng.integers(0, 2, 64)).float()
        learner.update(bandit(torch.zeros(64, 1), reward))
    assert isinstance(learner.critics.online, QuantileCritic)
    with torch.no_grad():
        one = torch.ones(1, 1)
        low, high = learner.critics.online.quantiles(one, 0 * one, torch.tensor([0.15, 0.85]))[0, 0].tolist()
        mean = float(learner.critics.online(one, 0 * one))
    assert mean == pytest.approx(5.0, abs=1.0)
    if loss == "huber":
        assert low < 1.5 and high > 8.5
    else:
        assert low == pytest.approx(5.0, abs=1.5) and high == pytest.approx(5.0, abs=1.5)


# --- anti-exploration -------------------------------------------------------------------------------------------------


def trained_bonus(kind: Any, *, updates: int = 400) -> AntiExploration:
    """After actions around ± 0.5, whose sign the first observation gives."""
    learner = make_learner(anti_exploration=kind, anti_exploration_scale=0.5, learning_rate=3e-3)
    rng = np.random.default_rng(0)
    for _ in range(updates):
        learner.update(on_the_data(rng))
    assert learner.anti_exploration is not None
    return learner.anti_exploration


def on_the_data(rng: np.random.Generator, rows: int = 32) -> Transitions:
    batch = random_transitions(rng, rows)
    noise = torch.from_numpy(rng.normal(scale=0.05, size=(rows, 2)).astype(np.float32))
    return replace(batch, action=0.5 * torch.sign(batch.observation[:, :1]) + noise)


@pytest.mark.parametrize("kind", ["rnd", "cvae"])
def test_the_bonus_is_its_scale_on_the_data_and_more_away_from_it(kind: Any) -> None:
    bonus = trained_bonus(kind)
    batch = on_the_data(np.random.default_rng(1), 512)
    with torch.no_grad():
        inside = float(bonus(batch.observation, batch.action).mean())
        outside = float(bonus(batch.observation, -2.0 * batch.action).mean())
    assert 0.15 < inside < 0.75  # the running mean is behind errors that still fall
    assert outside > 3 * inside


@pytest.mark.parametrize("kind", ["rnd", "cvae"])
def test_what_is_subtracted_is_the_bonus_and_the_policy_feels_its_gradient(kind: Any) -> None:
    with_bonus, plain = (make_learner(seed=0, anti_exploration=k, anti_exploration_scale=0.3) for k in (kind, "none"))
    for name in ("actor", "critic", "target_critic", "value"):
        plain.networks[name].load_state_dict(with_bonus.networks[name].state_dict())
    batch = random_transitions(np.random.default_rng(0))
    told, told_plain = with_bonus.update(batch), plain.update(batch)
    assert with_bonus.anti_exploration is not None
    # Its networks have not moved since: within an update they learn first.
    with torch.no_grad():
        b = with_bonus.anti_exploration(batch.observation, batch.action)
    torch.testing.assert_close(told["advantage"] + told["v"] + b, told_plain["advantage"] + told_plain["v"])
    action = batch.action.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(with_bonus.anti_exploration(batch.observation, action).sum(), action)
    assert bool((gradient != 0).any(dim=1).all())


@pytest.mark.parametrize(("value", "extraction"), [("network", "after"), ("none", "concurrent")])
def test_a_large_bonus_lowers_values_by_as_much_and_no_alarm_is_raised(value: Any, extraction: Any) -> None:
    # With γ 0.5 and no rewards 20 is the bound, ten times what rewards of 1 sum to; V tends to −2·b.
    learner = make_learner(
        anti_exploration="rnd", anti_exploration_scale=100.0, policy="ddpg_bc", bc_weight=0.0, value=value,
        extraction=extraction, learning_rate=1e-2, target_rate=0.2, offline_steps=600,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    for _ in range(600):
        batch = on_the_data(rng)
        half = torch.full_like(batch.reward, 0.5)
        known = torch.ones_like(half)
        batch = replace(batch, reward=0 * half, discount=half, next_action=batch.action, next_action_known=known)
        with torch.no_grad():
            mean = learner.mean(batch.observation)
        result = learner.update(batch)
        check_bounds(result, largest_reward=0.0, discount=0.5, updates=learner.updates)
    assert result["v"].mean() < -20.0
    # What is watched is Q alone, whatever b is where the policy has gone.
    with torch.no_grad():
        q = learner.critics.online(batch.observation, mean).amin(dim=0)
    torch.testing.assert_close(result["q_policy"], q)


def test_the_bonus_holds_a_policy_that_follows_q_near_the_data() -> None:
    rng = np.random.default_rng(0)

    def reached(kind: Any) -> float:
        """The mean action where reward rises with the action and the data's are around 0."""
        learner = make_learner(
            policy="ddpg_bc", bc_weight=0.0, offline_steps=300, learning_rate=6e-3, anti_exploration=kind,
            anti_exploration_scale=0.3,
        )  # fmt: skip
        for _ in range(300):
            batch = random_transitions(rng)
            action = torch.from_numpy(rng.normal(scale=0.1, size=(32, 2)).astype(np.float32))
            learner.update(replace(batch, action=action, reward=action.sum(-1), discount=torch.zeros(32)))
        with torch.no_grad():
            return float(torch.tanh(learner.actor(random_transitions(rng, 256).observation)).mean())

    assert reached("none") > 0.75
    assert reached("cvae") < 0.6


# --- Q without V ------------------------------------------------------------------------------------------------------


def lucky(rng: np.random.Generator, rows: int = 64) -> Transitions:
    """Action −1 pays 10 once in ten times, else nothing; action 1 always pays 2. One state, then the end."""
    risky = rng.integers(0, 2, rows) == 0
    reward = np.where(risky, 10.0 * (rng.random(rows) < 0.1), 2.0)
    action = torch.from_numpy(np.where(risky, -1.0, 1.0)).float()[:, None]
    return bandit(action, torch.from_numpy(reward).float())


@pytest.mark.parametrize("value", ["network", "none"])
def test_without_v_luck_passes_for_merit_and_with_it_not(value: Any) -> None:
    config = IQLConfig(
        hidden=(32,), expectile=0.9, learning_rate=3e-3, critics=1, target_rate=0.05, value=value, beta=3.0
    )
    learner, rng = learner_of(config, offline_steps=1000), np.random.default_rng(0)
    for _ in range(1000):
        learner.update(lucky(rng))
    with torch.no_grad():
        ones = torch.ones(2, 1)
        risky, safe = learner.critics.online(ones, torch.tensor([[-1.0], [1.0]]))[0].tolist()
        action = float(torch.tanh(learner.actor(ones[:1])))
    if value == "network":
        assert risky == pytest.approx(1.0, abs=0.7) and safe == pytest.approx(2.0, abs=0.3)
        assert action > 0.5
    else:
        # 0.9·0.1·(10 − q) = 0.1·0.9·q: the 0.9-expectile of the outcomes is 5.
        assert risky == pytest.approx(5.0, abs=1.2) and safe == pytest.approx(2.0, abs=0.5)
        assert action < -0.5


def test_without_v_a_cut_row_teaches_nothing_and_an_ended_one_does() -> None:
    assert IQLConfig(value="none").needs_next_action and not IQLConfig().needs_next_action
    for known, discount, learns in ((0.0, 0.99, False), (0.0, 0.0, True), (1.0, 0.99, True)):
        learner = make_algorithm("iql", value="none")
        before = learner.networks["critic"].state_dict()["weights.0"].clone()
        batch = random_transitions(np.random.default_rng(0))
        rows = len(batch.reward)
        learner.update(
            replace(batch, next_action_known=torch.full((rows,), known), discount=torch.full((rows,), discount))
        )
        moved = not torch.equal(before, learner.networks["critic"].state_dict()["weights.0"])
        assert moved == learns, (known, discount)
