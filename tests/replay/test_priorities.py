"""Prioritised draws: proportional to what the learner gave back, with the weights that undo it in expectation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from replay import MixedSampler, Store
from replay.errors import SamplerStateError, SchemaError
from replay.sampler import PooledSampler
from replay.sampling.sum_tree import SLAB, SumTree
from tests.replay import formula
from tests.replay.test_sampling import fill


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.create(tmp_path / "s.zarr", formula.spec(), chunk_rows=formula.CHUNK_ROWS)
    fill(store, "a", [40, 3, 90, 1])
    fill(store, "b", [17] * 4, tag=1)
    return store


def test_the_sum_tree_draws_in_proportion_and_never_a_leaf_without_mass() -> None:
    rng, tree = np.random.default_rng(0), SumTree()
    tree.resize(3)
    leaves = rng.choice(3 * SLAB, 500, replace=False)
    masses = rng.random(500) * 10.0 ** rng.integers(-9, 3, 500)
    tree.assign(leaves, masses)
    tree.assign_range(SLAB - 5, np.full(10, 20.0))  # across two slabs
    np.testing.assert_allclose(tree.total, tree.leaves.sum())
    shares = (np.arange(300_000) + rng.random(300_000)) / 300_000
    drawn = tree.draw(shares)
    assert (tree.leaves[drawn] > 0).all()
    found = np.bincount(drawn, minlength=3 * SLAB) / len(drawn)
    # One draw from each of equal parts of the sum: no leaf is off by more than two draws.
    np.testing.assert_allclose(found, tree.leaves / tree.leaves.sum(), atol=2.1 / len(drawn))
    edges = tree.draw(np.array([0.0, np.nextafter(1.0, 0.0), 1.0]))
    assert (tree.leaves[edges] > 0).all()
    assert edges[0] == np.flatnonzero(tree.leaves)[0] and edges[2] == np.flatnonzero(tree.leaves)[-1]


def test_draws_follow_updated_priorities_and_weights_undo_them(store: Store) -> None:
    sampler = store.sampler(1000, rng=np.random.default_rng(0), alpha=0.5, beta=1.0)
    batch = sampler.next()
    assert batch.rows is not None and batch.weights is not None
    np.testing.assert_array_equal(batch.weights, 1.0)  # as yet all alike
    keys = {tuple(x) for x in batch.observations[:, :3].astype(int).tolist()}
    assert len(keys) == store.num_steps == 202
    priority = 0.1 + (batch.rows % 17)
    sampler.update_priorities(batch.rows, priority)
    counts, weighted = np.zeros(SLAB * 2), np.zeros(SLAB * 2)
    for _ in range(200):
        batch = sampler.next()
        assert batch.rows is not None and batch.weights is not None
        np.add.at(counts, batch.rows, 1.0)
        np.testing.assert_allclose(batch.weights.max(), 1.0)
        mass = np.sqrt(0.1 + batch.rows % 17)
        np.testing.assert_allclose(batch.weights, mass.min() / mass, rtol=1e-5)
        np.add.at(weighted, batch.rows, batch.weights)
    rows = np.flatnonzero(counts)
    assert len(rows) == 202
    expected = np.sqrt(0.1 + rows % 17)
    expected *= 200_000 / expected.sum()
    # Stratified: less than multinomial spread.
    assert (np.abs(counts[rows] - expected) < 5 * np.sqrt(expected)).all()
    np.testing.assert_allclose(weighted[rows] / weighted.sum(), 1 / 202, rtol=0.25)


def test_new_rows_come_with_the_highest_priority_and_beta_reaches_one(store: Store) -> None:
    sampler = store.sampler(500, rng=np.random.default_rng(0), alpha=1.0, beta=0.4, beta_steps=4)
    batch = sampler.next()
    assert batch.rows is not None
    sampler.update_priorities(batch.rows, np.where(batch.rows == batch.rows[0], 50.0, 0.01))
    fill(store, "a", [30], tag=9)
    sampler.reader.refresh()
    tags = sampler.next().observations[:, 0]
    assert (tags == 9).mean() > 0.9  # 30 rows and one old one at 50 against 201 at 0.01
    betas = []
    for _ in range(4):
        betas.append(sampler.selection.beta)
        sampler.next()
    np.testing.assert_allclose(betas, [0.7, 0.85, 1.0, 1.0])


def test_rows_of_more_than_one_slab_are_found_again(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s.zarr", formula.spec())
    with store.writer("a", durability="process") as writer:
        for number in range(80):
            t = np.arange(1001)
            observations = np.stack([0 * t, 0 * t + number, t, t, t], axis=1)
            writer.append_episode(observations, np.zeros((1000, 2)), t[:-1], terminated=True, truncated=False)
    sampler = store.sampler(512, rng=np.random.default_rng(0), alpha=1.0)
    batch = sampler.next()
    assert batch.rows is not None
    wanted = {(0, 70, 123), (0, 2, 7)}
    rows = {key: key[1] * 1001 + key[2] for key in wanted}
    assert max(rows.values()) > SLAB
    np.testing.assert_array_equal(batch.rows, batch.observations[:, 1] * 1001 + batch.observations[:, 2])
    sampler.update_priorities(np.array(list(rows.values())), np.full(2, 1e9))
    drawn = {tuple(line) for line in sampler.next().observations[:, :3].astype(int).tolist()}
    assert drawn == wanted


def test_a_mixture_gives_rows_of_its_prioritised_part_only(store: Store) -> None:
    rng = np.random.default_rng(0)
    prioritised = store.sampler(1, rng=rng, alpha=0.6)
    mixed = MixedSampler([(store.sampler(1, rng=rng), 10), (prioritised, 6)])
    batch = mixed.next()
    assert batch.rows is not None and batch.weights is not None
    assert (batch.rows[:10] == -1).all() and (batch.rows[10:] >= 0).all() and (batch.weights[:10] == 1).all()
    prioritised.update_priorities(batch.rows, np.where(batch.rows == batch.rows[12], 1e9, 0.0))
    after = mixed.next()
    assert after.rows is not None and (after.rows[10:] == after.rows[10]).all()


def test_a_batch_keeps_no_row_or_weight_of_those_that_filled_its_places_before(store: Store) -> None:
    rng = np.random.default_rng(0)
    prioritised = store.sampler(16, rng=rng, alpha=1.0)
    annealed = MixedSampler([(store.sampler(1, rng=rng), 2), (prioritised, 14)], until=[14, 2], steps=6)
    pooled = PooledSampler(prioritised, store.reader(), "valid")
    for sampler in (annealed, pooled):
        counts = set()
        for _ in range(12):
            planned = annealed.counts[1]
            batch = sampler.next()
            assert batch.rows is not None and batch.weights is not None
            drawn = batch.rows >= 0
            counts.add(int(drawn.sum()))
            assert sampler is pooled or drawn.sum() == planned
            assert (np.diff(drawn.astype(int)) >= 0).all(), "the prioritised rows come last"
            assert (batch.weights[~drawn] == 1).all()
            prioritised.update_priorities(batch.rows, np.linspace(0.1, 9.0, 16))
        assert len(counts) > 2


def test_wrong_priorities_are_refused_and_change_nothing(store: Store) -> None:
    sampler = store.sampler(8, rng=np.random.default_rng(0), alpha=0.6)
    rows = sampler.next().rows
    assert rows is not None
    rows = rows.copy()
    before = sampler.priorities()
    for priorities, message in (
        (np.full(8, np.nan), "finite"),
        (np.full(8, -1.0), "at least 0"),
        (np.ones(7), r"both must be \[n\]"),
    ):
        with pytest.raises(SchemaError, match=message):
            sampler.update_priorities(rows, priorities)
    with pytest.raises(SchemaError, match="none of this sampler's"):
        sampler.update_priorities(rows + 10 * SLAB, np.ones(8))
    np.testing.assert_array_equal(sampler.priorities(), before)
    with pytest.raises(SamplerStateError, match="do not fit"):
        sampler.load_priorities(before[:-1])
