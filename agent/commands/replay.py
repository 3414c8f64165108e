"""Look after a store.

Example:
  slipway replay info door.zarr --json
  slipway replay verify door.zarr
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
    action: Annotated[Literal["info", "verify"], tyro.conf.Positional]
    """info: what is in it. verify: read every committed row and check it."""
    store: Annotated[Path, tyro.conf.Positional]
    """Store to look at."""
    json: bool = False
    """Print one JSON object."""


def run(args: Args) -> int:
    """Print what the store holds, or that every row of it is sound."""
    store = Store.open(args.store)
    record = store.info() if args.action == "info" else store.verify()
    if args.json:
        write_json(record)
    else:
        rows = [[name, str(value)] for name, value in record.items() if not isinstance(value, dict | list)]
        results.print(table(f"store {args.store}", ["what", "value"], rows))
    return 0
