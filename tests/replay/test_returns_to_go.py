"""Returns to go: what followed each sampled step, where that is known, and no sooner than it is."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from replay.errors import SchemaError
from replay.sampler import MixedSampler, ReturnsToGo, UniformSampler
from replay.schema import StoreSpec
from replay.store import Store

GAMMA = 0.9


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Observation = 100·episode + step. 0 terminates, 1 is truncated, 2 is cut; 3 terminates, in its own stream."""
    spec = StoreSpec.from_terms([{"name": "x", "offset": 0, "length": 1, "dtype": "float32"}], [-1.0], [1.0])
    store = Store.create(tmp_path / "store", spec, chunk_rows=1024)
    with store.writer("a", durability="process") as writer:
        add(writer, 0, [1.0, 2.0, 4.0], terminated=True)
        add(writer, 1, [1.0, 3.0], terminated=False)
        for step in range(3):
            observation, following = np.float32([200 + step]), np.float32([201 + step])
            writer.append(
                observation, [0.0], 1.0, terminated=False, truncated=False, next_observation=following, first=step == 0
            )  # fmt: skip
        writer.cut(np.float32([203]))
    with store.writer("b", durability="process") as writer:
        add(writer, 3, [-1.0] * 30, terminated=True)
    return store


def add(writer, episode: int, rewards: list[float], *, terminated: bool) -> None:  # type: ignore[no-untyped-def]
    steps = len(rewards)
    observations = 100.0 * episode + np.arange(steps + 1)[:, None]
    writer.append_episode(observations, np.zeros((steps, 1)), rewards, terminated=terminated, truncated=not terminated)


def sampled(store: Store, **transform: float) -> dict[int, float]:
    """By observation."""
    reader = store.reader()
    known = ReturnsToGo(reader, GAMMA, **transform)
    batch = UniformSampler(reader, 2000, rng=np.random.default_rng(0), returns_to_go=known).next()
    assert batch.returns_to_go is not None
    found: dict[int, float] = {}
    for x, value in zip(batch.observations[:, 0].tolist(), batch.returns_to_go.tolist(), strict=True):
        assert found.setdefault(int(x), value) == value or math.isnan(value)
    return found


def test_a_terminated_episode_ends_there_and_a_truncated_one_goes_on_with_its_last_reward(store: Store) -> None:
    found = sampled(store)
    # By hand: 4;  2 + 0.9·4;  1 + 0.9·5.6.  Truncated: 3/(1 − 0.9) = 30, then 1 + 0.9·30.
    assert [found[x] for x in (2, 1, 0)] == pytest.approx([4.0, 5.6, 6.04])
    assert [found[x] for x in (101, 100)] == pytest.approx([30.0, 28.0])
    # -(1 - 0.9^30) / (1 - 0.9) from the start, -1 at the end
    assert found[300] == pytest.approx(-(1 - GAMMA**30) / (1 - GAMMA), rel=1e-6)
    assert found[329] == pytest.approx(-1.0)


def test_an_interrupted_episodes_return_is_not_known(store: Store) -> None:
    found = sampled(store)
    assert all(math.isnan(found[x]) for x in (200, 201, 202))


def test_rewards_are_scaled_and_shifted_before_they_are_summed(store: Store) -> None:
    found = sampled(store, scale=10.0, shift=-1.0)
    assert found[1] == pytest.approx(19.0 + 0.9 * 39.0)
    assert found[101] == pytest.approx(29.0 / (1 - GAMMA))


def test_a_return_is_known_once_its_episode_has_ended_and_not_before(tmp_path: Path, store: Store) -> None:
    live = Store.create(tmp_path / "live", store.spec, chunk_rows=1024)
    with live.writer("c", durability="process") as writer:
        reader = live.reader()
        known = ReturnsToGo(reader, GAMMA)
        sampler = UniformSampler(reader, 64, rng=np.random.default_rng(1), returns_to_go=known)
        for step in range(4):
            writer.append(
                np.float32([step]), [0.0], 1.0, terminated=step == 3, truncated=False,
                next_observation=np.float32([step + 1]), first=step == 0,
            )  # fmt: skip
            reader.refresh()
            if step == 2:
                assert np.isnan(sampler.next().returns_to_go).all()
                before = sampler.state_dict()
        after = sampler.next()
        assert after.returns_to_go is not None
        assert sorted(set(after.returns_to_go.tolist())) == pytest.approx([1.0, 1.9, 2.71, 3.439])
        # Back at the former heads, as a resumed run is, it is unknown again.
        sampler.load_state_dict(before)
        assert np.isnan(sampler.next().returns_to_go).all()


def test_mixtures_and_blocks_keep_returns_beside_their_rows(store: Store) -> None:
    reader = store.reader()
    parts = [
        UniformSampler(reader, 8, rng=np.random.default_rng(seed), returns_to_go=ReturnsToGo(reader, GAMMA))
        for seed in (0, 1)
    ]
    expected = sampled(store)
    mixed = MixedSampler([(parts[0], 5), (parts[1], 3)])
    for batch in (mixed.next(), mixed.next_block(2)[1]):
        wanted = [expected[int(x)] for x in batch.observations[:, 0]]
        np.testing.assert_array_equal(batch.returns_to_go, np.float32(wanted))


def test_places_of_a_part_that_knows_no_returns_are_unknown_in_every_batch(store: Store) -> None:
    reader = store.reader()
    rng = np.random.default_rng(0)
    known = UniformSampler(reader, 8, rng=rng, returns_to_go=ReturnsToGo(reader, GAMMA))
    mixed = MixedSampler([(UniformSampler(reader, 8, rng=rng), 1), (known, 7)], until=[7, 1], steps=6)
    for _ in range(8):
        count = mixed.counts[0]
        returns = mixed.next().returns_to_go
        assert returns is not None and np.isnan(returns[:count]).all()


def test_evicted_episodes_are_forgotten(tmp_path: Path, store: Store) -> None:
    live = Store.create(tmp_path / "live", store.spec, chunk_rows=64)
    reader = live.reader()
    known = ReturnsToGo(reader, GAMMA)
    sampler = UniformSampler(reader, 64, rng=np.random.default_rng(1), returns_to_go=known)
    with live.writer("c", durability="process", capacity_steps=100) as writer:
        for episode in range(200):
            add(writer, episode, [float(episode)] * 9, terminated=True)
            reader.refresh()
            batch = sampler.next()
            assert batch.returns_to_go is not None
            last = batch.observations[:, 0] % 100 == 8
            unknown = np.isnan(batch.returns_to_go)  # of an episode that has lost its head
            assert len(np.unique(batch.rewards[unknown])) <= 1
            np.testing.assert_array_equal(batch.returns_to_go[last & ~unknown], batch.rewards[last & ~unknown])
            kept = (writer.head - writer.tail) // 10
            assert len(known._streams["c"].returns) <= kept + 1
            assert sum(len(lines["start"]) for lines in known._episodes._scans["c"].ended) <= kept + 1
    assert writer.tail > 1000


def test_without_being_asked_for_there_are_none_and_gamma_one_is_refused(store: Store) -> None:
    assert store.sampler(4, rng=np.random.default_rng(0)).next().returns_to_go is None
    with pytest.raises(SchemaError, match="gamma is 1"):
        ReturnsToGo(store.reader(), 1.0)
