"""Diagnostics equal what is worked out by hand, and leave the training as it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from agent.diagnostics import STATES, Diagnostics, bins, dead_units, draw_episodes, effective_rank
from agent.divergence import check_bounds, check_finite
from agent.errors import DivergenceError
from agent.preparation import make_preparation
from agent.transitions import Preparer
from replay.schema import StoreSpec
from replay.store import Store
from tests.agent.learners import ACTIONS, OBSERVATIONS, digest, learn, make_algorithm, make_learner, random_transitions

GAMMA = 0.9


def orthogonal(rows: int, columns: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)))[0]


def test_the_effective_rank_counts_the_singular_values_up_to_ninety_nine_hundredths() -> None:
    # 50 + 49 = 99 of 100: two of the three are enough; with 50, 48.9 and 1.1 it takes the third.
    left, right = orthogonal(100, 3), orthogonal(3, 3)
    assert effective_rank(left @ torch.diag(torch.tensor([50.0, 49.2, 0.8])) @ right) == 2
    assert effective_rank(left @ torch.diag(torch.tensor([50.0, 48.8, 1.2])) @ right) == 3
    assert effective_rank(torch.zeros(100, 3)) == 0


def test_the_effective_rank_is_that_of_a_full_decomposition() -> None:
    features = torch.relu(torch.randn(2048, 64, generator=torch.Generator().manual_seed(1))) @ torch.diag(
        torch.logspace(0, -4, 64)
    )
    singular = torch.linalg.svdvals(features.double())
    expected = int((singular.cumsum(0) / singular.sum() < 0.99).sum()) + 1
    assert 5 < expected < 60
    assert effective_rank(features) == expected


def test_a_unit_is_dead_where_no_state_passes_it() -> None:
    first = torch.tensor([[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 2.0, 0.0]])
    second = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    assert dead_units([first, second]) == pytest.approx(3 / 6)
    assert dead_units([torch.stack([first, first + 1.0])]) == pytest.approx(2 / 8)  # an ensemble of two


def test_bins_average_neighbours_in_the_order_of_q() -> None:
    q = torch.arange(40.0).flip(0)
    found = bins(q, 2 * q)
    assert found["q"] == [0.5 + 2 * i for i in range(20)]
    assert found["return"] == [1.0 + 4 * i for i in range(20)]


def make_store(path: Path, *, lengths: tuple[int, ...], ended: bool) -> Store:
    terms = [{"name": "observation", "offset": 0, "length": OBSERVATIONS, "dtype": "float32"}]
    store = Store.create(path, StoreSpec.from_terms(terms, [-2.0] * ACTIONS, [2.0] * ACTIONS), chunk_rows=64)
    rng = np.random.default_rng(0)
    with store.writer("data", durability="process") as writer:
        for length in lengths:
            writer.append_episode(
                rng.normal(size=(length + 1, OBSERVATIONS)), rng.uniform(-2, 2, (length, ACTIONS)),
                np.arange(1.0, length + 1), terminated=ended, truncated=not ended,
            )  # fmt: skip
    return store


def preparer() -> Preparer:
    return Preparer(
        make_preparation(
            moments=(np.zeros(OBSERVATIONS), np.ones(OBSERVATIONS), 10), action_low=np.full(ACTIONS, -2.0),
            action_high=np.full(ACTIONS, 2.0), normalize=True, clip=10.0, reward_scale=2.0, reward_shift=-1.0,
            discount=GAMMA,
        ),
        torch.device("cpu"),
    )  # fmt: skip


def test_returns_are_discounted_sums_of_the_rewards_that_the_learner_sees(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", lengths=(3,), ended=True)
    steps = draw_episodes(store.reader(), preparer(), np.random.default_rng(0))
    # Rewards 1, 2, 3 become 1, 3, 5: 1 + 0.9·3 + 0.81·5 = 7.75;  3 + 0.9·5 = 7.5;  5
    assert steps.reward_to_go.tolist() == pytest.approx([7.75, 7.5, 5.0])
    assert steps.tail.tolist() == [0.0, 0.0, 0.0]


def test_what_follows_a_cut_is_left_to_the_value_there(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", lengths=(3,), ended=False)
    steps = draw_episodes(store.reader(), preparer(), np.random.default_rng(0))
    # 1 + 0.9·3, 3, and nothing: the value of the last step stands for its own reward too.
    assert steps.reward_to_go.tolist() == pytest.approx([3.7, 3.0, 0.0])
    assert steps.tail.tolist() == pytest.approx([0.81, 0.9, 1.0])
    assert steps.last.tolist() == [2, 2, 2]


@pytest.mark.parametrize("name", ["iql", "bc"])
def test_measuring_changes_nothing_and_says_what_there_is(name: str, tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", lengths=(30, 40, 50), ended=True)
    algorithm = make_algorithm(name, dropout=0.1)
    learn(algorithm, np.random.default_rng(0), 3)
    before = digest(algorithm)
    measured = Diagnostics(store, preparer(), np.random.default_rng(0)).measure(algorithm)
    assert digest(algorithm) == before
    assert algorithm.actor.trunk.training
    expected = {"srank_actor", "dead_units_actor"}
    if name == "iql":
        expected |= {"srank_critic", "dead_units_critic", "calibration"}
        assert len(measured["calibration"]["q"]) == len(measured["calibration"]["return"]) == 20
        assert measured["calibration"]["q"] == sorted(measured["calibration"]["q"])
    assert set(measured) == expected
    assert 1 <= measured["srank_actor"] <= 16


def test_a_critic_that_knows_the_returns_is_found_calibrated(tmp_path: Path) -> None:
    # One-step episodes whose reward is all there is, and critics trained to say it.
    terms = [{"name": "observation", "offset": 0, "length": 1, "dtype": "float32"}]
    store = Store.create(tmp_path / "store", StoreSpec.from_terms(terms, [-1.0], [1.0]), chunk_rows=64)
    rng = np.random.default_rng(0)
    with store.writer("data", durability="process") as writer:
        for _ in range(400):
            action = rng.uniform(-1, 1)
            writer.append_episode([[0.0], [0.0]], [[action]], [10 * action], terminated=True, truncated=False)
    prepare = Preparer(
        make_preparation(
            moments=(np.zeros(1), np.ones(1), 10), action_low=np.array([-1.0]), action_high=np.array([1.0]),
            normalize=True, clip=10.0, reward_scale=1.0, reward_shift=0.0, discount=GAMMA,
        ),
        torch.device("cpu"),
    )  # fmt: skip
    from agent import algorithms
    from agent.algorithms.iql_config import IQLConfig

    learner = algorithms.make(
        IQLConfig(hidden=(32,), learning_rate=1e-2), observation_size=1, action_size=1, offline_steps=1000,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    diagnostics = Diagnostics(store, prepare, np.random.default_rng(0))
    sampler = store.sampler(64, rng=np.random.default_rng(1))

    def error() -> float:
        found = diagnostics.measure(learner)["calibration"]
        return float(np.abs(np.subtract(found["q"], found["return"])).mean())

    untrained = error()
    for _ in range(300):
        learner.update(prepare(sampler.next()))
    assert error() < 0.5 < untrained


def test_measured_states_are_at_least_the_promised_number_and_stay_the_same(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", lengths=(500,) * 10, ended=True)
    diagnostics, algorithm = Diagnostics(store, preparer(), np.random.default_rng(0)), make_learner()
    assert STATES >= 2048
    first = diagnostics.measure(algorithm)
    assert len(diagnostics._states) == STATES
    assert diagnostics.measure(algorithm) == first


# --- gradient norms and the alarm -------------------------------------------------------------------------------------


def test_gradient_norms_are_those_of_the_losses_gradients() -> None:
    learner, twin = make_learner(), make_learner()
    rng = np.random.default_rng(0)
    learner.gradients_every = 3
    for count in range(1, 7):
        batch = random_transitions(rng)
        result = learner.update(batch)
        # The same update by a twin, whose value gradient is taken by hand before.
        with torch.no_grad():
            q_hat = twin.critics.target(batch.observation, batch.action).amin(0)
        from agent import losses

        loss = losses.expectile_loss(q_hat - twin.value(batch.observation).squeeze(-1), twin.config.expectile)
        expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(twin.value.parameters()))]).norm()
        twin.update(batch)
        if count % 3:
            assert not any(name.startswith("grad_norm") for name in result)
        else:
            assert {name for name in result if name.startswith("grad_norm")} == {
                "grad_norm_value", "grad_norm_critic", "grad_norm_actor",
            }  # fmt: skip
            torch.testing.assert_close(result["grad_norm_value"], expected, rtol=1e-4, atol=1e-6)


def test_watching_gradients_changes_no_bit_of_the_training() -> None:
    watched, plain = make_learner(), make_learner()
    watched.gradients_every = 1
    for learner in (watched, plain):
        learn(learner, np.random.default_rng(0), 10)
    assert digest(watched) == digest(plain)


def test_an_optimiser_that_did_not_step_has_no_gradient_norm() -> None:
    learner = make_learner(extraction="after", offline_steps=4)
    learner.gradients_every = 1
    rng = np.random.default_rng(0)
    first, *_, last = [learner.update(random_transitions(rng)) for _ in range(4)]
    assert "grad_norm_actor" not in first and "grad_norm_value" in first
    assert "grad_norm_actor" in last and "grad_norm_value" not in last


def test_a_gradient_that_is_not_a_number_is_named(tmp_path: Path) -> None:
    learner = make_learner()
    learner.gradients_every = 1
    batch = random_transitions(np.random.default_rng(0))
    batch.action[3, 0] = float("nan")  # the critics and the actor see actions, V does not
    learner.updates = 0
    result = {k: v for k, v in learner.update(batch).items() if k.startswith("grad_norm")}
    with pytest.raises(DivergenceError, match="grad_norm_"):
        check_finite(result, updates=1, checkpoints=tmp_path)


def test_a_policy_that_has_found_absurd_values_is_reported() -> None:
    result = {"q": torch.zeros(2, 4), "q_policy": torch.tensor([0.0, 1e6])}
    with pytest.raises(DivergenceError, match="q_policy has exploded: 1e\\+06"):
        check_bounds(result, largest_reward=1.0, discount=0.99, updates=5)
