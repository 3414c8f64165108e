"""Scores: Wilson's interval against published numbers, and a summary that can be checked by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from agent.scores import student, summarize, wilson
from envs.catalog import CATALOG, Task

SUCCESS = CATALOG["PointMaze_Medium-v3"]
DOOR = CATALOG["AdroitHandDoor-v1"]
UNKNOWN = Task(id="Anything-v0")


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        # Newcombe 1998 (Statistics in Medicine 17:857), table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        # By symmetry with the third.
        (20, 20, 0.8389, 1.0),
    ],
)
def test_wilsons_interval_equals_published_values(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson(successes, trials) == pytest.approx((low, high), abs=5e-5)


def test_wilsons_bounds_solve_the_equation_that_defines_them() -> None:
    # |p − p̂| = z·√(p(1 − p)/n) at both bounds.
    for successes, trials in ((1, 3), (50, 100), (99, 100), (7, 1000)):
        for bound in wilson(successes, trials):
            assert abs(bound - successes / trials) == pytest.approx(
                1.959963984540054 * math.sqrt(bound * (1 - bound) / trials), rel=1e-9
            )


def test_the_interval_holds_the_rate_and_stays_within_zero_and_one() -> None:
    for trials in (1, 2, 20, 1000):
        for successes in range(0, trials + 1, max(1, trials // 20)):
            low, high = wilson(successes, trials)
            assert 0.0 <= low <= successes / trials + 1e-12
            assert successes / trials - 1e-12 <= high <= 1.0
            assert low < high


def test_wilsons_interval_covers_the_true_rate_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    for rate in (0.05, 0.3, 0.9):
        covered = [low <= rate <= high for low, high in (wilson(int(k), 60) for k in rng.binomial(60, rate, 4000))]
        assert np.mean(covered) == pytest.approx(0.95, abs=0.03)


def test_a_success_task_is_summarised_by_its_rate() -> None:
    score = summarize(
        SUCCESS, np.array([1.0, 0.0, 1.0, 1.0]), np.array([10, 600, 30, 50]), np.array([1.0, 0.0, 1.0, 1.0])
    )
    assert score.episodes == 4
    assert score.mean == 0.75
    assert score.success == 0.75
    assert score.normalized == 75.0
    assert score.ci == wilson(3, 4)
    assert score.length == 172.5
    assert score.steps_to_goal == 30.0  # of the three that arrived


def test_a_success_task_without_success_has_no_steps_to_goal() -> None:
    score = summarize(SUCCESS, np.zeros(5), np.full(5, 600), np.zeros(5))
    assert (score.mean, score.normalized, score.steps_to_goal) == (0.0, 0.0, None)
    assert score.ci is not None and score.ci[0] == 0.0 < score.ci[1]


@pytest.mark.parametrize(
    ("degrees", "quantile"),
    # NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2.
    [(1, 12.706), (2, 4.303), (5, 2.571), (9, 2.262), (10, 2.228), (11, 2.201), (30, 2.042), (100, 1.984)],
)
def test_students_quantile_equals_published_values(degrees: int, quantile: float) -> None:
    assert student(degrees) == pytest.approx(quantile, abs=5.1e-4)


def test_an_interval_from_few_episodes_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    for episodes in (2, 5, 20):
        draws = rng.standard_normal((4000, episodes))
        cis = [summarize(UNKNOWN, returns, np.ones(episodes), None).ci for returns in draws]
        covered = [ci is not None and ci[0] <= 0.0 <= ci[1] for ci in cis]
        assert np.mean(covered) == pytest.approx(0.95, abs=0.012)


def test_a_return_task_is_summarised_by_mean_and_students_interval() -> None:
    # Returns 0, 10, 20: mean 10, population deviation √(200/3), standard error √(200/3)/√2 = 5.7735.
    score = summarize(UNKNOWN, np.array([0.0, 10.0, 20.0]), np.array([5, 5, 5]), None)
    assert score.mean == 10.0
    assert score.std == pytest.approx(math.sqrt(200 / 3))
    assert score.ci == pytest.approx((10 - 4.30265 * 5.7735, 10 + 4.30265 * 5.7735), abs=1e-3)
    assert (score.normalized, score.success, score.steps_to_goal) == (None, None, None)


def test_a_dense_return_on_a_success_task_does_not_get_an_interval_of_rates() -> None:
    returns = np.array([0.2, 0.4, 0.9])
    score = summarize(SUCCESS, returns, np.array([5, 5, 5]), np.array([0.0, 0.0, 1.0]))
    half = 4.302652729749462 * returns.std() / math.sqrt(2)
    assert score.ci == pytest.approx((0.5 - half, 0.5 + half))
    assert score.normalized == pytest.approx(100 / 3)


def test_the_normalised_score_is_zero_at_random_and_a_hundred_at_the_expert() -> None:
    for expected, mean in ((0.0, -56.512833), (100.0, 2880.5693087298737)):
        score = summarize(DOOR, np.full(3, mean), np.full(3, 200), np.ones(3))
        assert score.normalized == pytest.approx(expected)


def test_one_episode_has_a_mean_but_no_interval() -> None:
    score = summarize(UNKNOWN, np.array([3.0]), np.array([7]), None)
    assert (score.mean, score.ci, score.to_json()["ci"]) == (3.0, None, None)
    assert score.episodes == 1


def test_a_score_is_plain_json() -> None:
    score = summarize(SUCCESS, np.array([1.0, 0.0]), np.array([10, 600]), np.array([1.0, 0.0]))
    assert json.loads(json.dumps(score.to_json())) == score.to_json()
