"""Statistics of a few runs after Agarwal et al. 2021 (arXiv:2108.13264), "Deep RL at the edge of the precipice".

Scores are [R, T]: R runs (seeds) on each of T tasks, NaN where a run has failed. Intervals are 95 % percentile
bootstraps, stratified: runs are drawn with replacement within each task.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

REPLICATES = 2000
QUANTILES = (2.5, 97.5)


def interquartile_mean(scores: np.ndarray) -> float:
    """Mean of the middle half of all runs on all tasks (25 % cut off at each end, rounded down)."""
    ordered = np.sort(scores[np.isfinite(scores)])
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


def standard_error(scores: np.ndarray) -> float:
    """Of the mean over runs [R]; NaN for a single run."""
    finite = scores[np.isfinite(scores)]
    return float(finite.std(ddof=1) / np.sqrt(len(finite))) if len(finite) > 1 else float("nan")


def interval(
    statistic: Callable[..., float], *scores: np.ndarray, rng: np.random.Generator, replicates: int = REPLICATES
) -> tuple[float, float]:
    """95 % interval of `statistic(*scores)`, each [R, T]."""
    values = [statistic(*(resampled(s, rng) for s in scores)) for _ in range(replicates)]
    low, high = np.percentile(values, QUANTILES)
    return float(low), float(high)


def resampled(scores: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[R, T]: in each task as many draws with replacement as it has finite runs, then NaN.

    More would make a few runs look as certain as many.
    """
    drawn = np.full_like(scores, np.nan)
    for task in range(scores.shape[1]):
        finite = scores[np.isfinite(scores[:, task]), task]
        drawn[: len(finite), task] = rng.choice(finite, len(finite))
    return drawn


def probability_of_improvement(ours: np.ndarray, theirs: np.ndarray) -> float:
    """P(a run of ours scores higher than one of theirs), ties counting half, averaged over tasks. Both [·, T]."""
    wins = []
    for task in range(ours.shape[1]):
        a = ours[np.isfinite(ours[:, task]), task, None]
        b = theirs[None, np.isfinite(theirs[:, task]), task]
        wins.append(float((a > b).mean() + 0.5 * (a == b).mean()))
    return float(np.mean(wins))
