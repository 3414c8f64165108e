"""Episodes with any exported policy, and their score. Torch-free: what is scored is what is deployed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
from export.contract import Contract
from export.contract_parts import ObservationTerm as PolicyTerm
from export.runner import PolicyRunner
from replay.schema import ObservationTerm as ReplayTerm
from replay.schema import StoreSpec

# Evaluation episodes are seeded from a branch of their own, so that they never coincide with training's.
EVALUATION_BRANCH = 7_777
MOST_TERMS = 4
"""So many terms of an observation are listed in a message."""

Bounds = Sequence[float]
Terms = Sequence[ReplayTerm] | Sequence[PolicyTerm]


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


def make_matching_env(env_spec: dict[str, object], made_for: StoreSpec | Contract, *, what: str) -> FlatEnv:
    """The environment of `env_spec`, checked to have the layout that `what`, a store or policy, was made for."""
    env = make_env(
        str(env_spec["id"]),
        kwargs=env_spec.get("kwargs") or {},  # type: ignore[arg-type]
        max_episode_steps=env_spec.get("max_episode_steps"),  # type: ignore[arg-type]
    )
    try:
        check_layout(env, made_for, what=what)
    except RunError:
        env.close()
        raise
    return env


def check_layout(env: FlatEnv, made_for: StoreSpec | Contract, *, what: str) -> None:
    """RunError unless `env` has the observation layout and action bounds that `what` was made for."""
    described = describe(env)
    has = StoreSpec.from_terms(described["observation"], described["action_low"], described["action_high"])
    if has.layout_fingerprint == made_for.layout_fingerprint:
        return
    if isinstance(made_for, StoreSpec):
        own, anew = (made_for.action_low, made_for.action_high), ""
    else:
        own, anew = (made_for.action.low, made_for.action.high), " and train anew"
    differences = [*different_terms(made_for.observation, has.observation)]
    if len(own[0]) != has.action_size:
        differences.append(f"{len(own[0])} action entries against {has.action_size}")
    mend = "give the --env that it was made for"
    if not differences:
        differences = [*different_bounds(own, (has.action_low, has.action_high))]
        mend += f", or ingest its data again with --env {env.env_id}{anew}"
    raise RunError(
        f"{what} was made for another layout than environment {env.env_id} has, "
        f"{'; '.join(differences) or 'by its fingerprint'}: {mend}"
    )


def different_terms(ours: Terms, theirs: Terms) -> Iterator[str]:
    """How the terms `ours`, of a store or policy, differ from `theirs`, of an environment, in words."""
    mine, other = ([f"{term.name}[{term.length}]" for term in terms] for terms in (ours, theirs))
    if len(mine) == len(other) > MOST_TERMS and mine != other:
        yield "observation " + next(f"{a} against {b}" for a, b in zip(mine, other, strict=True) if a != b)
    elif mine != other:
        sizes = [sum(term.length for term in terms) for terms in (ours, theirs)]
        yield f"{sizes[0]} observation entries ({listed(mine)}) against {sizes[1]} ({listed(other)})"


def different_bounds(ours: tuple[Bounds, Bounds], theirs: tuple[Bounds, Bounds]) -> Iterator[str]:
    """The first action entry whose (low, high) differ, and how many more do."""
    each = [
        (index, mine, other)
        for index, (mine, other) in enumerate(zip(zip(*ours, strict=True), zip(*theirs, strict=True), strict=True))
        if not np.array_equal(np.asarray(mine, np.float32), np.asarray(other, np.float32))
    ]
    for index, mine, other in each[:1]:
        more = f", and {len(each) - 1} more entries" if len(each) > 1 else ""
        yield f"action[{index}] from {mine[0]:g} to {mine[1]:g} against {other[0]:g} to {other[1]:g}{more}"


def listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = [f"and {len(names) - MOST_TERMS} more"] if len(names) > MOST_TERMS else []
    return ", ".join([*names[:MOST_TERMS], *more])
