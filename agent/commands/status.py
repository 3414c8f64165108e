"""What a run is doing now: phase, steps, rates, waits, replay, staleness, incidents, last evaluation, disk left.

Example:
  slipway status runs/door --watch
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.live import Live

from agent.console import results, write_json
from agent.errors import RunError
from agent.files import Follower
from agent.run_directory import TURNING_POINTS, RunDirectory
from agent.status_view import PHASES, line, panel
from replay.processes import alive

REFRESH_SECONDS = 1.0
PLAIN_SECONDS = 10.0
RATE_SECONDS = 30.0
COUNTERS = {
    "pretrain_per_second": "pretrain_step",
    "updates_per_second": "online_updates",
    "steps_per_second": "online_steps",
}

NUMBER = (int, float)
KINDS: dict[str, type | tuple[type, ...]] = {
    "time": NUMBER, "pid": int, "phase": str, "stopped": bool, "pretrain_step": int, "pretrain_steps": int,
    "online_steps": int, "planned_online_steps": int, "online_updates": int, "policy_version": int,
    "learner_wait_seconds": NUMBER, "collectors": list,
}  # fmt: skip
"""What is always in status.json, and of which kind."""
COLLECTOR_KINDS: dict[str, type | tuple[type, ...]] = {
    "steps": int, "episodes": int, "policy_version": int, "wait_seconds": NUMBER, "faults": int,
}  # fmt: skip
"""The same of each of its collectors."""


@dataclass(frozen=True, kw_only=True)
class Args:
    run: Annotated[Path, tyro.conf.Positional]
    """Run directory."""
    watch: bool = False
    """Refresh every second until the run ends; Ctrl-C leaves the run alone."""
    json: bool = False
    """Print status.json and what can be said beside it as one JSON object; with --watch, one a second."""


def run(args: Args) -> int:
    """Print the status, once or again and again."""
    watched = Watched(RunDirectory(args.run))
    status = watched.status()
    if args.json:
        write_json(status)
    elif not results.is_terminal:
        # A file or a pipe gets a page once, a line each time.
        results.print(line(status) if args.watch else panel(status))
    elif not args.watch:
        results.print(panel(status))
    else:
        with Live(panel(status), console=results, refresh_per_second=4, vertical_overflow="visible") as live:
            while status["running"]:
                time.sleep(REFRESH_SECONDS)
                status = watched.status()
                live.update(panel(status))
        return 0
    while args.watch and status["running"]:
        time.sleep(REFRESH_SECONDS if args.json else PLAIN_SECONDS)
        status = watched.status()
        if args.json:
            write_json(status)
        else:
            results.print(line(status))
    return 0


class Told:
    """The last of what a run's metrics.jsonl and events.jsonl tell, each line read once."""

    def __init__(self, directory: RunDirectory) -> None:
        self._metrics, self._events = Follower(directory.metrics), Follower(directory.events)
        self.evaluations: deque[dict[str, Any]] = deque(maxlen=2)
        self.training: deque[dict[str, Any]] = deque(maxlen=2)
        self.incidents = 0
        self.last_incident: dict[str, Any] = {}

    def read_on(self) -> None:
        """Take in what is new."""
        for record in self._metrics.each():
            if record["kind"] == "evaluation":
                self.evaluations.append(record)
            elif record["kind"] == "train":
                self.training.append(record)
        for event in self._events.each():
            if event["kind"] not in TURNING_POINTS:
                self.incidents += 1
                self.last_incident = event


class Watched:
    """A run that is looked at once or again and again."""

    def __init__(self, directory: RunDirectory) -> None:
        self._directory, self._told = directory, Told(directory)
        self._history: deque[dict[str, Any]] = deque()
        "status.json as it was, oldest first, over the last `RATE_SECONDS`."

    def status(self) -> dict[str, Any]:
        """`gather` now, with the rates since the oldest status seen."""
        self._told.read_on()
        status, history = gather(self._directory, self._told), self._history
        history.append(status)
        while len(history) > 2 and status["time"] - history[0]["time"] > RATE_SECONDS:
            history.popleft()
        if status["time"] > history[0]["time"]:
            status |= rates(history[0], status)
        return status


def gather(directory: RunDirectory, told: Told) -> dict[str, Any]:
    """status.json with what can be said beside it; RunError where the run has none yet."""
    directory.load_config()
    if not directory.status.exists():
        raise RunError(f"{directory.path} has no status yet: its agent has not started")
    status = directory.read_record(directory.status)
    check_status(status, directory.status)
    status["run"] = str(directory.path)
    status["running"] = not status["stopped"] and alive(status["pid"])
    status["incidents"] = told.incidents
    status["last_incident"] = told.last_incident.get("message")
    status["last_incident_time"] = told.last_incident.get("time")
    status["last_evaluation"] = told.evaluations[-1] if told.evaluations else None
    status["evaluation_before"] = told.evaluations[0] if len(told.evaluations) > 1 else None
    status["replay_bytes"] = bytes_below(directory.replay)
    status.setdefault("disk_free_bytes", shutil.disk_usage(directory.path).free)
    lines = told.training
    status |= dict.fromkeys(COUNTERS)
    if status["running"] and len(lines) == 2 and lines[1]["time"] > lines[0]["time"]:
        # Until there is a history, the learner's last two lines tell.
        seconds = lines[1]["time"] - lines[0]["time"]
        updates = (lines[1]["updates"] - lines[0]["updates"]) / seconds
        status["pretrain_per_second" if lines[1]["phase"] == "offline" else "updates_per_second"] = updates
        if lines[1]["phase"] == "online":
            status["steps_per_second"] = (lines[1]["online_steps"] - lines[0]["online_steps"]) / seconds
    return status


def bytes_below(folder: Path) -> int:
    """What the files below `folder` take on the disk; those that a writer takes away meanwhile do not count."""
    taken = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                taken += 512 * Path(place, name).stat().st_blocks
    return taken


def check_status(status: dict[str, Any], file: Path) -> None:
    """RunError unless everything that is shown of a status is there, and of its kind."""
    parts = [("", status, KINDS)]
    if isinstance(status.get("collectors"), list):
        parts += [(f"collectors[{i}].", each, COLLECTOR_KINDS) for i, each in enumerate(status["collectors"])]
    for where, part, kinds in parts:
        for name, kind in kinds.items():
            value = part.get(name) if isinstance(part, dict) else None
            if not isinstance(value, kind) or (name == "phase" and value not in PHASES):
                raise RunError(
                    f"{file}: {where}{name} is {value!r:.40}, which no agent writes: the file is damaged; "
                    "the run's own `slipway train` command makes it anew"
                )


def rates(before: dict[str, Any], now: dict[str, Any]) -> dict[str, float]:
    """Counts per second between two statuses."""
    seconds = now["time"] - before["time"]
    return {name: max(0.0, (now[key] - before[key]) / seconds) for name, key in COUNTERS.items()}
