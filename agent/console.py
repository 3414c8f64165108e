"""What the command prints: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

results = Console(highlight=False)
messages = Console(stderr=True, highlight=False)


def write_json(record: dict[str, Any]) -> None:
    """One JSON object on stdout, for programs."""
    sys.stdout.write(json.dumps(record, allow_nan=False) + "\n")
    sys.stdout.flush()


def progress() -> Progress:
    """Bars on stderr: what, how far, how fast, how long still; silent when stderr is no terminal."""
    return Progress(
        SpinnerColumn(),
        TextColumn("[bold]{task.description:<12}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=messages,
        disable=not messages.is_terminal,
    )


def table(title: str, columns: list[str], rows: list[list[str]]) -> Table:
    """A plain table; the first column is text, the others figures."""
    made = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        made.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        made.add_row(*row)
    return made
