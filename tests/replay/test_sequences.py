"""Sequences: rows in order, masked where their episode begins and ends, against a plain loop over rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from replay import Store
from replay.errors import SchemaError
from tests.replay import formula


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.create(tmp_path / "s.zarr", formula.spec(info=("success",)), chunk_rows=5)
    with store.writer("a", durability="process") as writer:
        for number, (steps, end) in enumerate([(4, "t"), (7, "c"), (1, "t"), (2, "i"), (12, "c"), (1, "i"), (3, "t")]):
            t = np.arange(steps + 1)
            observations = np.stack([0 * t + 1, 0 * t + number, t, t, t], axis=1)
            writer.append_episode(
                observations, np.stack([t, -t], axis=1)[:-1], t[:-1] + 1, terminated=end == "t", truncated=end == "c",
                info={"success": np.ones(steps)},
            )  # fmt: skip
    writer = store.writer("b", durability="process")
    for t in range(9):
        writer.append(
            [2, t >= 6, t % 6, t, t], [t % 6, -(t % 6)], t % 6 + 1.0, first=t % 6 == 0, terminated=False,
            truncated=False, next_observation=None, info={"success": 1.0},
        )  # fmt: skip
    writer.close()
    return store


@pytest.mark.parametrize(("length", "burn_in"), [(1, 0), (3, 0), (4, 2), (20, 20)])
def test_windows_are_the_rows_around_a_step_within_its_episode(store: Store, length: int, burn_in: int) -> None:
    reader, at = store.reader(), store.spec.offsets
    rows = {stream: reader.rows(stream, 0, head) for stream, head in reader.heads.items()}
    place, step = {}, {}
    for stream, each in rows.items():
        step[stream] = [
            bool(i + 1 < len(each) and each[i, at["valid"]] and not each[i + 1, at["first"]]) for i in range(len(each))
        ]
        for i in range(len(each)):
            if step[stream][i]:
                place[tuple(each[i, :3].astype(int).tolist())] = stream, i
    sampler = store.sampler(256, rng=np.random.default_rng(0), length=length, burn_in=burn_in)
    seen = set()
    for _ in range(4):
        batch = sampler.next()
        assert batch.observations.shape == (256, burn_in + length + 1, 5)
        assert batch.actions.shape == (256, burn_in + length, 2) and batch.learn_mask.shape == (256, length)
        for line in range(256):
            key = tuple(batch.observations[line, burn_in, :3].astype(int).tolist())
            seen.add(key)
            stream, i = place[key]
            each, is_step = rows[stream], step[stream]
            low = i
            while low > i - burn_in and not each[low, at["first"]]:
                low -= 1
            high = i
            while high + 1 < i + length and is_step[high + 1] and not each[high + 1, at["first"]]:
                high += 1
            expected = np.zeros_like(batch.packed[line])
            offset = burn_in - i
            expected[low + offset : high + offset + 1] = each[low : high + 1]
            expected[high + offset + 1, : sampler.spec.observation_size] = each[high + 1, :5]
            if high + 1 < i + length or high + offset + 1 == burn_in + length:
                last = batch.packed[line, high + offset + 1]
                np.testing.assert_array_equal(last[:5], expected[high + offset + 1, :5])
            got = batch.packed[line].copy()
            got[-1, 5:] = 0.0  # of the row behind the window only the observation is given
            np.testing.assert_array_equal(got, expected)
            mask = np.zeros(burn_in + length)
            mask[low + offset : high + offset + 1] = 1.0
            np.testing.assert_array_equal(batch.mask[line], mask)
        episode = batch.observations[:, :-1, 1]
        own = batch.observations[:, burn_in, 1][:, None]
        assert (episode == own)[batch.mask > 0].all()
        np.testing.assert_array_equal(batch.info["success"], batch.mask)
        np.testing.assert_array_equal(batch.first, (batch.mask > 0) & (batch.rewards == 1))
        assert batch.learn_mask[:, 0].all()
    assert seen == set(place) and len(seen) == store.num_steps


def test_every_step_begins_a_sequence_equally_often(store: Store) -> None:
    sampler = store.sampler(500, rng=np.random.default_rng(0), length=4, burn_in=2)
    draws = np.concatenate([sampler.next().observations[:, 2, :3].copy() for _ in range(100)])
    _, counts = np.unique(draws, axis=0, return_counts=True)
    expected = len(draws) / store.num_steps
    assert len(counts) == store.num_steps
    freedom = len(counts) - 1
    assert abs(float(((counts - expected) ** 2 / expected).sum()) - freedom) < 5 * np.sqrt(2 * freedom)


def test_a_block_of_sequences_equals_successive_batches(store: Store) -> None:
    one, blocks = (store.sampler(16, rng=np.random.default_rng(5), length=4, burn_in=2) for _ in range(2))
    given = np.full((3, 16, 7, store.spec.row_width), np.nan, np.float32)
    own = blocks.next_block(3)
    for k in range(3):
        batch = one.next()
        np.testing.assert_array_equal(own[k].packed, batch.packed)
        np.testing.assert_array_equal(own.mask[k], batch.mask)
    block = blocks.next_block(3, given)
    assert block.packed is given and block.learn_mask.shape == (3, 16, 4)
    for k in range(3):
        np.testing.assert_array_equal(given[k], one.next().packed)
    assert blocks.next_block(3) is own
    with pytest.raises(SchemaError, match="C-contiguous float32"):
        blocks.next_block(3, given[:, :, :-1])
