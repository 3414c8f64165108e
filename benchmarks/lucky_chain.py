"""A chain on which luck and merit are known exactly: why IQL learns V beside Q (section 4.2 of its paper).

From each of `STATES` states both actions lead to the next, and from the last one to the end. `safe` always pays 1;
`gamble` pays 5 once in ten times, else nothing, so that it is worth 0.5. The data take each half of the time. With
τ → 1 an expectile over *actions* tends to the value of always taking the better one; an expectile over *outcomes* to
that of always being lucky.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from agent.algorithms.iql import IQL
from agent.algorithms.iql_config import IQLConfig
from agent.transitions import Transitions

ASKS = "Does an expectile of the TD error itself, without V, prefer lucky transitions where merit is known?"
STATES = 5
PRIZE, CHANCE, SURE = 5.0, 0.1, 1.0
ACTIONS = {"gamble": -1.0, "safe": 1.0}
EXPECTILES = (0.5, 0.7, 0.9)
UPDATES = 1_500
ROWS = 64

Value = Literal["network", "none"]
LEARNERS: dict[Value, str] = {"network": "IQL", "none": "Q alone"}


@dataclass(frozen=True, kw_only=True)
class Found:
    """One learner at one τ."""

    expectile: float
    learner: str
    exact_preference: float
    """Q(gamble) − Q(safe) at the start; the truth is −0.5."""
    preferences: list[float]
    """The same as learnt, by seed."""
    exact_value: float
    """What the start is held to be worth; the best that a policy can reach is `STATES`, discounted."""
    values: list[float]
    """The same as learnt, by seed."""
    chosen: list[str]
    """Action of the learnt policy at the start, by seed."""


def expectile(values: NDArray[np.float64], weights: NDArray[np.float64], tau: float) -> float:
    """m with Σ w·|τ − 1(x < m)|·(x − m) = 0, by bisection."""
    low, high = float(values.min()), float(values.max())
    for _ in range(100):
        middle = (low + high) / 2
        residual = values - middle
        pull = float((weights * np.where(residual < 0, 1 - tau, tau) * residual).sum())
        low, high = (middle, high) if pull > 0 else (low, middle)
    return (low + high) / 2


def exact(tau: float, value: Value, discount: float) -> tuple[NDArray[np.float64], float]:
    """Q [STATES, 2] (gamble, safe) at the fixed point, and what the start is worth to the learner.

    IQL: Q(s, a) = E[r] + γV(s'), V(s) the τ-expectile of Q(s, ·) over the data's actions. Q alone: Q(s, a) is the
    τ-expectile of r + γQ(s', a') over rewards and the data's next actions a', and a start is worth its best action.
    """
    q = np.zeros((STATES, 2))
    halves = np.array([0.5, 0.5])
    following, odds = np.zeros(1), np.ones(1)
    for state in reversed(range(STATES)):
        for action, (rewards, chances) in enumerate((([0.0, PRIZE], [1 - CHANCE, CHANCE]), ([SURE], [1.0]))):
            outcomes = (np.array(rewards)[:, None] + discount * following[None, :]).ravel()
            likely = (np.array(chances)[:, None] * odds[None, :]).ravel()
            if value == "network":
                q[state, action] = float((outcomes * likely).sum())
            else:
                q[state, action] = expectile(outcomes, likely, tau)
        if value == "network":
            following, odds = np.array([expectile(q[state], halves, tau)]), np.ones(1)
        else:
            following, odds = q[state], halves
    return q, float(following[0]) if value == "network" else float(q[0].max())


def draw(rng: np.random.Generator, rows: int, discount: float) -> Transitions:
    """A batch of the data: states as one-hot vectors, actions −1 (gamble) and 1 (safe)."""
    state = rng.integers(0, STATES, rows)
    gamble = rng.random(rows) < 0.5
    reward = np.where(gamble, PRIZE * (rng.random(rows) < CHANCE), SURE)
    last = state == STATES - 1
    seen = np.eye(STATES + 1, dtype=np.float32)
    following = np.where(rng.random(rows) < 0.5, ACTIONS["gamble"], ACTIONS["safe"])
    return Transitions(
        observation=torch.from_numpy(seen[state]),
        action=torch.from_numpy(np.where(gamble, ACTIONS["gamble"], ACTIONS["safe"]).astype(np.float32)[:, None]),
        reward=torch.from_numpy(reward.astype(np.float32)),
        discount=torch.from_numpy(np.where(last, 0.0, discount).astype(np.float32)),
        next_observation=torch.from_numpy(seen[state + 1]),
        next_action=torch.from_numpy(following.astype(np.float32)[:, None]),
        next_action_known=torch.from_numpy((~last).astype(np.float32)),
    )


def learn(tau: float, value: Value, *, seed: int, updates: int) -> IQL:
    """Slipway's own learner on batches of the chain."""
    config = IQLConfig(
        expectile=tau, value=value, hidden=(32,), learning_rate=3e-3, target_rate=0.05, critics=1, beta=3.0
    )
    learner = IQL(
        config, observation_size=STATES + 1, action_size=1, offline_steps=updates,
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    rng = np.random.default_rng(seed)
    for _ in range(updates):
        learner.update(draw(rng, ROWS, config.discount))
    return learner


@torch.no_grad()
def judged(learner: IQL) -> tuple[NDArray[np.float64], float, NDArray[np.float64]]:
    """Q [STATES, 2], the worth of the start, and the policy's mean action in each state [STATES]."""
    states = torch.eye(STATES + 1)[:STATES]
    parts = learner.networks
    critic = parts["target_critic"]
    q = torch.stack([critic(states, torch.full((STATES, 1), a)).amin(dim=0) for a in ACTIONS.values()], dim=1)
    worth = float(parts["value"](states[:1])) if "value" in parts else float(q[0].max())
    return q.double().numpy(), worth, torch.tanh(learner.actor(states)).squeeze(-1).double().numpy()


def study(*, seeds: int, updates: int) -> list[Found]:
    """Both learners at every τ."""
    made = []
    for tau in EXPECTILES:
        for value, name in LEARNERS.items():
            q, worth = exact(tau, value, IQLConfig().discount)
            told = [judged(learn(tau, value, seed=seed, updates=updates)) for seed in range(seeds)]
            made.append(
                Found(
                    expectile=tau,
                    learner=name,
                    exact_preference=float(q[0, 0] - q[0, 1]),
                    preferences=[float(each[0][0, 0] - each[0][0, 1]) for each in told],
                    exact_value=worth,
                    values=[each[1] for each in told],
                    chosen=["gamble" if each[2][0] < 0 else "safe" for each in told],
                )
            )
    return made
