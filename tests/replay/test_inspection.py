"""What `inspect` says of a store is what NumPy says of its episodes, however they lie in chunks and blocks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import replay.inspection
from replay.inspection import Inspection, inspect
from replay.schema import StoreSpec
from replay.store import Store

SEEN, ACTED = 3, 2


def make(path: Path, *, chunk_rows: int = 64, info: tuple[str, ...] = ()) -> Store:
    terms = [{"name": "place", "offset": 0, "length": 2, "dtype": "float32"},
             {"name": "speed", "offset": 2, "length": 1, "dtype": "float32"}]  # fmt: skip
    spec = StoreSpec.from_terms(terms, [-1, -2], [1, 2], info=info)
    return Store.create(path, spec, chunk_rows=chunk_rows)


class Log:
    """Random episodes and what was put into them."""

    def __init__(self, store: Store, episodes: int, *, seed: int = 0, stream: str = "log") -> None:
        rng = np.random.default_rng(seed)
        self.observations: list[np.ndarray] = []
        self.actions: list[np.ndarray] = []
        self.rewards: list[np.ndarray] = []
        with store.writer(stream, durability="process") as writer:
            for episode in range(episodes):
                steps = int(rng.integers(1, 40))
                observations = rng.normal(5.0, 2.0, (steps + 1, SEEN)).astype(np.float32)
                actions = rng.uniform(-1, 1, (steps, ACTED)).astype(np.float32)
                rewards = rng.normal(size=steps).astype(np.float32)
                self.observations.append(observations)
                self.actions.append(actions)
                self.rewards.append(rewards)
                success = np.zeros(steps, np.float32)
                success[-1] = episode % 3 == 0
                writer.append_episode(
                    observations, actions, rewards, terminated=episode % 2 == 0, truncated=episode % 2 == 1,
                    info={"success": success} if store.spec.info else None,
                )  # fmt: skip


def same(one: Inspection, two: Inspection) -> None:
    """Equal but for the last digits of sums."""
    a, b = (json.loads(json.dumps(found.to_json())) for found in (one, two))

    def compare(x: object, y: object) -> None:
        if isinstance(x, dict) and isinstance(y, dict):
            assert x.keys() == y.keys()
            for key in x:
                compare(x[key], y[key])
        elif isinstance(x, list) and isinstance(y, list):
            assert len(x) == len(y)
            for u, v in zip(x, y, strict=True):
                compare(u, v)
        elif isinstance(x, float) and isinstance(y, float):
            assert x == pytest.approx(y, rel=1e-6, abs=1e-9)
        else:
            assert x == y

    compare(a, b)


def test_figures_are_those_of_the_episodes(tmp_path: Path) -> None:
    store = make(tmp_path / "s.zarr", info=("success",))
    log = Log(store, 50)
    found = inspect(store)
    seen, acted = np.concatenate([o[:-1] for o in log.observations]), np.concatenate(log.actions)
    rewards = np.concatenate(log.rewards)
    assert found.steps == len(seen) == len(acted)
    for column, values in zip(
        [*found.observations, *found.actions, found.rewards], [*seen.T, *acted.T, rewards], strict=True
    ):
        assert (column.min, column.max) == (values.min(), values.max())
        assert column.mean == pytest.approx(values.mean(dtype=np.float64), rel=1e-9)
        assert column.std == pytest.approx(values.std(dtype=np.float64), rel=1e-9)
        np.testing.assert_allclose(column.quantiles, np.quantile(values, (0.05, 0.25, 0.5, 0.75, 0.95)), rtol=1e-6)
    assert [column.name for column in found.observations] == ["place[0]", "place[1]", "speed[0]"]
    np.testing.assert_allclose(found.returns, [r.sum(dtype=np.float64) for r in log.rewards], rtol=1e-9)
    assert found.lengths.tolist() == [len(r) for r in log.rewards]
    assert found.success is not None
    assert found.success.tolist() == [e % 3 == 0 for e in range(50)]
    assert (found.terminated.sum(), found.truncated.sum(), found.interrupted.sum()) == (25, 25, 0)
    assert (found.duplicates, found.nonfinite_rows, found.reward_values) == (0, 0, None)


def test_chunks_and_blocks_make_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Episodes over the borders of chunks and blocks, and several streams."""
    stores = [make(tmp_path / f"{rows}.zarr", chunk_rows=rows) for rows in (16, 64, 4096)]
    for store in stores:
        Log(store, 30, stream="one")
        Log(store, 30, seed=1, stream="two")
    found = [inspect(store) for store in stores]
    monkeypatch.setattr(replay.inspection, "BLOCK_ROWS", 37)
    found += [inspect(store) for store in stores]
    for other in found[1:]:
        same(found[0], other)


def test_saturation_and_violations_are_counted(tmp_path: Path) -> None:
    store = make(tmp_path / "s.zarr")
    steps = 100
    actions = np.zeros((steps, ACTED), np.float32)
    actions[:30, 0] = -1.0
    actions[30:50, 0] = 0.9995  # within a thousandth of the range
    actions[:5, 1] = 2.5
    actions[5:7, 1] = -2.1
    with store.writer("log", durability="process") as writer:
        writer.append_episode(
            np.zeros((steps + 1, SEEN), np.float32),
            actions,
            np.zeros(steps, np.float32),
            terminated=True,
            truncated=False,
        )
    first, second = inspect(store).actions
    assert (first.at_low, first.at_high, first.outside) == (0.3, 0.2, 0)
    assert (second.at_low, second.at_high, second.outside) == (0.02, 0.05, 7)
    assert all(column.constant for column in inspect(store).observations)
    assert not first.constant


