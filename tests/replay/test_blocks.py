"""Blocks of batches and annealed mixtures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replay import MixedSampler, Store
from replay.errors import SchemaError
from replay.sampler import TransitionSampler
from tests.replay import formula
from tests.replay.test_sampling import fill


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.create(tmp_path / "s.zarr", formula.spec(), chunk_rows=formula.CHUNK_ROWS)
    fill(store, "a", [60, 3, 200])
    return store


@pytest.fixture
def online(tmp_path: Path) -> Store:
    store = Store.create(tmp_path / "online.zarr", formula.spec(), chunk_rows=formula.CHUNK_ROWS)
    fill(store, "live", [20, 30, 2], tag=1)
    return store


def mixture(store: Store, online: Store, seed: int) -> MixedSampler:
    rng = np.random.default_rng(seed)
    return MixedSampler([(store.sampler(9, rng=rng), 40), (online.sampler(9, rng=rng), 3)], until=[7, 36], steps=30)


@pytest.mark.parametrize("mixed", [False, True])
def test_a_block_equals_successive_batches_and_is_reused(store: Store, online: Store, mixed: bool) -> None:
    def make() -> MixedSampler | TransitionSampler:
        if mixed:
            return mixture(store, online, 4)
        return store.sampler(43, rng=np.random.default_rng(4), n_step=2, gamma=0.9)

    one, blocks = make(), make()
    first = blocks.next_block(5)
    buffer = first.packed
    given = np.full((5, 43, buffer.shape[2]), np.nan, np.float32)
    for k in range(5):
        batch = one.next()
        np.testing.assert_array_equal(first.packed[k], batch.packed)
        np.testing.assert_array_equal(first[k].next_observations, batch.next_observations)
        if batch.discounts is not None:
            np.testing.assert_array_equal(first[k].discounts, batch.discounts)
    second = blocks.next_block(5)
    assert second is first and second.packed is buffer
    for k in range(5):
        np.testing.assert_array_equal(second.packed[k], one.next().packed)
    third = blocks.next_block(5, given)
    assert third.packed is given and third.observations.shape == (5, 43, formula.OBSERVATION)
    for k in range(5):
        np.testing.assert_array_equal(given[k], one.next().packed)
    assert blocks.next_block(5).packed is buffer
    for wrong in (given[:, :, :-1], given[:4], given.astype(np.float64)):
        with pytest.raises(SchemaError, match="C-contiguous float32"):
            blocks.next_block(5, wrong)
    with pytest.raises(SchemaError, match="at least 1"):
        blocks.next_block(0)


@pytest.mark.parametrize("mixed", [False, True])
def test_the_state_behind_each_batch_of_a_block_goes_on_with_the_next(store: Store, online: Store, mixed: bool) -> None:
    def make(seed: int) -> MixedSampler | TransitionSampler:
        return mixture(store, online, seed) if mixed else store.sampler(43, rng=np.random.default_rng(seed))

    drawing = make(4)
    states: list[dict[str, Any]] = []
    block = drawing.next_block(5, after=lambda: states.append(drawing.state_dict()))
    assert states[-1] == drawing.state_dict()
    for k in range(4):
        resumed = make(5)
        resumed.load_state_dict(json.loads(json.dumps(states[k])))
        np.testing.assert_array_equal(resumed.next().packed, block.packed[k + 1])


def test_annealed_counts_are_exact_linear_and_resume(store: Store, online: Store) -> None:
    sampler, counts = mixture(store, online, 0), []
    for _ in range(40):
        announced = sampler.counts
        tags = sampler.next().observations[:, 0].astype(int)
        assert tags.tolist() == sorted(tags.tolist()) and len(tags) == 43
        counts.append(int((tags == 0).sum()))
        assert announced == [counts[-1], 43 - counts[-1]]
    assert counts[0] == 40 and set(counts[30:]) == {7}
    np.testing.assert_allclose(counts[:30], 40 - 33 * np.arange(30) / 30, atol=0.5)
    again = mixture(store, online, 0)
    for _ in range(13):
        again.next()
    state = json.loads(json.dumps(again.state_dict()))
    resumed = mixture(store, online, 1)
    resumed.load_state_dict(state)
    for k in range(13, 40):
        batch = resumed.next()
        assert int((batch.observations[:, 0] == 0).sum()) == counts[k]
        np.testing.assert_array_equal(batch.packed, again.next().packed)


@pytest.mark.parametrize(
    ("until", "steps", "message"),
    [([7, 35], 30, "same number and sum"), ([43], 30, "same number"), ([7, 36], None, "both"), ([7, 36], 0, "both")],
)
def test_annealing_that_makes_no_sense_is_refused(
    store: Store, online: Store, until: list[int], steps: int | None, message: str
) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(SchemaError, match=message):
        MixedSampler([(store.sampler(9, rng=rng), 40), (online.sampler(9, rng=rng), 3)], until=until, steps=steps)
