"""Draws from the best episodes alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from replay.errors import EmptyReplayError
from replay.schema import StoreSpec
from replay.store import Store

# (number, steps, return, how it ended): 100 steps of episodes that ended, 60 of those whose return is not known.
EPISODES = [
    (1, 30, 5.0, "terminated"),
    (2, 10, 9.0, "truncated"),
    (3, 50, 100.0, "interrupted"),
    (4, 20, 5.0, "terminated"),
    (5, 40, 1.0, "terminated"),
    (6, 10, 50.0, "running"),
]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Each observation is its episode's number; the first half in one stream, the rest in another."""
    term = {"name": "episode", "offset": 0, "length": 1, "dtype": "float32"}
    store = Store.create(tmp_path / "s.zarr", StoreSpec.from_terms([term], [-1.0], [1.0]), chunk_rows=64)
    for stream, episodes in (("a", EPISODES[:3]), ("b", EPISODES[3:])):
        with store.writer(stream, durability="process") as writer:
            for number, steps, total, end in episodes:
                for t in range(steps):
                    ended = end if t == steps - 1 else ""
                    writer.append(
                        np.array([number]), np.zeros(1), total * (t == 0), first=t == 0,
                        terminated=ended == "terminated", truncated=ended == "truncated",
                        next_observation=np.array([number]) if ended in ("terminated", "truncated") else None,
                    )  # fmt: skip
                if end == "interrupted":
                    writer.cut(np.array([number]))
    return store


def drawn(store: Store, fraction: float) -> Counter[int]:
    sampler = store.sampler(500, rng=np.random.default_rng(0), top_fraction=fraction)
    return Counter(int(n) for _ in range(40) for n in sampler.next().observations[:, 0])


@pytest.mark.parametrize(
    ("fraction", "best"),
    [(0.01, {2}), (0.1, {2}), (0.101, {2, 4}), (0.3, {2, 4}), (0.31, {2, 4, 1}), (0.6, {2, 4, 1}), (1.0, {2, 4, 1, 5})],
)
def test_as_few_of_the_best_as_hold_the_fraction_and_of_equal_ones_the_shorter_first(
    store: Store, fraction: float, best: set[int]
) -> None:
    assert set(drawn(store, fraction)) == best


def test_every_step_of_the_best_is_drawn_equally_often(store: Store) -> None:
    counts = drawn(store, 0.6)
    steps = {number: length for number, length, _, _ in EPISODES}
    for number, count in counts.items():
        share = steps[number] / 60
        assert abs(count / 20_000 - share) < 5 * np.sqrt(share * (1 - share) / 20_000)


def test_where_every_episode_has_the_same_return_the_quickest_are_the_best(tmp_path: Path) -> None:
    # As in PointMaze, where each episode ends at its goal with a reward of 1.
    term = {"name": "steps", "offset": 0, "length": 1, "dtype": "float32"}
    store = Store.create(tmp_path / "m.zarr", StoreSpec.from_terms([term], [-1.0], [1.0]))
    with store.writer("a", durability="process") as writer:
        for steps in (9, 4, 7, 2, 8):
            rewards = np.zeros(steps)
            rewards[-1] = 1.0
            writer.append_episode(
                np.full((steps + 1, 1), steps), np.zeros((steps, 1)), rewards, terminated=True, truncated=False
            )
    assert set(drawn(store, 0.2)) == {2, 4}


def test_a_restored_sampler_goes_on_with_the_next_batch_although_better_episodes_have_come(store: Store) -> None:
    sampler = store.sampler(50, rng=np.random.default_rng(1), top_fraction=0.3)
    sampler.next()
    state = sampler.state_dict()
    wanted = [sampler.next().packed.copy() for _ in range(3)]
    with store.writer("c", durability="process") as writer:
        writer.append_episode(np.full((4, 1), 7), np.zeros((3, 1)), np.full(3, 1e3), terminated=True, truncated=False)
    restored = store.sampler(50, rng=np.random.default_rng(2), top_fraction=0.3)
    restored.load_state_dict(state)
    for batch in wanted:
        np.testing.assert_array_equal(restored.next().packed, batch)
    restored.reader.refresh()
    assert 7 in restored.next().observations[:, 0]


def test_without_an_episode_that_ended_there_is_nothing_to_choose(tmp_path: Path) -> None:
    term = {"name": "x", "offset": 0, "length": 1, "dtype": "float32"}
    store = Store.create(tmp_path / "r.zarr", StoreSpec.from_terms([term], [-1.0], [1.0]))
    with store.writer("a", durability="process") as writer:
        for t in range(5):
            writer.append(
                np.zeros(1), np.zeros(1), 1.0, first=t == 0, terminated=False, truncated=False, next_observation=None
            )
        writer.cut(np.zeros(1))
    with pytest.raises(EmptyReplayError, match=r"no episode of .* has ended"):
        store.sampler(5, rng=np.random.default_rng(0), top_fraction=0.5).next()
