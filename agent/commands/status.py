"""What a run is doing now.

Example:
  slipway status runs/door --watch
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.live import Live
from rich.table import Table

from agent.console import results, table, write_json
from agent.errors import RunError
from agent.files import read_lines
from agent.run_directory import TURNING_POINTS, RunDirectory
from replay.processes import alive


@dataclass(frozen=True, kw_only=True)
class Args:
    run: Annotated[Path, tyro.conf.Positional]
    """Run directory."""
    watch: bool = False
    """Refresh every second until interrupted or done."""
    json: bool = False
    """Print status.json's content, whether it is running, and the last evaluation, as one JSON object."""


def run(args: Args) -> int:
    """Print the status, once or again and again."""
    directory = RunDirectory(args.run)
    if args.json:
        write_json(gather(directory))
        return 0
    if not args.watch:
        results.print(render(gather(directory)))
        return 0
    with Live(render(gather(directory)), console=results, refresh_per_second=4) as live:
        while (status := gather(directory))["running"]:
            live.update(render(status))
            time.sleep(1.0)
        live.update(render(status))
    return 0


def gather(directory: RunDirectory) -> dict[str, Any]:
    """status.json with what can be said beside it."""
    directory.load_config()
    try:
        status: dict[str, Any] = json.loads(directory.status.read_text())
    except OSError as error:
        raise RunError(f"{directory.path} has no status yet: its agent has not started") from error
    events = read_lines(directory.events)
    evaluations = directory.evaluations()
    status["running"] = not status["stopped"] and alive(status["pid"])
    incidents = [event for event in events if event["kind"] not in TURNING_POINTS]
    status["incidents"] = len(incidents)
    status["last_incident"] = incidents[-1]["message"] if incidents else None
    status["last_evaluation"] = evaluations[-1] if evaluations else None
    return status


def render(status: dict[str, Any]) -> Table:
    """The status as a table of names and values."""
    evaluation = status["last_evaluation"]
    rows = [
        ["state", "running" if status["running"] else "not running"],
        ["phase", status["phase"]],
        ["offline updates", f"{status['pretrain_step']:,} of {status['pretrain_steps']:,}"],
        ["online steps", f"{status['online_steps']:,} of {status['planned_online_steps']:,}"],
        ["online updates", f"{status['online_updates']:,}"],
        ["policy version", str(status["policy_version"])],
        ["learner waited", f"{status['learner_wait_seconds']:.1f} s"],
        *(
            [f"collector {i}", f"{c['steps']:,} steps, waited {c['wait_seconds']:.1f} s, {c['faults']} faults"]
            for i, c in enumerate(status["collectors"])
        ),
        ["last evaluation", f"{evaluation['label']}: {evaluation['mean']:.3g}" if evaluation else "none"],
        ["incidents", f"{status['incidents']}" + (f" ({status['last_incident']})" if status["incidents"] else "")],
        ["as of", time.strftime("%H:%M:%S", time.localtime(status["time"]))],
    ]
    return table("slipway status", ["what", "value"], rows)
