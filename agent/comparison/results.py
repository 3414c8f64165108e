"""What the finished runs of a comparison say about its methods."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agent.comparison.aggregates import interquartile_mean, interval, probability_of_improvement, standard_error
from agent.comparison.plan import Run
from agent.files import read_lines
from agent.report.results import data_result
from agent.run_directory import RunDirectory
from envs.catalog import lookup, normalized_score
from replay.episodes import episode_table
from replay.store import Store

OVERALL = "all"


@dataclass(frozen=True, kw_only=True)
class Method:
    """One variant on one task, or over all tasks."""

    label: str
    """As it was asked for."""
    scores: list[float | None]
    """Final score of each seed (on each task, task by task), None where the run has failed or is not done."""
    mean: float | None
    """Over the finished runs."""
    standard_error: float | None
    """Of that mean over seeds; None for a single run and over all tasks."""
    iqm: float | None
    """Interquartile mean of all runs."""
    iqm_ci: tuple[float, float] | None
    """Its 95 % stratified-bootstrap interval; None with fewer than two finished runs on a task."""
    improvement: float | None
    """Probability that one of its runs scores higher than one of the first method's; None for the first."""
    improvement_ci: tuple[float, float] | None
    """Its 95 % stratified-bootstrap interval; None where either side has fewer than two finished runs on a task."""
    seconds: float | None
    """Median wall time of the runs begun, evaluation included, beside the others that ran at the time."""
    updates_per_second: float | None
    """Median over log lines and runs."""
    failures: list[str]
    """Last words of the runs that failed."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One store and the methods on it."""

    name: str
    unit: str
    """Of the scores: "score" for D4RL-normalised ones (0 to 100 between random and expert), "return" otherwise."""
    data: float | None
    """The data's own mean score."""
    methods: list[Method]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def gather(
    plan: Sequence[Run], *, failures: Mapping[Path, str], seconds: Callable[[Run], float], rng: np.random.Generator
) -> list[Task]:
    """Each task of `plan`, then all tasks together where there are several and all have normalised scores."""
    tasks = list(dict.fromkeys(run.task for run in plan))
    labels = list(dict.fromkeys(run.variant for run in plan))
    seeds = 1 + max(run.seed for run in plan)
    units = {task: unit_of(next(run for run in plan if run.task == task)) for task in tasks}
    scores = {label: np.full((seeds, len(tasks)), np.nan) for label in labels}
    for run in plan:
        scores[run.variant][run.seed, tasks.index(run.task)] = score_of(run, units[run.task])
    made = []
    for column, task in enumerate(tasks):
        runs = [run for run in plan if run.task == task]
        alone = {label: values[:, column : column + 1] for label, values in scores.items()}
        methods = summarize(labels, alone, runs, failures, seconds, rng)
        made.append(Task(name=task, unit=units[task], data=data_score(runs[0], units[task]), methods=methods))
    if len(tasks) > 1 and set(units.values()) == {"score"}:
        methods = summarize(labels, scores, plan, failures, seconds, rng)
        made.append(Task(name=OVERALL, unit="score", data=None, methods=methods))
    return made


def summarize(
    labels: Sequence[str],
    scores: Mapping[str, np.ndarray],
    runs: Sequence[Run],
    failures: Mapping[Path, str],
    seconds: Callable[[Run], float],
    rng: np.random.Generator,
) -> list[Method]:
    """The methods' statistics over [R, T] scores each; None where a task has too few finished runs for them."""
    first = scores[labels[0]]
    methods = []
    for label in labels:
        own, mine = scores[label], [run for run in runs if run.variant == label]
        whole, several = fewest_runs(own) >= 1, fewest_runs(own) >= 2
        against = whole and label != labels[0] and fewest_runs(first) >= 1
        took = [spent for run in mine if (spent := seconds(run)) > 0.0]
        methods.append(
            Method(
                label=label,
                scores=[float(v) if np.isfinite(v) else None for v in own.T.ravel()],
                mean=float(np.nanmean(own)) if whole else None,
                standard_error=standard_error(own[:, 0]) if own.shape[1] == 1 and several else None,
                iqm=interquartile_mean(own) if whole else None,
                iqm_ci=interval(interquartile_mean, own, rng=rng) if several else None,
                improvement=probability_of_improvement(own, first) if against else None,
                improvement_ci=interval(probability_of_improvement, own, first, rng=rng)
                if against and several and fewest_runs(first) >= 2
                else None,
                seconds=statistics.median(took) if took else None,
                updates_per_second=speed_of(mine),
                failures=[failures[run.config.out] for run in mine if run.config.out in failures],
            )
        )
    return methods


def fewest_runs(scores: np.ndarray) -> int:
    """Finished runs on the task of [R, T] that has the fewest."""
    return int(np.isfinite(scores).sum(axis=0).min())


def score_of(run: Run, unit: str) -> float:
    """Normalised score or mean return of a finished run, else NaN."""
    record = RunDirectory(run.config.out).final_evaluation(run.config)
    if record is None:
        return float("nan")
    return float(record["normalized"] if unit == "score" else record["mean"])


def environment_id(run: Run) -> str:
    """The task's environment."""
    recorded = Store.open(run.config.replay).spec.env
    return run.config.env or (str(recorded["id"]) if recorded else "")


def unit_of(run: Run) -> str:
    """score where the task has reference returns or is judged by success, else return."""
    task = lookup(environment_id(run))
    return "score" if task.score == "success" or normalized_score(task, 0.0) is not None else "return"


def data_score(run: Run, unit: str) -> float | None:
    """Mean score of the logged episodes; None where the log does not tell it."""
    store = Store.open(run.config.replay)
    reader = store.reader()
    found = data_result(lookup(environment_id(run)), store, reader, episode_table(reader))
    return found.normalized if unit == "score" else found.mean if found.comparable else None


def speed_of(runs: Sequence[Run]) -> float | None:
    """Median updates a second of the offline phase (the online one's where there was no other)."""
    lines = [
        line
        for run in runs
        for line in read_lines(RunDirectory(run.config.out).metrics)
        if line["kind"] == "train" and "updates_per_second" in line
    ]
    offline = [line["updates_per_second"] for line in lines if line["phase"] == "offline"]
    return statistics.median(offline or [line["updates_per_second"] for line in lines]) if lines else None
