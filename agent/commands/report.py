"""A self-contained HTML page about a run, finished or not: results, curves, data, replay, incidents, configuration.

Example:
  slipway report runs/door
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from agent.console import results, working, write_json
from agent.report import write_report


@dataclass(frozen=True, kw_only=True)
class Args:
    run: Annotated[Path, tyro.conf.Positional]
    """Run directory."""
    out: Path | None = None
    """File to write; RUN/report.html where left out."""
    json: bool = False
    """Print one JSON object."""


def run(args: Args) -> int:
    """Write the page and say where it is."""
    with working("drawing the report"):
        page = write_report(args.run, args.out)
    if args.json:
        write_json({"run": str(args.run), "report": str(page)})
    else:
        results.print(f"report: {page}", soft_wrap=True, markup=False)
    return 0
