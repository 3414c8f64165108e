"""Statistics of a few runs: by hand, and as their definitions demand."""

from __future__ import annotations

import numpy as np
import pytest

from agent.comparison.aggregates import (
    interquartile_mean,
    interval,
    probability_of_improvement,
    resampled,
    standard_error,
)

NAN = float("nan")


def column(*scores: float) -> np.ndarray:
    return np.array(scores)[:, None]


def test_the_interquartile_mean_drops_a_quarter_at_each_end() -> None:
    assert interquartile_mean(column(100.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, -100.0)) == pytest.approx(3.5)
    assert interquartile_mean(column(1.0, 2.0, 6.0)) == pytest.approx(3.0)  # a quarter of three is none
    assert interquartile_mean(np.array([[0.0, 10.0], [1.0, 11.0]])) == pytest.approx((1.0 + 10.0) / 2)


def test_the_standard_error_is_that_of_the_mean_and_unknown_for_a_single_run() -> None:
    assert standard_error(np.array([1.0, 2.0, 3.0])) == pytest.approx(1.0 / np.sqrt(3))
    assert np.isnan(standard_error(np.array([1.0, NAN])))


def test_the_probability_of_improvement_counts_pairs_and_halves_ties() -> None:
    assert probability_of_improvement(column(2.0, 3.0), column(1.0, 2.0)) == pytest.approx((1 + 0.5 + 1 + 1) / 4)
    assert probability_of_improvement(column(1.0), column(1.0)) == pytest.approx(0.5)
    ours, theirs = np.array([[2.0, 0.0]]), np.array([[1.0, 1.0]])
    assert probability_of_improvement(ours, theirs) == pytest.approx(0.5)  # averaged over tasks


def test_failed_runs_are_left_out_everywhere() -> None:
    scores = column(1.0, NAN, 3.0)
    assert interquartile_mean(scores) == pytest.approx(2.0)
    assert probability_of_improvement(scores, column(0.0, NAN)) == pytest.approx(1.0)
    assert np.isin(resampled(scores, np.random.default_rng(0))[:2], [1.0, 3.0]).all()


def test_a_resample_is_as_large_as_the_runs_that_there_are() -> None:
    scores = np.array([[1.0, 5.0], [NAN, 6.0], [3.0, 7.0], [NAN, 8.0]])
    drawn = resampled(scores, np.random.default_rng(0))
    assert np.isfinite(drawn).sum(axis=0).tolist() == [2, 4]
    # So that two runs of five leave as much in doubt as two of two.
    intervals = [
        interval(interquartile_mean, column(*runs), rng=np.random.default_rng(0), replicates=200)
        for runs in ((1.0, 3.0), (1.0, 3.0, NAN, NAN, NAN))
    ]
    assert intervals[0] == intervals[1] == (1.0, 3.0)


def test_resampling_never_mixes_tasks() -> None:
    scores = np.array([[0.0, 10.0], [1.0, 11.0], [2.0, 12.0]])
    for seed in range(20):
        drawn = resampled(scores, np.random.default_rng(seed))
        assert (drawn[:, 0] < 5).all()
        assert (drawn[:, 1] > 5).all()


def test_the_bootstrap_interval_covers_the_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        low, high = interval(interquartile_mean, rng.normal(5.0, 2.0, (20, 1)), rng=rng, replicates=300)
        covered += low <= 5.0 <= high
    assert 0.85 <= covered / 200 <= 0.99
