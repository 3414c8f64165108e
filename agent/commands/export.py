"""Export a run's trained actor as a verified bundle.

The graph holds normaliser and action bounds and is compared with the trained network on 10,000 observations and more,
extremes included; a difference fails the export and leaves nothing behind.

Example:
  slipway export runs/door --out door.policy
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from agent.console import messages, results, write_json
from agent.run_directory import RunDirectory


@dataclass(frozen=True, kw_only=True)
class Args:
    run: Annotated[Path, tyro.conf.Positional]
    """Run directory."""
    out: Path
    """Bundle folder to make."""
    json: bool = False
    """Print one JSON object."""


def run(args: Args) -> int:
    """Export and print what was checked."""
    RunDirectory(args.run).load_config()
    # Only here: neither --help nor a wrong path waits for torch.
    from agent.exporting import export_run

    with messages.status("exporting and comparing with the trained network"):
        outcome = export_run(args.run, args.out)
    if args.json:
        write_json(outcome)
    else:
        results.print(f"{args.out}: policy {outcome['policy']}, verified against the trained network")
    return 0
