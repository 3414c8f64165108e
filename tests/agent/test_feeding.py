"""Batches drawn ahead are those that the loop would have drawn itself, and errors and the end of it reach the loop."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agent.feeding import AHEAD, Feed
from agent.preparation import Preparation
from agent.transitions import Preparer
from replay.errors import EmptyReplayError
from replay.sampler import Batch, MixedSampler, UniformSampler
from replay.schema import StoreSpec
from replay.store import Store
from tests.agent.learners import ACTIONS, OBSERVATIONS, digest
from tests.agent.test_learner_state import make_store, train

ROWS = 16


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("feeding") / "store")


def preparer() -> Preparer:
    bounds = np.ones(ACTIONS, np.float32)
    return Preparer(
        Preparation(
            mean=np.full(OBSERVATIONS, 0.25, np.float32), std=np.full(OBSERVATIONS, 0.5, np.float32), clip=2.0, count=1,
            action_low=-2 * bounds, action_high=bounds, reward_scale=0.5, reward_shift=-1.0, discount=0.99,
        ),
        torch.device("cpu"),
    )  # fmt: skip


def sampler_of(store: Store, seed: int = 0) -> UniformSampler:
    return store.sampler(ROWS, rng=np.random.default_rng(seed))


def rewards(feed: Feed, batches: int) -> list[bytes]:
    return [feed.next().reward.numpy().tobytes() for _ in range(batches)]


@pytest.mark.parametrize("consumed", [0, 1, 7, AHEAD, 3 * AHEAD + 5])
def test_a_feed_hands_out_the_batches_of_its_sampler_and_leaves_it_after_the_last_consumed(
    store: Store, consumed: int
) -> None:
    plain, prepare = sampler_of(store), preparer()
    expected = [prepare(plain.next()).reward.numpy().tobytes() for _ in range(consumed + 3)]
    fed = sampler_of(store)
    with Feed(fed, preparer()) as feed:
        assert rewards(feed, consumed) == expected[:consumed]
        time.sleep(0.02)  # the thread draws as far ahead as it may
        state = feed.state_dict()
    assert fed.state_dict() == state
    # Whoever draws next, here or after a resume, goes on without a gap.
    resumed = sampler_of(store, seed=99)
    resumed.load_state_dict(state)
    for sampler in (fed, resumed):
        with Feed(sampler, preparer(), ahead=0) as feed:
            assert rewards(feed, 3) == expected[consumed:]


def test_a_batch_stays_as_it_is_until_the_next_is_asked_for(store: Store) -> None:
    with Feed(sampler_of(store), preparer()) as feed:
        for _ in range(3 * AHEAD):
            transitions = feed.next()
            before = {name: tensor.clone() for name, tensor in vars(transitions).items() if tensor is not None}
            time.sleep(0.001)
            assert all(torch.equal(getattr(transitions, name), tensor) for name, tensor in before.items())


@pytest.mark.parametrize("stop_at", [1, AHEAD + 3, 41])
def test_resume_is_bit_exact_at_any_step_with_the_thread_on(stop_at: int, tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    inline = train(tmp_path / "store", seed=3, updates=60, ahead=0)
    resumed = train(tmp_path / "store", seed=3, updates=60, stop_at=stop_at, folder=tmp_path / "checkpoints")
    assert digest(resumed) == digest(inline)


@pytest.mark.parametrize("ahead", [AHEAD, 0])
def test_new_rows_are_followed_between_blocks(tmp_path: Path, ahead: int) -> None:
    offline = make_store(tmp_path / "offline")
    spec = StoreSpec.from_terms(offline.spec.terms(), [-1.0] * ACTIONS, [1.0] * ACTIONS)
    online = Store.create(tmp_path / "online", spec, chunk_rows=64)

    def append(writer: Any, reward: float) -> None:
        writer.append_episode(
            np.zeros((21, OBSERVATIONS)), np.zeros((20, ACTIONS)), np.full(20, reward),
            terminated=False, truncated=True, info=None,
        )  # fmt: skip

    with online.writer("a", durability="process") as writer:
        append(writer, 0.0)
        reader = online.reader()
        mixed = MixedSampler([
            (sampler_of(offline), ROWS // 2), (UniformSampler(reader, ROWS, rng=np.random.default_rng(1)), ROWS // 2)
        ])  # fmt: skip
        with Feed(mixed, preparer(), ahead=ahead, follow=reader.refresh) as feed:
            seen = feed.state_dict()["parts"][1]["heads"]
            append(writer, 1000.0)
            for _ in range(3 * AHEAD):
                newest = float(feed.next().reward.max())
            assert newest > 400.0  # half of 1000, as the preparation scales it
            assert feed.state_dict()["parts"][1]["heads"]["a"] > seen["a"]
        assert mixed.state_dict() == feed.state_dict()


@pytest.mark.parametrize("ahead", [AHEAD, 0])
def test_what_goes_wrong_in_the_thread_is_raised_in_the_loop(tmp_path: Path, ahead: int) -> None:
    terms = [{"name": "observation", "offset": 0, "length": OBSERVATIONS, "dtype": "float32"}]
    empty = Store.create(tmp_path / "s", StoreSpec.from_terms(terms, [-1.0] * ACTIONS, [1.0] * ACTIONS))
    with Feed(sampler_of(empty), preparer(), ahead=ahead) as feed:
        for _ in range(2):
            with pytest.raises(EmptyReplayError, match="nothing to sample"):
                feed.next()
    assert "sampler" not in {thread.name for thread in threading.enumerate()}


def test_the_thread_ends_with_the_block_also_when_the_loop_fails(store: Store) -> None:
    with pytest.raises(RuntimeError, match="the update"), Feed(sampler_of(store), preparer()) as feed:
        feed.next()
        assert "sampler" in {thread.name for thread in threading.enumerate()}
        raise RuntimeError("the update failed")
    assert "sampler" not in {thread.name for thread in threading.enumerate()}


class Slow(UniformSampler):
    """Draws one batch every 5 ms."""

    def fill(self, batch: Batch) -> None:
        time.sleep(0.005)
        super().fill(batch)


def test_the_time_that_the_loop_waits_is_measured(store: Store) -> None:
    slow = Slow(store.reader(), ROWS, rng=np.random.default_rng(0))
    with Feed(slow, preparer()) as feed:
        for _ in range(40):
            feed.next()
        assert feed.wait_fraction() > 0.7  # nothing but waiting, once the first few are used up
        for _ in range(20):
            feed.next()
            time.sleep(0.03)
        assert feed.wait_fraction() < 0.2  # an update that takes longer than a draw never waits
