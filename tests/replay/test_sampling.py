"""Samples are transitions of the store: the right successors, each row equally often, and exactly resumable."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from replay import MixedSampler, Store, StoreReader, UniformSampler
from replay.errors import EmptyReplayError, SamplerStateError, SchemaError
from replay.mapping import AddressRange, ChunkTable, RowSpace
from tests.replay import formula

SPACES = [AddressRange, ChunkTable]


def fill(store: Store, stream: str, lengths: list[int], *, tag: int = 0) -> None:
    """Observation (tag, episode, t, ...), action (t, -t), reward t; episodes end terminated, truncated, cut in turn."""
    with store.writer(stream, durability="process") as writer:
        for number, steps in enumerate(lengths):
            t = np.arange(steps + 1)
            observations = np.stack([np.full_like(t, tag), np.full_like(t, number), t, t % 7, t % 3], axis=1)
            actions = np.stack([t, -t], axis=1)[:-1]
            end = number % 3
            writer.append_episode(observations, actions, t[:-1], terminated=end == 0, truncated=end == 1)


def space(kind: type, store: Store) -> RowSpace:
    return kind(store.chunk_rows, store.spec.row_width)  # type: ignore[no-any-return]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "s.zarr", formula.spec(), chunk_rows=formula.CHUNK_ROWS)


def check_transitions(packed: NDArray[np.float32], store: Store, lengths: dict[int, list[int]]) -> None:
    from replay.sampler import Batch

    batch = Batch(packed, store.spec)
    tag, number, t = (
        batch.observations[:, 0].astype(int),
        batch.observations[:, 1].astype(int),
        batch.observations[:, 2],
    )
    last = np.array([lengths[a][b] - 1 for a, b in zip(tag, number, strict=True)])
    np.testing.assert_array_equal(batch.next_observations[:, 2], t + 1)
    np.testing.assert_array_equal(batch.next_observations[:, :2], batch.observations[:, :2])
    np.testing.assert_array_equal(batch.next_observations[:, 3], (t + 1) % 7)
    np.testing.assert_array_equal(batch.actions, np.stack([t, -t], axis=1))
    np.testing.assert_array_equal(batch.rewards, t)
    np.testing.assert_array_equal(batch.terminated, (t == last) & (number % 3 == 0))
    np.testing.assert_array_equal(batch.truncated, (t == last) & (number % 3 == 1))


@pytest.mark.parametrize("kind", SPACES)
def test_every_transition_is_drawn_with_its_own_successor_across_chunks_and_streams(store: Store, kind: type) -> None:
    # Lengths that put episode ends at, before and behind the edges of chunks of 128 rows.
    lengths = {0: [126, 128, 1, 253, 127, 5], 1: [300, 1, 1, 90], 2: [1]}
    fill(store, "b", lengths[1], tag=1)
    reader = StoreReader([store], space=space(kind, store))
    # Streams that appear and grow later take slots between those of others: chunks lie apart in memory.
    fill(store, "a", lengths[0][:3], tag=0)
    reader.refresh()
    fill(store, "c", lengths[2], tag=2)
    reader.refresh()
    tail = store.writer("a", durability="process")
    tail.close()
    with store.writer("a", durability="process") as writer:
        for number, steps in list(enumerate(lengths[0]))[3:]:
            t = np.arange(steps + 1)
            observations = np.stack([0 * t, np.full_like(t, number), t, t % 7, t % 3], axis=1)
            end = number % 3
            writer.append_episode(
                observations, np.stack([t, -t], axis=1)[:-1], t[:-1], terminated=end == 0, truncated=end == 1
            )
            reader.refresh()
    sampler = UniformSampler(reader, 512, rng=np.random.default_rng(0))
    seen = set()
    for _ in range(60):
        packed = sampler.next().packed
        check_transitions(packed, store, lengths)
        seen |= {tuple(line) for line in packed[:, :3].astype(int).tolist()}
    expected = {(a, b, t) for a, many in lengths.items() for b, steps in enumerate(many) for t in range(steps)}
    assert seen == expected
    assert reader.num_steps == reader.count_sampleable() == len(expected)


def test_both_memory_layouts_draw_equal_batches(store: Store) -> None:
    fill(store, "a", [100, 30, 200])
    fill(store, "b", [50, 260], tag=1)
    mapped, fallback = (
        UniformSampler(StoreReader([store], space=space(kind, store)), 64, rng=np.random.default_rng(5))
        for kind in SPACES
    )
    for _ in range(20):
        np.testing.assert_array_equal(mapped.next().packed, fallback.next().packed)


def test_chunks_that_fill_no_whole_page_are_read_too(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s.zarr", formula.spec(), chunk_rows=5)
    lengths = [3, 4, 5, 6, 1, 9]
    fill(store, "a", lengths)
    sampler = store.sampler(128, rng=np.random.default_rng(0))
    for _ in range(5):
        check_transitions(sampler.next().packed, store, {0: lengths})


def test_sampling_is_uniform_over_all_rows_of_all_streams(store: Store) -> None:
    fill(store, "a", [40, 3, 90, 1])
    fill(store, "b", [17] * 4, tag=1)
    sampler = store.sampler(1000, rng=np.random.default_rng(11))
    draws = np.concatenate([sampler.next().observations[:, :3].copy() for _ in range(200)])
    _, counts = np.unique(draws, axis=0, return_counts=True)
    rows = 134 + 68
    assert len(counts) == rows == store.num_steps
    expected = len(draws) / rows
    statistic = float(((counts - expected) ** 2 / expected).sum())
    assert abs(statistic - (rows - 1)) < 4 * np.sqrt(2 * (rows - 1))  # chi-square: mean n-1, variance 2(n-1)


@pytest.mark.parametrize("bits", [np.random.PCG64, np.random.Philox, np.random.MT19937])
def test_a_resumed_sampler_draws_the_same_batches_although_the_store_has_grown(store: Store, bits: type) -> None:
    fill(store, "a", [60, 60])
    original = store.sampler(32, rng=np.random.Generator(bits(3)))
    for _ in range(5):
        original.next()
    state = json.loads(json.dumps(original.state_dict()))
    expected = [original.next().packed.copy() for _ in range(10)]
    fill(store, "a", [500, 70])
    fill(store, "later", [500], tag=1)
    resumed = Store.open(store.path).sampler(32, rng=np.random.Generator(bits(99)))
    resumed.load_state_dict(state)
    for batch in expected:
        np.testing.assert_array_equal(resumed.next().packed, batch)
    original.reader.refresh()
    resumed.reader.refresh()
    for _ in range(5):
        np.testing.assert_array_equal(resumed.next().packed, original.next().packed)


def test_a_state_that_does_not_fit_is_refused(store: Store, tmp_path: Path) -> None:
    fill(store, "a", [60])
    sampler = store.sampler(8, rng=np.random.default_rng(0))
    state = sampler.state_dict()
    with pytest.raises(SamplerStateError, match="knows 99 rows"):
        sampler.load_state_dict({**state, "heads": {"a": 99}})
    with pytest.raises(SamplerStateError, match="lacks: gone"):
        sampler.load_state_dict({**state, "heads": {"gone": 1}})
    other = store.sampler(8, rng=np.random.Generator(np.random.MT19937(0)))
    with pytest.raises(SamplerStateError, match="PCG64"):
        other.load_state_dict(state)


def test_nothing_to_sample_is_an_error_not_a_loop(store: Store) -> None:
    sampler = store.sampler(8, rng=np.random.default_rng(0))
    with pytest.raises(EmptyReplayError, match="nothing to sample among 0 rows"):
        sampler.next()
    writer = store.writer("a", durability="process")
    step = {"terminated": False, "truncated": False, "next_observation": None}
    for _ in range(4):  # four first steps: none has a successor in its own episode
        writer.append(np.zeros(formula.OBSERVATION), np.zeros(formula.ACTION), 1.0, first=True, **step)  # type: ignore[arg-type]
        sampler.reader.refresh()
        with pytest.raises(EmptyReplayError):
            sampler.next()
    writer.append(np.zeros(formula.OBSERVATION), np.zeros(formula.ACTION), 2.0, first=False, **step)  # type: ignore[arg-type]
    sampler.reader.refresh()
    assert set(sampler.next().rewards.tolist()) == {1.0}
    assert sampler.reader.num_steps == 1
    writer.close()


def test_an_interrupted_episode_yields_its_last_step_without_termination(store: Store) -> None:
    fill(store, "a", [1, 1, 4])
    sampler = store.sampler(512, rng=np.random.default_rng(0))
    batch = sampler.next()
    cut = (batch.observations[:, 1] == 2) & (batch.rewards == 3)
    assert cut.any()
    assert not batch.terminated[cut].any() and not batch.truncated[cut].any()
    assert (batch.next_observations[cut, 2] == 4).all()


def test_batches_fill_a_given_buffer_and_reuse_their_own(store: Store) -> None:
    fill(store, "a", [60, 60])
    one, two = (store.sampler(32, rng=np.random.default_rng(1)) for _ in range(2))
    out = np.full((32, 2 * store.spec.row_width), np.nan, np.float32)
    given = one.next(out)
    assert given.packed is out and len(given) == 32
    own = two.next()
    np.testing.assert_array_equal(out, own.packed)
    assert two.next() is own and np.shares_memory(own.observations, own.packed)
    assert given.packed.flags.c_contiguous
    for wrong in (out[:, :-1], out.astype(np.float64), out[::2], np.asfortranarray(out)):
        with pytest.raises(SchemaError, match="C-contiguous float32"):
            one.next(wrong)


def test_a_mixture_has_exact_counts_and_resumes(store: Store, tmp_path: Path) -> None:
    fill(store, "a", [60, 60])
    online = Store.create(tmp_path / "online.zarr", store.spec, chunk_rows=1024)
    fill(online, "live", [5, 7], tag=1)

    def mixture(seed: int) -> MixedSampler:
        rng = np.random.default_rng(seed)
        parts = [(each.sampler(4, rng=rng), n) for each, n in ((store, 20), (online, 11), (store, 0))]
        return MixedSampler(parts)

    sampler = mixture(0)
    for _ in range(10):
        batch = sampler.next()
        assert batch.observations[:, 0].astype(int).tolist() == [0] * 20 + [1] * 11
        check_transitions(batch.packed, store, {0: [60, 60], 1: [5, 7]})
    state = json.loads(json.dumps(sampler.state_dict()))
    expected = [sampler.next().packed.copy() for _ in range(5)]
    resumed = mixture(1)
    resumed.load_state_dict(state)
    out = np.empty_like(expected[0])
    for packed in expected:
        np.testing.assert_array_equal(resumed.next(out).packed, packed)
    with pytest.raises(SchemaError, match=r"out must be .*\[31, 32\], got"):
        resumed.next(out[:5])


def test_stores_of_one_layout_are_sampled_as_one_and_others_refused(store: Store, tmp_path: Path) -> None:
    fill(store, "a", [60])
    second = Store.create(tmp_path / "second.zarr", store.spec, chunk_rows=store.chunk_rows)
    fill(second, "a", [20], tag=1)
    sampler = UniformSampler(StoreReader([store, second]), 2000, rng=np.random.default_rng(0))
    share = float((sampler.next().observations[:, 0] == 1).mean())
    assert 0.2 < share < 0.3
    assert sampler.reader.heads == {"0/a": 61, "1/a": 21}
    third = Store.create(tmp_path / "third.zarr", formula.spec(action=3), chunk_rows=store.chunk_rows)
    with pytest.raises(SchemaError, match="differ"):
        StoreReader([store, third])
    fill(third, "empty", [])
    with pytest.raises(SchemaError, match="differs from"):
        MixedSampler([(sampler, 1), (third.sampler(1, rng=np.random.default_rng(0)), 1)])