def test_values_that_are_not_finite_are_counted_and_left_out(tmp_path: Path) -> None:
    store = make(tmp_path / "s.zarr")
    Log(store, 20)
    # No writer of ours lets them in: into the file itself, as a foreign one would.
    width, at = store.spec.row_width, store.spec.offsets
    file = tmp_path / "s.zarr" / "streams" / "log" / "rows" / "c" / "0" / "0"
    rows = np.memmap(file, np.float32, "r+").reshape(-1, width)
    assert rows[:2, at["valid"]].all()
    rows[0, 1], rows[1, 1], rows[1, at["reward"]] = np.nan, np.inf, np.nan
    rows.flush()
    found = inspect(store)
    assert found.nonfinite_rows == 2
    assert [column.nonfinite for column in found.observations] == [0, 2, 0]
    assert found.rewards.nonfinite == 1
    assert np.isfinite([column.mean for column in found.observations]).all()
    assert found.ended.sum() == 19
    json.dumps(found.to_json() | store.info(), allow_nan=False)


def test_duplicates_are_equal_in_values_and_order(tmp_path: Path) -> None:
    store = make(tmp_path / "s.zarr")
    log = Log(store, 12)
    o, a, r = log.observations[4], log.actions[4], log.rewards[4]
    assert len(a) > 2
    swapped = np.arange(len(a))
    swapped[[0, 1]] = 1, 0
    nudged = o.copy()
    nudged[1, 0] = np.nextafter(nudged[1, 0], np.float32(9e9))
    with store.writer("again", durability="process") as writer:
        for observations, order in ((o, np.arange(len(a))), (nudged, np.arange(len(a))), (o[[*swapped, -1]], swapped)):
            writer.append_episode(observations, a[order], r[order], terminated=False, truncated=True)
    assert inspect(store).duplicates == 1
    Log(store, 12, stream="more")
    assert inspect(store).duplicates == 13


def test_few_reward_values_are_counted_one_by_one(tmp_path: Path) -> None:
    store = make(tmp_path / "s.zarr", chunk_rows=16)
    rewards = np.float32([0.0] * 90 + [1.0] * 10)
    with store.writer("log", durability="process") as writer:
        writer.append_episode(
            np.zeros((101, SEEN), np.float32),
            np.zeros((100, ACTED), np.float32),
            rewards,
            terminated=True,
            truncated=False,
        )
    assert inspect(store).reward_values == {0.0: 90, 1.0: 10}


def test_an_empty_store_has_no_figures_and_no_fault(tmp_path: Path) -> None:
    found = inspect(make(tmp_path / "s.zarr"))
    assert (found.steps, len(found.returns), found.diversity) == (0, 0, None)
    json.dumps(found.to_json(), allow_nan=False)


def test_episodes_that_lost_their_head_by_eviction_are_no_episodes(tmp_path: Path) -> None:
    store = make(tmp_path / "s.zarr", chunk_rows=16)
    log = Log(store, 30)
    with store.writer("log", durability="process") as writer:
        writer.evict(keep_steps=100)
    found = inspect(store)
    assert 0 < len(found.returns) < 30
    np.testing.assert_allclose(found.returns, [r.sum(dtype=np.float64) for r in log.rewards][-len(found.returns) :])


def test_diversity_tells_one_behaviour_from_many(tmp_path: Path) -> None:
    """Actions decided by the state, and actions drawn without looking at it."""
    spreads = []
    for name, random in (("one", False), ("many", True)):
        store = make(tmp_path / f"{name}.zarr")
        rng = np.random.default_rng(0)
        with store.writer("log", durability="process") as writer:
            for _ in range(40):
                observations = rng.uniform(-1, 1, (41, SEEN)).astype(np.float32)
                actions = (
                    rng.uniform(-1, 1, (40, ACTED)).astype(np.float32) if random else np.tanh(observations[:-1, :ACTED])
                )
                writer.append_episode(
                    observations,
                    actions * np.float32([1, 2]),
                    np.zeros(40, np.float32),
                    terminated=False,
                    truncated=True,
                )
        told = inspect(store).diversity
        assert told is not None
        assert told.state_dimensions == pytest.approx(3, abs=0.1)
        assert told.action_dimensions == pytest.approx(2, abs=0.1)
        spreads.append(told.action_spread)
    assert spreads[0] < 0.3
    assert spreads[1] == pytest.approx(1.0, abs=0.1)


def test_memory_does_not_grow_with_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Peak of what Python and NumPy allocate, for ten times the rows; lines of episodes aside."""
    import tracemalloc

    monkeypatch.setattr(replay.inspection, "BLOCK_ROWS", 4096)
    peaks = []
    for episodes in (20, 200):
        store = make(tmp_path / f"{episodes}.zarr", chunk_rows=65536)
        rng = np.random.default_rng(0)
        with store.writer("log", durability="process") as writer:
            for _ in range(episodes):
                observations, actions = rng.normal(size=(1001, SEEN)), rng.uniform(-1, 1, (1000, ACTED))
                writer.append_episode(
                    observations.astype(np.float32), actions.astype(np.float32),
                    rng.normal(size=1000).astype(np.float32), terminated=False, truncated=True,
                )  # fmt: skip
        inspect(store)
        tracemalloc.start()
        inspect(store)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0] + 4e6, (
        f"{peaks[0] / 1e6:.0f} MB for 20,000 rows, {peaks[1] / 1e6:.0f} MB for 200,000"
    )
