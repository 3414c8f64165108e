"""What the expectile does on problems small enough to solve exactly: V grows with τ towards the in-sample maximum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from agent import losses
from agent.algorithms.iql import IQL
from agent.algorithms.iql_config import IQLConfig
from agent.transitions import Transitions

GAMMA = 0.9
STATES, RIGHT, LEFT, UNSEEN = 5, 0, 1, 2
TAUS = (0.5, 0.7, 0.9, 0.99)


@dataclass(frozen=True, kw_only=True)
class Data:
    """Logged transitions of a tabular task, all [n]."""

    state: Tensor
    action: Tensor
    reward: Tensor
    terminated: Tensor
    next_state: Tensor


def chain() -> Data:
    """In each of five states once right and once left; right of the last state is the goal: reward 1, the end."""
    rows = []
    for state in range(STATES):
        goal = state == STATES - 1
        rows.append((state, RIGHT, float(goal), float(goal), min(state + 1, STATES - 1)))
        rows.append((state, LEFT, 0.0, 0.0, max(state - 1, 0)))
    state, action, reward, terminated, following = zip(*rows, strict=True)
    return Data(
        state=torch.tensor(state),
        action=torch.tensor(action),
        reward=torch.tensor(reward),
        terminated=torch.tensor(terminated),
        next_state=torch.tensor(following),
    )


def fit_tables(data: Data, expectile: float, *, sweeps: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """V [S] and Q [S, 3] by gradient descent on the real losses; the action that is never seen starts at Q = 100."""
    v = torch.zeros(int(data.next_state.max()) + 1, requires_grad=True)
    q = torch.zeros(len(v), 3)
    q[:, UNSEEN] = 100.0
    q.requires_grad_()
    optimizer = torch.optim.SGD([v, q], lr=0.2)
    for _ in range(sweeps):
        seen = q[data.state, data.action]
        target = losses.td_target(data.reward, GAMMA * (1 - data.terminated), v[data.next_state].detach())
        # Times the number of states: a step's size then does not depend on how many states or rows there are.
        loss = losses.td_loss(seen[None], target) + losses.expectile_loss(seen.detach() - v[data.state], expectile)
        optimizer.zero_grad()
        (loss * 2 * len(v)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return v.detach().numpy(), q.detach().numpy()


def exact_chain_values(expectile: float) -> np.ndarray:
    """V [S] by iteration: of two equally frequent actions the τ-expectile is τ·max + (1 − τ)·min."""
    v = np.zeros(STATES)
    for _ in range(1000):
        right = np.append(GAMMA * v[1:], 1.0)
        left = GAMMA * v[[0, *range(STATES - 1)]]
        v = expectile * np.maximum(right, left) + (1 - expectile) * np.minimum(right, left)
    return v


@pytest.mark.parametrize("expectile", TAUS)
def test_tables_reach_the_exact_expectile_values(expectile: float) -> None:
    v, _ = fit_tables(chain(), expectile)
    np.testing.assert_allclose(v, exact_chain_values(expectile), atol=1e-4)


def test_values_grow_with_tau_in_every_state_towards_the_in_sample_maximum() -> None:
    best = GAMMA ** np.arange(STATES - 1, -1, -1)  # always right, the best of the actions in the data
    values = np.stack([fit_tables(chain(), tau)[0] for tau in (*TAUS, 0.999)])
    assert (np.diff(values, axis=0) > 0).all()
    assert (values <= best + 1e-4).all()
    np.testing.assert_allclose(values[-1], best, atol=0.02)
    assert values[0, 0] < 0.5 * best[0]


def test_tau_one_half_is_the_value_of_the_behaviour() -> None:
    # The behaviour goes right or left with equal odds: V = ½(r + γP V), a linear system.
    move = np.zeros((STATES, STATES))
    for state in range(STATES):
        move[state, max(state - 1, 0)] += 0.5
        if state < STATES - 1:
            move[state, state + 1] += 0.5
    reward = np.eye(STATES)[-1] * 0.5
    v, _ = fit_tables(chain(), 0.5)
    np.testing.assert_allclose(v, np.linalg.solve(np.eye(STATES) - GAMMA * move, reward), atol=1e-4)


def test_an_action_outside_the_data_is_never_asked_for_its_value() -> None:
    v, q = fit_tables(chain(), 0.999)
    assert (q[:, UNSEEN] == 100.0).all()
    assert v.max() < 1.01


def lucky() -> Data:
    """One state, the end after it. Action 0 pays 10 once in ten times, else nothing; action 1 always pays 2."""
    return Data(
        state=torch.zeros(20, dtype=torch.long),
        action=torch.tensor([0] * 10 + [1] * 10),
        reward=torch.tensor([10.0] + [0.0] * 9 + [2.0] * 10),
        terminated=torch.ones(20),
        next_state=torch.zeros(20, dtype=torch.long),
    )


def test_a_lucky_transition_does_not_pass_for_a_good_action() -> None:
    v, q = fit_tables(lucky(), 0.99)
    assert q[0, 0] == pytest.approx(1.0, abs=0.05)  # the mean over the luck, not the luck
    assert v[0] == pytest.approx(2.0, abs=0.05)  # the best action, not the luckiest outcome


def test_an_expectile_over_outcomes_would_be_fooled_by_luck() -> None:
    # The negative control: equation 4 of the paper, V fitted to the targets instead of to Q.
    rewards = lucky().reward
    v = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([v], lr=0.5)
    for _ in range(2000):
        optimizer.zero_grad()
        losses.expectile_loss(rewards - v, 0.99).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert v.item() > 6.0


def test_the_learner_itself_orders_its_values_by_tau() -> None:
    data = chain()
    batch = Transitions(
        observation=torch.eye(STATES)[data.state],
        action=torch.where(data.action == RIGHT, 1.0, -1.0)[:, None],
        reward=data.reward,
        discount=GAMMA * (1 - data.terminated),
        next_observation=torch.eye(STATES)[data.next_state],
    )
    values = []
    for expectile in (0.5, 0.8, 0.98):
        learner = IQL(
            IQLConfig(
                hidden=(32,), expectile=expectile, learning_rate=3e-3, target_rate=0.1, discount=GAMMA, critics=1
            ),
            observation_size=STATES,
            action_size=1,
            offline_steps=10_000,
            generator=torch.Generator().manual_seed(0),
        )
        for _ in range(700):
            learner.update(batch)
        with torch.no_grad():
            values.append(learner.value(torch.eye(STATES)).squeeze(-1).numpy())
        np.testing.assert_allclose(values[-1], exact_chain_values(expectile), atol=0.05)
    assert (np.diff(np.stack(values), axis=0) > 0).all()
    with torch.no_grad():
        assert (learner.actor(torch.eye(STATES)) > 0).all()  # and the policy of the largest τ goes right
