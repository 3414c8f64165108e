"""The extractions of IQL: their schedule, that each compiles and resumes exactly, and what each follows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from agent.executors.compiled import Compiled
from agent.networks import Subset
from tests.agent.learners import digest, learn, make_learner, random_transitions

OPTIONS: dict[str, dict[str, Any]] = {  # the last one is compiled in the normal run
    "deterministic": {"policy": "deterministic", "dropout": 0.1},
    "ddpg_bc": {"policy": "ddpg_bc", "critic_layer_norm": True},
    "blended": {"policy": "blended", "blend_updates": 6},
    "blended after": {"policy": "blended", "blend_updates": 6, "extraction": "after"},
    "subset": {"critics": 5, "critic_subset": 2, "critic_dropout": 0.2},
    "single critic": {"critics": 1},
    "d2rl": {"trunk": "d2rl", "hidden": (16, 12, 8), "dropout": 0.1},
    "rnd": {"anti_exploration": "rnd"},
    "quantile squared": {"critic": "quantile", "quantiles": 8, "quantile_loss": "squared"},
    "q alone": {"value": "none"},
    "q alone after": {"value": "none", "extraction": "after", "dropout": 0.1},
    "average": {"actor_average": 0.2, "dropout": 0.1},
    "everything": {
        "policy": "blended", "blend_updates": 6, "actor_average": 0.1,
        "trunk": "d2rl", "critics": 4, "critic_subset": 2,
        "critic_layer_norm": True, "critic_dropout": 0.1, "dropout": 0.1, "critic": "quantile", "quantiles": 8,
        "anti_exploration": "cvae",
    },
}  # fmt: skip


def test_the_blend_goes_from_none_to_all_over_the_first_online_updates() -> None:
    learner = make_learner(offline_steps=4, policy="blended", blend_updates=4)
    rng = np.random.default_rng(0)
    blends = [learner.update(random_transitions(rng)).get("blend") for _ in range(11)]
    assert blends[:4] == [None] * 4  # offline the policy is AWR's, and Q's gradient is not even computed
    assert [float(b) for b in blends[4:] if b is not None] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_offline_blended_is_awr_bit_for_bit() -> None:
    blended, awr = make_learner(policy="blended"), make_learner()
    for learner in (blended, awr):
        learn(learner, np.random.default_rng(0), 10)
    assert digest(blended) == digest(awr)


def test_blended_to_the_end_follows_the_loss_of_ddpg_bc() -> None:
    blended, ddpg = (make_learner(policy=p, offline_steps=0, blend_updates=1) for p in ("blended", "ddpg_bc"))
    blended.updates = ddpg.updates = 5
    batch = random_transitions(np.random.default_rng(0))
    torch.testing.assert_close(blended.update(batch)["actor_loss"], ddpg.update(batch)["actor_loss"])


def test_the_published_actor_is_the_learned_one_offline_and_follows_it_by_the_rate_online() -> None:
    learner, rng = make_learner(offline_steps=3, actor_average=0.25, dropout=0.1), np.random.default_rng(0)
    expected: dict[str, np.ndarray] = {}
    for update in range(6):
        learner.update(random_transitions(rng))
        learned = {name: weight.detach().numpy().copy() for name, weight in learner.learned_actor.named_parameters()}
        rate = 1.0 if update < 3 else 0.25
        expected = {name: (1 - rate) * expected.get(name, 0.0) + rate * weight for name, weight in learned.items()}
        for name, weight in learner.actor.named_parameters():
            np.testing.assert_allclose(weight.numpy(), expected[name], rtol=1e-5, atol=1e-7)
    assert digest(learner) != digest(make_learner(offline_steps=3, actor_average=0.25, dropout=0.1))


def test_averaging_changes_what_is_published_and_nothing_that_is_learned() -> None:
    averaged, plain = (make_learner(offline_steps=3, actor_average=rate) for rate in (0.1, 0.0))
    for learner in (averaged, plain):
        learn(learner, np.random.default_rng(0), 8)
    torch.testing.assert_close(averaged.learned_actor.state_dict(), plain.actor.state_dict(), rtol=0, atol=0)
    difference = averaged.actor.trunk.layers[0].weight - plain.actor.trunk.layers[0].weight
    assert float(difference.detach().abs().max()) > 1e-5


def test_going_back_to_an_actor_sets_the_learned_and_the_published_one() -> None:
    learner, rng = make_learner(offline_steps=2, actor_average=0.1), np.random.default_rng(0)
    learn(learner, rng, 2)
    kept = {name: tensor.clone() for name, tensor in learner.actor.state_dict().items()}
    learn(learner, rng, 5)
    learner.set_actor(kept)
    for actor in (learner.actor, learner.learned_actor):
        torch.testing.assert_close(actor.state_dict(), kept, rtol=0, atol=0)
    assert all(float(tensor.abs().max()) == 0.0 for tensor in learner.optimizers["actor"].state_dict().values())


@pytest.mark.parametrize("name", OPTIONS)
def test_a_resume_in_the_midst_goes_on_bit_for_bit(name: str) -> None:
    options, rng = OPTIONS[name], np.random.default_rng(0)
    batches = [random_transitions(rng) for _ in range(16)]
    whole = make_learner(offline_steps=6, **options)
    for batch in batches[:9]:
        whole.update(batch)
    resumed = make_learner(seed=5, offline_steps=6, **options)
    resumed.load_state_dict(whole.state_dict())
    for learner in (whole, resumed):
        for batch in batches[9:]:
            learner.update(batch)
    assert digest(resumed) == digest(whole)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name == "everything" else pytest.mark.full) for name in OPTIONS],
)
def test_compiled_updates_are_the_eager_ones(name: str) -> None:
    # Each part of an update is a graph of its own, and compiling takes seconds: one part for the normal run.
    offline_steps = 0 if name == "everything" else 3
    plain, compiled = (make_learner(offline_steps=offline_steps, **OPTIONS[name]) for _ in range(2))
    compiled.executor = Compiled(pytest.fail)
    for learner in (plain, compiled):
        learn(learner, np.random.default_rng(0), 8)
    ours = compiled.state_dict()["tensors"]
    for key, tensor in plain.state_dict()["tensors"].items():
        if tensor.is_floating_point():
            torch.testing.assert_close(ours[key], tensor, rtol=1e-3, atol=1e-4, msg=lambda text, k=key: f"{k}: {text}")


def test_a_policy_that_follows_q_leaves_the_data_where_q_says_so_and_awr_does_not() -> None:
    # The data's actions are around 0; reward rises with the action. AWR stays among them, ddpg_bc goes beyond.
    rng = np.random.default_rng(0)

    def trained(policy: Any) -> float:
        learner = make_learner(policy=policy, bc_weight=0.1, offline_steps=400, learning_rate=3e-3)
        for _ in range(400):
            batch = random_transitions(rng)
            action = torch.from_numpy(rng.normal(scale=0.2, size=(32, 2)).astype(np.float32)).clamp(-1, 1)
            batch = type(batch)(
                observation=batch.observation, action=action, reward=action.sum(-1), discount=torch.zeros(32),
                next_observation=batch.next_observation,
            )  # fmt: skip
            learner.update(batch)
        with torch.no_grad():
            return float(torch.tanh(learner.actor(random_transitions(rng, 256).observation)).mean())

    assert trained("awr") < 0.4
    assert trained("ddpg_bc") > 0.6


@pytest.mark.parametrize("policy", ["deterministic", "ddpg_bc"])
def test_the_exploration_noise_takes_the_spread_of_the_data(policy: Any) -> None:
    # Actions that nothing about the state tells: their deviation is what is left around any mean.
    rng = np.random.default_rng(1)
    learner = make_learner(policy=policy, bc_weight=10.0, offline_steps=1, learning_rate=1e-2)
    for _ in range(300):
        batch = random_transitions(rng)
        action = torch.from_numpy(rng.normal(scale=0.3, size=(32, 2)).astype(np.float32)).clamp(-1, 1)
        learner.update(
            type(batch)(
                observation=batch.observation,
                action=action,
                reward=torch.zeros(32),
                discount=torch.zeros(32),
                next_observation=batch.next_observation,
            )
        )
    std = learner.actor.clamped_log_std().exp()
    assert bool(((std > 0.2) & (std < 0.45)).all()), std


@pytest.mark.parametrize("options", [{}, {"critic": "quantile", "quantiles": 4}])
def test_a_subset_is_drawn_anew_and_its_minimum_is_over_its_members_alone(options: dict[str, Any]) -> None:
    learner = make_learner(critics=4, critic_subset=2, trunk="d2rl", critic_layer_norm=True, **options)
    rng, seen = np.random.default_rng(0), set()
    for _ in range(40):
        batch = random_transitions(rng)
        with torch.no_grad():
            everyone = learner.critics.target(batch.observation, batch.action)
        told = learner.update(batch)
        i, j = sorted(learner.critics.subset.chosen.tolist())
        assert i < j
        seen.add((i, j))
        torch.testing.assert_close(told["advantage"] + told["v"], torch.minimum(everyone[i], everyone[j]))
    assert len(seen) == 6  # every pair


def test_a_whole_ensemble_draws_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    for size in (0, 3):
        subset = Subset(3, size, generator=generator, device=torch.device("cpu"))
        subset.draw()
        assert subset.members is None
    assert torch.equal(generator.get_state(), before)


def test_dropout_of_the_critics_is_in_their_loss_alone() -> None:
    learner = make_learner(critic_dropout=0.5)
    batch = random_transitions(np.random.default_rng(0))
    learner.critics.online.draw_masks(32)
    with torch.no_grad():
        plain = learner.critics.online(batch.observation, batch.action)
        assert torch.equal(plain, learner.critics.online(batch.observation, batch.action))
        assert not torch.equal(plain, learner.critics.online(batch.observation, batch.action, masked=True))
        assert torch.equal(plain, learner.critics.target(batch.observation, batch.action))
