"""What a run's files say, gathered once for its report: nothing is computed twice and nothing is made up."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agent.config import TrainConfig
from agent.errors import RunError
from agent.files import read_lines
from agent.run_directory import TURNING_POINTS, RunDirectory
from agent.scores import summarize, wilson
from envs.catalog import Task, lookup, normalized_score
from envs.errors import EnvError
from replay.episodes import EpisodeTable, episode_table
from replay.errors import ReplayError
from replay.reader import StoreReader
from replay.store import Store

# Turning points of a run that are no incidents: it was stopped and went on.
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
    ci: tuple[float, float]
    """95% interval of the mean."""
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


@dataclass(frozen=True, kw_only=True)
class StreamFacts:
    """What one stream of a store holds."""

    name: str
    """Name of the stream."""
    steps: int
    """Transitions."""
    episodes: int
    """Episodes, interrupted ones included."""
    terminated: int
    """Episodes that ended in the task's sense."""
    truncated: int
    """Episodes that ended by a limit."""
    interrupted: int
    """Episodes cut by a fault or shutdown, or still running."""
    mean_return: float | None
    """Mean return of the episodes that were not interrupted."""
    versions: tuple[int, int]
    """Oldest and newest policy version that acted; 0 where no versioned policy did."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Everything that a report shows."""

    name: str
    """Name of the run directory."""
    config: TrainConfig
    """The resolved configuration."""
    env: dict[str, Any] | None
    """Environment spec, None before the run was set up."""
    task: Task | None
    """What the catalogue knows of the environment."""
    status: dict[str, Any] | None
    """status.json."""
    results: dict[str, Result]
    """By key, in the order of the loop; only what exists."""
    curve: list[Result]
    """Every evaluation, by online steps."""
    training: list[dict[str, Any]]
    """Learner's lines of metrics.jsonl; those that a resume took back are left out."""
    incidents: list[dict[str, Any]]
    """Lines of events.jsonl that tell of something that went wrong."""
    turning_points: list[dict[str, Any]]
    """The other lines of events.jsonl."""
    deployment: dict[str, Any] | None
    """deploy.json: the control loop's own report."""
    data_returns: np.ndarray | None
    """Returns of the logged episodes that were not interrupted, [E]; None where the store cannot be read."""
    data_problem: str
    """Why the logged data is not shown; empty where it is."""
    offline: list[StreamFacts]
    """Streams of the offline store."""
    online: list[StreamFacts]
    """Streams of the run's own store."""
    started: float | None
    """Unix time of the first record."""
    as_of: float | None
    """Unix time of the newest record."""

    @property
    def tuned(self) -> Result | None:
        """The newest evaluation of a fine-tuned policy, final or not."""
        candidates = [self.results[key] for key in ("finetuned", "curve") if key in self.results]
        return max(candidates, key=lambda result: result.online_steps, default=None)


def gather(path: Path) -> Facts:
    """Read the run at `path`. RunError where it is none, or where one of its records is damaged."""
    run = RunDirectory(path)
    config = run.load_config()
    env = read_json(run.env)
    task = task_of(env)
    metrics, events = read_lines(run.metrics), read_lines(run.events)
    status, deployment = read_json(run.status), read_json(path / "deploy.json")
    evaluations = latest_evaluations(metrics)
    results: dict[str, Result] = {}
    returns, offline, problem = None, [], ""
    try:
        store = Store.open(config.replay)
        reader = store.reader()
        table = episode_table(reader)
        offline = stream_facts(reader, table)
        returns = table.returns[~table.interrupted]
        if len(returns):
            results["data"] = data_result(task, store, reader, table)
    except ReplayError as error:
        problem = str(error)
    for record in evaluations:
        made = result_of(record, task, key=record["label"])
        # The curve's newest point speaks for the run only while the final evaluation is still to come.
        if record["label"] == "finetuned":
            results.pop("curve", None)
        if record["label"] in ("pretrained", "finetuned", "curve"):
            results[record["label"]] = made
    if deployment is not None and "mean" in deployment and "ci" in deployment:
        results["deployed"] = result_of(deployment, task, key="deployed")
    online: list[StreamFacts] = []
    if (run.replay / "zarr.json").exists():
        reader = Store.open(run.replay).reader()
        online = stream_facts(reader, episode_table(reader))
    times = [float(r["time"]) for r in (*metrics, *events, *([status] if status else [])) if "time" in r]
    return Facts(
        name=path.resolve().name,
        config=config,
        env=env,
        task=task,
        status=status,
        results=results,
        curve=[result_of(record, task, key=record["label"]) for record in evaluations],
        training=surviving(record for record in metrics if record.get("kind") == "train"),
        incidents=[event for event in events if event.get("kind") not in TURNING_POINTS],
        turning_points=[event for event in events if event.get("kind") in TURNING_POINTS],
        deployment=deployment,
        data_returns=returns if returns is not None and len(returns) else None,
        data_problem=problem,
        offline=offline,
        online=online,
        started=min(times, default=None),
        as_of=max(times, default=None),
    )


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in `path`, None where there is no such file."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read as JSON ({error}): restore it, or remove it to leave it out") from error
    if not isinstance(record, dict):
        raise RunError(f"{path} holds no JSON object: restore it, or remove it to leave it out")
    return record


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


