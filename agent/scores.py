"""Summaries of evaluation episodes: mean return, success rate and their 95% intervals."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from envs.catalog import Task, normalized_score

Z_95 = 1.959963984540054
# Student's t for 1 to 9 degrees of freedom (two-sided 95%); beyond, its expansion in 1/degrees is exact to 1e-5.
T_95 = (
    12.706204736174698, 4.302652729749462, 3.182446305283708, 2.776445105197793, 2.570581835636314,
    2.446911851144969, 2.364624251592785, 2.306004135204166, 2.262157162798205,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Score:
    """What a set of episodes says about a policy."""

    episodes: int
    """Number of episodes."""
    mean: float
    """Mean undiscounted return."""
    std: float
    """Standard deviation of these returns as a population (over E, not E − 1)."""
    ci: tuple[float, float] | None
    """95% interval of the mean: Wilson's for success tasks, else Student's, which a single episode does not have."""
    normalized: float | None
    """100·(mean − min)/(max − min) with D4RL's references; 100·success rate where success is the score."""
    success: float | None
    """Share of episodes that succeeded, None where the task does not tell."""
    length: float
    """Mean steps per episode."""
    steps_to_goal: float | None
    """Mean steps of the successful episodes, None without any."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "ci": None if self.ci is None else list(self.ci)}


def summarize(task: Task, returns: np.ndarray, lengths: np.ndarray, successes: np.ndarray | None) -> Score:
    """`returns`, `lengths` [E] and `successes` [E] (0/1, or None) of E ≥ 1 finished episodes."""
    episodes = len(returns)
    by_success = task.score == "success" and successes is not None
    mean, std = float(returns.mean()), float(returns.std())
    ci = None
    if by_success and set(np.unique(returns)) <= {0.0, 1.0}:
        ci = wilson(int(returns.sum()), episodes)
    elif episodes > 1:
        half = student(episodes - 1) * std / math.sqrt(episodes - 1)
        ci = (mean - half, mean + half)
    success = None if successes is None else float(successes.mean())
    reached = lengths[successes > 0] if successes is not None else np.empty(0)
    normalized = normalized_score(task, mean)
    if by_success:
        normalized = 100.0 * float(success or 0.0)
    return Score(
        episodes=episodes,
        mean=mean,
        std=std,
        ci=ci,
        normalized=normalized,
        success=success,
        length=float(lengths.mean()),
        steps_to_goal=float(reached.mean()) if len(reached) else None,
    )


def student(degrees: int) -> float:
    """The 97.5% quantile of Student's t distribution (Abramowitz & Stegun 26.7.5 beyond the table)."""
    if degrees <= len(T_95):
        return T_95[degrees - 1]
    z, z2 = Z_95, Z_95 * Z_95
    terms = (
        (z2 + 1) / 4,
        ((5 * z2 + 16) * z2 + 3) / 96,
        (((3 * z2 + 19) * z2 + 17) * z2 - 15) / 384,
        ((((79 * z2 + 776) * z2 + 1482) * z2 - 1920) * z2 - 945) / 92160,
    )
    return z + z * sum(term / float(degrees) ** (power + 1) for power, term in enumerate(terms))


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's 95% score interval for a binomial proportion (Wilson 1927); exact enough near 0 and 1."""
    p = successes / trials
    z2 = Z_95 * Z_95
    centre = (p + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z_95 * math.sqrt(p * (1 - p) / trials + z2 / (4 * trials * trials)) / (1 + z2 / trials)
    return max(0.0, centre - half), min(1.0, centre + half)
