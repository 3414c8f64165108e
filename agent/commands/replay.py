"""Look after a store.

Example:
  slipway replay info door.zarr --json
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from agent.console import results, table, write_json
from replay.store import Store


@dataclass(frozen=True, kw_only=True)
class Args:
    action: Annotated[Literal["info"], tyro.conf.Positional]
    """info: what is in it."""
    store: Annotated[Path, tyro.conf.Positional]
    """Store to look at."""
    json: bool = False
    """Print one JSON object."""


def run(args: Args) -> int:
    """Print what the store holds."""
    record = Store.open(args.store).info()
    if args.json:
        write_json(record)
    else:
        rows = [[name, str(value)] for name, value in record.items() if not isinstance(value, dict | list)]
        results.print(table(f"store {args.store}", ["what", "value"], rows))
    return 0