def surviving(lines: Any) -> list[dict[str, Any]]:
    """Learner's lines with ascending updates: after a resume, the lines beyond its checkpoint were taken back."""
    kept: list[dict[str, Any]] = []
    for line in lines:
        while kept and kept[-1]["updates"] >= line["updates"]:
            kept.pop()
        kept.append(line)
    return kept


def result_of(record: dict[str, Any], task: Task | None, *, key: str) -> Result:
    """A result from an evaluation line or a deployment's record."""
    values = {name: record.get(name) for name in RESULT_KEYS}
    mean, ci, success = float(record["mean"]), (float(record["ci"][0]), float(record["ci"][1])), values["success"]
    episodes = int(record.get("episodes") or 0)
    success_ci = normalized_ci = None
    if success is not None and episodes:
        success_ci = ci if success == mean else wilson(round(success * episodes), episodes)
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
    task: Task | None, ci: tuple[float, float], success_ci: tuple[float, float] | None
) -> tuple[float, float] | None:
    """The interval on the scale of the normalised score; None where the scale is not known."""
    if task is None:
        return None
    if task.score == "success":
        return (100.0 * success_ci[0], 100.0 * success_ci[1]) if success_ci else None
    low, high = normalized_score(task, ci[0]), normalized_score(task, ci[1])
    return None if low is None or high is None else (low, high)


def data_result(task: Task | None, store: Store, reader: StoreReader, table: EpisodeTable) -> Result:
    """The logged data as if it were a policy: its episodes that were not interrupted."""
    whole = ~table.interrupted
    returns, lengths = table.returns[whole], table.length[whole]
    successes = data_successes(task, store, reader, table)
    score = summarize(task or Task(id=""), returns, lengths, None if successes is None else successes[whole])
    if task is not None and (task.scoring_kwargs or (task.score == "success" and successes is None)):
        # Recorded under another reward count than the score is for: the two do not compare.
        score = dataclasses.replace(score, normalized=None)
    made = result_of(score.to_json(), task, key="data")
    return dataclasses.replace(made, label="Logged data", detail=f"{int(lengths.sum()):,} steps")


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


def stream_facts(reader: StoreReader, table: EpisodeTable) -> list[StreamFacts]:
    """One line for each stream that holds an episode."""
    facts, streams = [], np.asarray(table.stream, dtype=object)
    for name in sorted(set(table.stream)):
        of = streams == name
        starts, lengths, whole = table.start[of], table.length[of], ~table.interrupted[of]
        version = reader.meta(name, int(starts[0]), int(starts[-1] + lengths[-1]))[:, 0]
        facts.append(
            StreamFacts(
                name=name,
                steps=int(lengths.sum()),
                episodes=len(starts),
                terminated=int(table.terminated[of].sum()),
                truncated=int(table.truncated[of].sum()),
                interrupted=int(table.interrupted[of].sum()),
                mean_return=float(table.returns[of][whole].mean()) if whole.any() else None,
                versions=(int(version.min()), int(version.max())),
            )
        )
    return facts
