"""Flagged rows of one store join all rows of another in one pool, each equally often, and resume exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from replay import Store, StoreSpec
from replay.errors import EmptyReplayError
from replay.sampler import MixedSampler, PooledSampler, UniformSampler
from replay.sampling.flagged import Flagged
from replay.sampling.transitions import TransitionSampler

SPEC = StoreSpec.from_terms(
    [{"name": "observation", "offset": 0, "length": 1, "dtype": "float32"}], [-1.0], [1.0], info=()
)


def add(store: Store, stream: str, numbers: list[int], flagged: set[int], *, ended: bool = True) -> None:
    """An episode whose observations are the numbers; those in `flagged` are interventions."""
    with store.writer(stream, durability="process") as writer:
        for place, number in enumerate(numbers):
            last = place == len(numbers) - 1 and ended
            writer.append(
                np.float32([number]), np.zeros(1, np.float32), 0.0, terminated=last, truncated=False,
                next_observation=np.float32([-1]), first=place == 0, intervention=number in flagged,
            )  # fmt: skip


@pytest.fixture
def offline(tmp_path: Path) -> Store:
    store = Store.create(tmp_path / "offline", SPEC, chunk_rows=64)
    add(store, "data", list(range(100, 130)), set())
    return store


@pytest.fixture
def online(tmp_path: Path) -> Store:
    store = Store.create(tmp_path / "online", SPEC, chunk_rows=64)
    add(store, "a", list(range(200, 220)), {203, 204, 219})
    add(store, "b", list(range(300, 310)), {305})
    return store


def drawn(sampler: TransitionSampler | MixedSampler, batches: int) -> np.ndarray:
    return np.concatenate([sampler.next().observations[:, 0].copy() for _ in range(batches)]).astype(int)


def test_every_row_of_the_pool_is_drawn_equally_often_and_no_other(offline: Store, online: Store) -> None:
    base = UniformSampler(offline.reader(), 32, rng=np.random.default_rng(0))
    numbers = drawn(PooledSampler(base, online.reader(), "intervention"), 1000)
    found, counts = np.unique(numbers, return_counts=True)
    assert set(found) == {*range(100, 130), 203, 204, 219, 305}
    # The candidates of an episode end in no step, so a flagged row's share is 1/35 and not 1/34: within 10 %.
    assert np.abs(counts / counts.mean() - 1).max() < 0.2


def test_interventions_are_in_both_halves_of_a_mixture(offline: Store, online: Store) -> None:
    rng, reader = np.random.default_rng(1), online.reader()
    pool = PooledSampler(UniformSampler(offline.reader(), 8, rng=rng), reader, "intervention")
    mixed = MixedSampler([(pool, 8), (UniformSampler(reader, 8, rng=np.random.default_rng(2)), 8)])
    halves: list[set[int]] = [set(), set()]
    for _ in range(300):
        batch = mixed.next()
        flagged = batch.intervention > 0
        for half, places in zip(halves, (slice(0, 8), slice(8, 16)), strict=True):
            half |= set(batch.observations[places][flagged[places], 0].astype(int))
    assert halves == [{203, 204, 219, 305}, {203, 204, 219, 305}]


def test_without_a_flagged_row_the_pool_is_the_base(offline: Store, tmp_path: Path) -> None:
    online = Store.create(tmp_path / "empty", SPEC, chunk_rows=64)
    base = UniformSampler(offline.reader(), 16, rng=np.random.default_rng(3))
    plain = UniformSampler(offline.reader(), 16, rng=np.random.default_rng(3))
    pool = PooledSampler(base, online.reader(), "intervention")
    assert np.array_equal(drawn(pool, 20), drawn(plain, 20))
    reader = online.reader()
    with pytest.raises(EmptyReplayError, match="marked intervention"):
        Flagged(reader, np.random.default_rng(0), "intervention").draw(reader.index, 4)


def test_rows_join_as_they_are_committed_and_only_once_they_can_be_sampled(offline: Store, online: Store) -> None:
    reader = online.reader()
    pool = PooledSampler(UniformSampler(offline.reader(), 64, rng=np.random.default_rng(4)), reader, "intervention")
    assert 401 not in drawn(pool, 30)
    add(online, "a", [400, 401], {401}, ended=False)
    reader.refresh()
    assert 401 not in drawn(pool, 100), "its successor is not committed"
    # The successor begins another episode, after a crash: what 401 led to is unknown for good.
    add(online, "a", list(range(500, 600)), {502, 599})
    reader.refresh()
    numbers = set(drawn(pool, 200))
    assert {502, 599} <= numbers
    assert 401 not in numbers


def test_a_pool_resumes_exactly_though_the_store_has_grown(offline: Store, online: Store) -> None:
    def make(seed: int) -> PooledSampler:
        base = UniformSampler(offline.reader(), 16, rng=np.random.default_rng(seed))
        return PooledSampler(base, online.reader(), "intervention")

    whole = make(5)
    drawn(whole, 7)
    state = whole.state_dict()
    expected = drawn(whole, 20)
    add(online, "a", list(range(600, 640)), set(range(600, 640)))
    again = make(99)
    drawn(again, 3)  # has looked at rows that the state does not know
    again.load_state_dict(state)
    assert np.array_equal(drawn(again, 20), expected)
