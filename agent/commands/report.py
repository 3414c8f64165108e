"""A self-contained HTML page about a run, finished or not: results, curves, data, replay, incidents, configuration.

Several runs stand side by side on one page, with what their configurations differ in.

Example:
  slipway report runs/door
  slipway report runs/door runs/door-2 --out doors.html
  slipway deploy door.policy --episodes 20 --json > flown.json
  slipway report runs/door --deployment flown.json
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from agent.console import results, working, write_json
from agent.errors import ConfigError
from agent.report import write_comparison, write_report


@dataclass(frozen=True, kw_only=True)
class Args:
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run directories."""
    out: Path | None = None
    """File to write; RUN/report.html where left out, runs.html beside the first of several."""
    rollout: bool = True
    """Draw an episode of the newest policy, for a single run."""
    deployment: Path | None = None
    """What `slipway deploy BUNDLE --json` printed, for a single run; RUN/deploy.json where left out."""
    json: bool = False
    """Print one JSON object."""


def run(args: Args) -> int:
    """Write the page and say where it is."""
    if not args.runs:
        raise ConfigError("name a run directory, the --out of a `slipway train`")
    with working("drawing the report"):
        if len(args.runs) == 1:
            page = write_report(args.runs[0], args.out, with_rollout=args.rollout, deployment=args.deployment)
        else:
            page = write_comparison(args.runs, args.out or args.runs[0].resolve().parent / "runs.html")
    if args.json:
        write_json({"runs": [str(run) for run in args.runs], "report": str(page)})
    else:
        results.print(f"report: {page}")
    return 0
