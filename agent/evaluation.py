"""Episodes with any exported policy, and their score. Torch-free: what is scored is what is deployed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np

from agent.errors import RunError
from agent.faults import FaultBudget
from agent.scores import Score, summarize
from envs.catalog import lookup
from envs.errors import EnvFault
from envs.make import describe, make_env
from envs.rollout import rollout
from envs.wrappers import FlatEnv
from export.runner import PolicyRunner
from replay.schema import StoreSpec

# Evaluation episodes are seeded from a branch of their own, so that they never coincide with training's.
EVALUATION_BRANCH = 7_777


class Policy(Protocol):
    """What can be scored: `export.PolicyRunner` or anything that acts."""

    def act(self, observation: np.ndarray) -> np.ndarray:
        """[O] float32 → [A] float32 in environment units."""
        ...


def evaluation_rng(seed: int) -> np.random.Generator:
    """The generator that seeds evaluation episodes of run seed `seed`."""
    return np.random.default_rng(np.random.SeedSequence([seed, EVALUATION_BRANCH]))


def evaluate(
    policy: Policy,
    env: FlatEnv,
    *,
    episodes: int,
    rng: np.random.Generator,
    on_episode: Callable[[int], None] = lambda done: None,
) -> Score:
    """Run `episodes` episodes by the policy's mean action and summarise them.

    An episode in which the environment faults is run again; RunError where it does nothing else.
    """
    returns: list[float] = []
    lengths: list[int] = []
    successes: list[float] = []
    budget = FaultBudget()
    while len(returns) < episodes:
        try:
            for episode_return, length, reached in finished_episodes(policy, env, rng):
                returns.append(episode_return)
                lengths.append(length)
                successes.append(reached)
                on_episode(len(returns))
                if len(returns) == episodes:
                    break
        except EnvFault as fault:
            # An episode that the environment broke says nothing about the policy.
            budget.spend(fault, len(returns))
    task = lookup(env.env_id)
    return summarize(
        task,
        np.asarray(returns),
        np.asarray(lengths),
        np.asarray(successes) if task.success_key is not None else None,
    )


def finished_episodes(policy: Policy, env: FlatEnv, rng: np.random.Generator) -> Iterator[tuple[float, int, float]]:
    """(return, steps, success) of one episode after another, for ever."""
    total, length, reached = 0.0, 0, 0.0
    # A recurrent policy starts each episode at its initial state.
    restart = (lambda first: policy.reset()) if isinstance(policy, PolicyRunner) else None
    for step in rollout(env, policy.act, seed_rng=rng, on_reset=restart):
        total, length = total + step.reward, length + 1
        reached = max(reached, float(step.info.get("success", 0.0)))
        if step.terminated or step.truncated:
            yield total, length, reached
            total, length, reached = 0.0, 0, 0.0


def make_matching_env(env_spec: dict[str, object], fingerprint: str, *, what: str) -> FlatEnv:
    """The environment of `env_spec`, checked to have the layout that `what` (a policy or store) was made for."""
    env = make_env(
        str(env_spec["id"]),
        kwargs=env_spec.get("kwargs") or {},  # type: ignore[arg-type]
        max_episode_steps=env_spec.get("max_episode_steps"),  # type: ignore[arg-type]
    )
    check_layout(env, fingerprint, what=what)
    return env


def check_layout(env: FlatEnv, fingerprint: str, *, what: str) -> None:
    """RunError unless `env` has the observation layout and action bounds that `what` was made for."""
    described = describe(env)
    spec = StoreSpec.from_terms(described["observation"], described["action_low"], described["action_high"])
    if spec.layout_fingerprint != fingerprint:
        terms = ", ".join(f"{term.name}[{term.length}]" for term in spec.observation)
        raise RunError(
            f"{what} was made for another layout than environment {env.env_id} has "
            f"({spec.observation_size} observation entries: {terms}; {spec.action_size} action entries): "
            "give the --env that it was made for"
        )
