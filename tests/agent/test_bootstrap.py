"""From store to target: a time limit bootstraps, a termination does not, no episode leaks into the next."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from agent import losses
from agent.preparation import Preparation
from agent.transitions import Preparer, Transitions
from replay.sampler import UniformSampler
from replay.schema import StoreSpec
from replay.store import Store

GAMMA = 0.9
TERM = {"name": "observation", "offset": 0, "length": 1, "dtype": "float32"}

# Every observation is a number of its own, episode · 100 + step, and V(s) = s, so that a target tells which successor
# it was made from. Each episode has two steps with rewards 1 and 2.
TERMINATED, TRUNCATED, BOTH, CUT = 100.0, 200.0, 300.0, 400.0
UNFINISHED = 900.0
EXPECTED = {
    TERMINATED: 1 + GAMMA * 101,
    TERMINATED + 1: 2.0,
    TRUNCATED: 1 + GAMMA * 201,
    TRUNCATED + 1: 2 + GAMMA * 202,
    # An episode that ends in the task's sense on the very step of its time limit has ended.
    BOTH: 1 + GAMMA * 301,
    BOTH + 1: 2.0,
    # Cut by a fault: nothing ended, so V goes on.
    CUT: 1 + GAMMA * 401,
    CUT + 1: 2 + GAMMA * 402,
    # The running episode: its second step has no successor yet and cannot be drawn.
    UNFINISHED: 1 + GAMMA * 901,
}


@pytest.fixture(params=[2, 3, 64], ids="chunks of {}".format)
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Store:
    """The episodes one after another, with chunk borders inside and between them, and a second stream."""
    spec = StoreSpec.from_terms([TERM], [-1.0], [1.0])
    store = Store.create(tmp_path / "store", spec, chunk_rows=request.param)
    with store.writer("main", durability="process") as writer:
        for start in (TERMINATED, TRUNCATED, BOTH, CUT):
            for step in (0, 1):
                writer.append(
                    np.array([start + step]), np.array([0.5]), 1.0 + step,
                    terminated=step == 1 and start in (TERMINATED, BOTH),
                    truncated=step == 1 and start in (TRUNCATED, BOTH),
                    next_observation=np.array([start + step + 1]), first=step == 0,
                )  # fmt: skip
            if start == CUT:
                writer.cut(np.array([start + 2]))
    with store.writer("running", durability="process") as writer:
        for step in (0, 1):
            writer.append(
                np.array([UNFINISHED + step]), np.array([0.5]), 1.0 + step,
                terminated=False, truncated=False, next_observation=None, first=step == 0,
            )  # fmt: skip
    return store


def prepare(store: Store, batches: int = 20) -> list[Transitions]:
    identity = Preparation(
        mean=np.zeros(1, np.float32), std=np.ones(1, np.float32), clip=1e6, count=1,
        action_low=np.float32([-1]), action_high=np.float32([1]),
        reward_scale=1.0, reward_shift=0.0, discount=GAMMA,
    )  # fmt: skip
    sampler = UniformSampler(store.reader(), 32, rng=np.random.default_rng(0))
    preparer = Preparer(identity, torch.device("cpu"))
    return [preparer(sampler.next()) for _ in range(batches)]


def targets(transitions: Transitions) -> torch.Tensor:
    return losses.td_target(transitions.reward, transitions.discount, transitions.next_observation[:, 0])


def test_targets_bootstrap_through_time_limits_and_cuts_but_not_through_terminations(store: Store) -> None:
    seen = set()
    for transitions in prepare(store):
        for state, target in zip(transitions.observation[:, 0].tolist(), targets(transitions).tolist(), strict=True):
            assert target == pytest.approx(EXPECTED[state], rel=1e-6), f"state {state}"
            seen.add(state)
    assert seen == set(EXPECTED)


def test_a_successor_is_always_of_the_same_episode(store: Store) -> None:
    for transitions in prepare(store):
        assert torch.equal(transitions.next_observation, transitions.observation + 1)


def test_treating_a_time_limit_as_an_end_would_give_another_target(store: Store) -> None:
    # The negative control for the first test.
    batch = UniformSampler(store.reader(), 256, rng=np.random.default_rng(0)).next()
    limit = (batch.truncated == 1) & (batch.terminated == 0)
    assert limit.any()
    wrong = batch.rewards + GAMMA * (1 - np.maximum(batch.terminated, batch.truncated)) * batch.next_observations[:, 0]
    right = np.array([EXPECTED[float(s)] for s in batch.observations[:, 0]])
    assert (np.abs(wrong - right)[limit] > 100).all()
    np.testing.assert_allclose(wrong[~limit], right[~limit], rtol=1e-6)
