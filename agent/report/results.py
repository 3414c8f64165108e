"""Results of a run on one scale: its logged data and each evaluated policy, with 95% intervals."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from agent.scores import summarize, wilson
from envs.catalog import Task, counts_as_scored, lookup, normalized_score
from envs.errors import EnvError
from replay.episodes import EpisodeTable
from replay.reader import StoreReader
from replay.store import Store

RESULT_KEYS = ("episodes", "mean", "ci", "normalized", "success", "length", "steps_to_goal")


@dataclass(frozen=True, kw_only=True)
class Result:
    """One line of the results: the logged data, or a policy over a number of episodes."""

    key: str
    """data, pretrained, finetuned, curve or deployed."""
    label: str
    """Name for people."""
    detail: str
    """Which policy, after how much training."""
    mean: float
    """Mean undiscounted return."""
    ci: tuple[float, float] | None
    """95% interval of the mean; None for a single episode."""
    normalized: float | None
    """Normalised score, 0 to 100 between the task's references; None where it has none."""
    normalized_ci: tuple[float, float] | None
    """95% interval of the normalised score."""
    success: float | None
    """Share of episodes that succeeded, None where the task does not tell."""
    success_ci: tuple[float, float] | None
    """95% interval of the success rate (Wilson)."""
    episodes: int
    """Number of episodes."""
    length: float | None
    """Mean steps per episode."""
    steps_to_goal: float | None
    """Mean steps of the successful episodes."""
    online_steps: int
    """Online steps before it was evaluated."""
    comparable: bool = True
    """Whether its return counts rewards as the other results do; False for data recorded under another count."""


def task_of(env: dict[str, Any] | None) -> Task | None:
    """The catalogue's task; None for an environment that is not installed here."""
    try:
        return lookup(str(env["id"])) if env else None
    except EnvError:
        return None


def latest_evaluations(metrics: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The newest evaluation under each label and step, ordered by online steps."""
    newest = {(r["label"], r["online_steps"]): r for r in metrics if r.get("kind") == "evaluation"}
    return sorted(newest.values(), key=lambda record: (record["online_steps"], record["time"]))


def result_of(record: dict[str, Any], task: Task | None, *, key: str) -> Result:
    """A result from an evaluation line or a deployment's record."""
    values = {name: record.get(name) for name in RESULT_KEYS}
    mean, success = float(record["mean"]), values["success"]
    ci = None if record["ci"] is None else (float(record["ci"][0]), float(record["ci"][1]))
    episodes = int(record.get("episodes") or 0)
    success_ci = normalized_ci = None
    if success is not None and episodes:
        success_ci = ci if ci and success == mean else wilson(round(success * episodes), episodes)
    if values["normalized"] is not None:
        normalized_ci = normalized_interval(task, ci, success_ci)
    version = record.get("policy_version")
    parts = [f"policy version {version}"] if version else []
    if key in ("finetuned", "curve"):
        parts.append(f"after {record['online_steps']:,} online steps")
    elif key == "pretrained":
        parts.append(f"after {record['updates']:,} offline updates")
    labels = {"pretrained": "Pretrained", "finetuned": "Fine-tuned", "curve": "So far", "deployed": "Deployed"}
    return Result(
        key=key,
        label=labels.get(key, key),
        detail=", ".join(parts),
        mean=mean,
        ci=ci,
        normalized=values["normalized"],
        normalized_ci=normalized_ci,
        success=success,
        success_ci=success_ci,
        episodes=episodes,
        length=values["length"],
        steps_to_goal=values["steps_to_goal"],
        online_steps=int(record.get("online_steps") or 0),
    )


def normalized_interval(
    task: Task | None, ci: tuple[float, float] | None, success_ci: tuple[float, float] | None
) -> tuple[float, float] | None:
    """The interval on the scale of the normalised score; None where that or the interval is not known."""
    if task is None:
        return None
    if task.score == "success":
        return (100.0 * success_ci[0], 100.0 * success_ci[1]) if success_ci else None
    if ci is None:
        return None
    low, high = normalized_score(task, ci[0]), normalized_score(task, ci[1])
    return None if low is None or high is None else (low, high)


def data_result(task: Task | None, store: Store, reader: StoreReader, table: EpisodeTable) -> Result:
    """The logged data as if it were a policy: its episodes that were not interrupted."""
    whole = ~table.interrupted
    returns, lengths = table.returns[whole], table.length[whole]
    successes = data_successes(task, store, reader, table)
    score = summarize(task or Task(id=""), returns, lengths, None if successes is None else successes[whole])
    comparable = task is None or counts_as_scored(task.id, store.spec.env)
    if not comparable or (task is not None and task.score == "success" and successes is None):
        score = dataclasses.replace(score, normalized=None)
    made = result_of(score.to_json(), task, key="data")
    detail = f"{int(lengths.sum()):,} steps" + ("" if comparable else ", rewards counted otherwise than in scoring")
    return dataclasses.replace(made, label="Logged data", detail=detail, comparable=comparable)


def data_successes(task: Task | None, store: Store, reader: StoreReader, table: EpisodeTable) -> np.ndarray | None:
    """Whether each logged episode succeeded, [E] of 0/1; None where the data does not tell."""
    if task is None or task.success_key is None:
        return None
    column = store.spec.offsets.get("success")
    if "success" in store.spec.info and column is not None:
        return np.array(
            [
                float((reader.rows(stream, int(start), int(start + length))[:, column] > 0).any())
                for stream, start, length in zip(table.stream, table.start, table.length, strict=True)
            ]
        )
    # A sparse goal reward: the return itself says whether the goal was reached.
    if task.score == "success" and set(np.unique(table.returns)) <= {0.0, 1.0}:
        return table.returns
    return None
