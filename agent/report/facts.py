"""What a run's files say, gathered once for its report: nothing is computed twice and nothing is made up."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agent.config import TrainConfig
from agent.errors import RunError
from agent.files import read_lines
from agent.report.provenance import data_identity
from agent.report.results import Result, data_result, latest_evaluations, result_of, task_of
from agent.report.streams import StreamFacts, Versions, stream_facts
from agent.run_directory import TURNING_POINTS, RunDirectory
from envs.catalog import Task
from replay.episodes import episode_table
from replay.errors import ReplayError
from replay.store import Store


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
    diagnostics: list[dict[str, Any]]
    """Lines of kind diagnostics: effective rank, dead units, calibration."""
    pace: list[dict[str, Any]]
    """Lines of kind pace: waits and staleness, every ten seconds of fine-tuning."""
    incidents: list[dict[str, Any]]
    """Lines of events.jsonl that tell of something that went wrong."""
    turning_points: list[dict[str, Any]]
    """The other lines of events.jsonl."""
    deployment: dict[str, Any] | None
    """deploy.json: the control loop's own report."""
    export: dict[str, Any] | None
    """export.json: what the newest export of the run was compared with, and how it agreed."""
    data_returns: np.ndarray | None
    """Returns of the logged episodes that were not interrupted, [E]; None where the store cannot be read."""
    data_identity: str
    """Equal where runs learn from the same data, or from logs of the same request; the path of one that is gone."""
    data_problem: str
    """Why the logged data is not shown; empty where it is."""
    offline: list[StreamFacts]
    """Streams of the offline store."""
    online: list[StreamFacts]
    """Streams of the run's own store."""
    versions: Versions | None
    """The run's own steps by policy version; None where it has none."""
    started: float | None
    """Unix time of the first record."""
    as_of: float | None
    """Unix time of the newest record."""

    @property
    def tuned(self) -> Result | None:
        """The newest evaluation of a fine-tuned policy, final or not."""
        candidates = [self.results[key] for key in ("finetuned", "curve") if key in self.results]
        return max(candidates, key=lambda result: result.online_steps, default=None)


def gather(path: Path, deployment: Path | None = None) -> Facts:
    """Read the run at `path`. RunError where it is none, or where one of its records is damaged.

    `deployment` holds what `slipway deploy --json` printed, in place of RUN/deploy.json; RunError where it does not.
    """
    run = RunDirectory(path)
    config = run.load_config()
    env = read_json(run.env)
    task = task_of(env)
    metrics, events = read_lines(run.metrics), read_lines(run.events)
    status, flown = read_json(run.status), read_deployment(deployment) if deployment else read_json(run.deployment)
    evaluations = latest_evaluations(metrics)
    results: dict[str, Result] = {}
    returns, identity, problem = None, str(config.replay), ""
    offline: list[StreamFacts] = []
    try:
        store = Store.open(config.replay)
        reader = store.reader()
        table = episode_table(reader)
        offline, _ = stream_facts(reader, table)
        returns = table.returns[~table.interrupted]
        identity = data_identity(store.spec, table.returns)
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
    if flown is not None and "mean" in flown and "ci" in flown:
        results["deployed"] = result_of(flown, task, key="deployed")
    online: list[StreamFacts] = []
    versions = None
    if (run.replay / "zarr.json").exists():
        reader = Store.open(run.replay).reader()
        online, versions = stream_facts(reader, episode_table(reader))
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
        diagnostics=surviving(record for record in metrics if record.get("kind") == "diagnostics"),
        pace=[record for record in metrics if record.get("kind") == "pace"],
        incidents=[event for event in events if event.get("kind") not in TURNING_POINTS],
        turning_points=[event for event in events if event.get("kind") in TURNING_POINTS],
        deployment=flown,
        export=read_json(run.export),
        data_returns=returns if returns is not None and len(returns) else None,
        data_identity=identity,
        data_problem=problem,
        offline=offline,
        online=online,
        versions=versions,
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


def read_deployment(path: Path) -> dict[str, Any]:
    """The control loop's report in `path`; RunError where it is none."""
    record = read_json(path)
    if record is None or "latency_us" not in record:
        raise RunError(f"{path} is no deployment's record: make one with `slipway deploy BUNDLE --json > {path}`")
    return record


def surviving(lines: Any) -> list[dict[str, Any]]:
    """Learner's lines with ascending updates: after a resume, the lines beyond its checkpoint were taken back."""
    kept: list[dict[str, Any]] = []
    for line in lines:
        while kept and kept[-1]["updates"] >= line["updates"]:
            kept.pop()
        kept.append(line)
    return kept
