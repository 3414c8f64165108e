"""What the command prints: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

results = Console(highlight=False)
messages = Console(stderr=True, highlight=False)

PLAIN_SECONDS = 5.0


class Bar(Protocol):
    """One line of progress."""

    def __call__(self, done: float, *, total: float | None = None, note: str = "") -> None:
        """Move to `done` of `total`."""


class Bars:
    """Progress on stderr: bars in a terminal, elsewhere a plain line every few seconds."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress

    def add(self, name: str, total: float | None) -> Bar:
        """A bar called `name`; `total` None while unknown."""
        if self._progress is None:
            return _PlainBar(name, total)
        return _RichBar(self._progress, self._progress.add_task(name, total=total, note=""))


class _RichBar:
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def __call__(self, done: float, *, total: float | None = None, note: str = "") -> None:
        self._progress.update(self._task, completed=done, note=note)
        if total is not None:
            self._progress.update(self._task, total=total)


class _PlainBar:
    def __init__(self, name: str, total: float | None) -> None:
        self._name, self._total = name, total
        self._said = time.monotonic()
        self._line = ""

    def __call__(self, done: float, *, total: float | None = None, note: str = "") -> None:
        self._total = self._total if total is None else total
        now = time.monotonic()
        if now - self._said < PLAIN_SECONDS:
            return
        self._said = now
        of = f" of {self._total:,.0f}" if self._total else ""
        line = f"{self._name}: {done:,.0f}{of}{f' · {note}' if note else ''}"
        if line != self._line:
            messages.print(line, markup=False)
        self._line = line


@contextmanager
def progress() -> Iterator[Bars]:
    """Bars for as long as the block runs."""
    if not messages.is_terminal:
        yield Bars(None)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:<10}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=messages) as made:
        yield Bars(made)


def write_json(record: dict[str, Any]) -> None:
    """One JSON object on stdout, for programs."""
    sys.stdout.write(json.dumps(record, allow_nan=False) + "\n")
    sys.stdout.flush()


def table(title: str, columns: list[str], rows: list[list[str]]) -> Table:
    """A plain table; the first column is text, the others figures."""
    made = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        made.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        made.add_row(*row)
    return made
