"""Statistics: those of all rows at once, however they were fed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from replay import Store
from replay.errors import EmptyReplayError
from replay.statistics import Moments, RunningStatistics, observation_moments
from tests.replay import formula
from tests.replay.test_sampling import fill


def test_moments_fed_in_parts_and_merged_are_those_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(5000, 3)) * [1.0, 1e-3, 50.0] + [0.0, 1e6, -3.0]
    parts = [Moments(3) for _ in range(3)]
    for number, block in enumerate(np.split(values, np.sort(rng.integers(0, 5000, 40)))):
        parts[number % 3].update(block)
    whole = Moments(3)
    for part in [*parts, Moments(3)]:
        whole.merge(part)
    assert whole.count == 5000
    np.testing.assert_allclose(whole.mean, values.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(whole.std, values.std(axis=0), rtol=1e-6)


def test_statistics_followed_as_a_store_grows_are_those_read_at_once(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s.zarr", formula.spec(), chunk_rows=formula.CHUNK_ROWS)
    reader = store.reader()
    running = RunningStatistics(reader)
    with pytest.raises(EmptyReplayError, match="no step"):
        running.freeze()
    for stream, lengths in (("b", [3, 200, 7]), ("a", [60, 5]), ("b", [90, 300, 1])):
        fill(store, stream, lengths)
        reader.refresh()
        running.follow()
    frozen = running.freeze()
    assert frozen == json.loads(json.dumps(frozen)) == running.freeze()
    at_once = RunningStatistics(store.reader()).freeze()
    mean, std, count = observation_moments(store.reader())
    assert frozen["observation"]["count"] == at_once["observation"]["count"] == count == 666
    np.testing.assert_allclose(frozen["observation"]["mean"], mean, rtol=1e-12)
    np.testing.assert_allclose(frozen["observation"]["std"], std, rtol=1e-12)
    rewards = np.concatenate([np.arange(n) for n in (3, 200, 7, 60, 5, 90, 300, 1)])
    expected = {"count": 666, "mean": rewards.mean(), "std": rewards.std(), "min": 0.0, "max": 299.0}
    assert frozen["reward"] == pytest.approx(expected, rel=1e-12)
    lengths = np.array([3, 200, 60, 5, 90, 300])  # the third of each filling was interrupted
    sums = lengths * (lengths - 1) / 2
    for name, values in (("lengths", lengths), ("returns", sums)):
        assert frozen[name] == at_once[name]
        assert frozen[name]["count"] == 6 and frozen[name]["mean"] == pytest.approx(values.mean())
        assert frozen[name]["quantiles"][0] == values.min() and frozen[name]["quantiles"][-1] == values.max()
        assert frozen[name]["quantiles"][5] == np.median(values)
    assert frozen["reward_scale"] == 1000.0 / (sums.max() - sums.min())


def test_returns_that_do_not_differ_give_no_scale(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s.zarr", formula.spec(), chunk_rows=formula.CHUNK_ROWS)
    fill(store, "a", [5])
    frozen = RunningStatistics(store.reader()).freeze()
    assert frozen["reward_scale"] is None and frozen["returns"]["std"] == 0.0
