"""What the command prints: results on stdout, everything else on stderr, and no more of that than `--log-level` asks.

A terminal shows bars with phase, rate and time left; elsewhere a plain line says the same, ever more rarely. Nothing is
told by colour alone, and 80 columns are enough.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn
from rich.table import Column, Table
from rich.text import Text


class Output(Console):
    """A console that shows text as it is: paths and names hold brackets and colons, and a line is the reader's to wrap.

    What is to be styled is a `Text`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def print(self, *objects: Any, **options: Any) -> None:
        """Lines are never broken or cut, tables and panels keep to the width."""
        if all(isinstance(each, str | Text) for each in objects):
            options.setdefault("soft_wrap", True)
        super().print(*objects, **options)

    def on_broken_pipe(self) -> None:
        """Called while the BrokenPipeError is handled: a reader who left (`... | head`) is no failure of ours."""
        raise


results = Output()
messages = Output(stderr=True)

LEVELS = ("debug", "info", "warning", "error")
# Plain lines: the first after some seconds, then ever more rarely, for a log of a run of days.
PLAIN_SECONDS = 5.0
PLAIN_SECONDS_AT_MOST = 60.0

_shown_from = LEVELS.index("info")


def set_level(level: str) -> None:
    """Show messages of `level` (one of `LEVELS`) and above; progress and what is said on the way are `info`."""
    global _shown_from
    _shown_from = LEVELS.index(level)


def shows(level: str) -> bool:
    """Whether messages of `level` are shown."""
    return LEVELS.index(level) >= _shown_from


def say(text: str, level: str = "info") -> None:
    """One line for people: `debug` for those who look for a fault, `warning` for what went wrong but ended nothing."""
    if shows(level):
        prefix, style = {"warning": ("warning: ", "bold"), "debug": ("", "dim")}.get(level, ("", ""))
        # A style of `print` itself would also be that of the bars below.
        messages.print(Text(prefix + text, style=style))


def working(text: str) -> AbstractContextManager[object]:
    """A spinner beside `text` while the block runs; nothing where nobody watches."""
    return messages.status(Text(text)) if shows("info") and messages.is_terminal else nullcontext()


# --- progress ---------------------------------------------------------------------------------------------------------


class Bar(Protocol):
    """One line of progress."""

    def __call__(self, done: float, *, total: float | None = None, note: str = "") -> None:
        """Move to `done` of `total`; `note` is the phase or what else there is to know."""


class Bars:
    """Progress on stderr: bars in a terminal, elsewhere a plain line now and then, nothing above level info."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress

    def add(self, name: str, total: float | None) -> Bar:
        """A bar called `name`, seen once it moves; `total` None while unknown."""
        if self._progress is not None:
            return _RichBar(self._progress, self._progress.add_task(name, total=total, note="", visible=False))
        return _PlainBar(name, total)


class _RichBar:
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task, self._seen = progress, task, False

    def __call__(self, done: float, *, total: float | None = None, note: str = "") -> None:
        if not self._seen:
            # What an earlier start of the command did must not count as speed.
            self._progress.reset(self._task, completed=int(done), visible=True)
            self._seen = True
        self._progress.update(self._task, completed=done, note=note)
        if total is not None:
            self._progress.update(self._task, total=total)


class _PlainBar:
    def __init__(self, name: str, total: float | None) -> None:
        self._name, self._total = name, total
        self._every = PLAIN_SECONDS
        self._said: tuple[float, float] | None = None
        self._shown: tuple[float, str] | None = None

    def __call__(self, done: float, *, total: float | None = None, note: str = "") -> None:
        self._total = self._total if total is None else total
        now = time.monotonic()
        if self._said is None:
            self._said = now, done
        since, before = self._said
        if not shows("info") or now - since < self._every:
            return
        rate = (done - before) / (now - since)
        parts = [f"{self._name}: {done:,.0f}" + (f" of {self._total:,.0f}" if self._total else "")]
        if rate > 0:
            parts.append(f"{rate:,.4g}/s")
        if rate > 0 and self._total and self._total > done:
            parts.append(f"{clock((self._total - done) / rate)} left")
        line = " · ".join([*parts, *([note] if note else [])])
        self._said = now, done
        # A line that says nothing new is worth less than its room.
        if (done, note) != self._shown:
            messages.print(line)
            self._every = min(1.5 * self._every, PLAIN_SECONDS_AT_MOST)
        self._shown = done, note


class _Done(ProgressColumn):
    def render(self, task: Task) -> Text:
        """`12,000/60,000`."""
        of = f"/{task.total:,.0f}" if task.total is not None else ""
        return Text(f"{task.completed:,.0f}{of}", justify="right")


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        """`1,234/s`, over the last half minute or so."""
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("–/s", justify="right")
        return Text(f"{speed:,.0f}/s" if speed >= 100 else f"{speed:.3g}/s", justify="right")


class _Left(ProgressColumn):
    def render(self, task: Task) -> Text:
        """`0:12:34`, the time left; what it took once it is done."""
        if task.finished:
            return Text(clock(task.finished_time or 0.0), style="dim")
        return Text("-:--" if task.time_remaining is None else clock(task.time_remaining))


@contextmanager
def progress() -> Iterator[Bars]:
    """Bars for as long as the block runs."""
    if not messages.is_terminal or not shows("info"):
        yield Bars(None)
        return
    columns = (
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description}", table_column=Column(min_width=9, no_wrap=True), markup=False),
        BarColumn(bar_width=12, complete_style="cyan", finished_style="cyan"),
        _Done(Column(no_wrap=True, min_width=13)),
        _Rate(Column(no_wrap=True, min_width=6)),
        _Left(Column(no_wrap=True, min_width=4)),
        TextColumn(
            "{task.fields[note]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1), markup=False
        ),
    )
    with Progress(*columns, console=messages, expand=True) as made:
        yield Bars(made)


def clock(seconds: float) -> str:
    """`0:42`, `3:05:07`, `2 d 4 h`."""
    whole = round(seconds)
    if whole >= 48 * 3600:
        return f"{whole // 86_400} d {whole // 3600 % 24} h"
    hours = f"{whole // 3600}:{whole // 60 % 60:02d}" if whole >= 3600 else f"{whole // 60}"
    return f"{hours}:{whole % 60:02d}"


def figure(value: float) -> str:
    """`0.812`, `-1,171.3`: a return or a score in digits, four of them or to the tenth."""
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"


def plural(count: int, noun: str) -> str:
    """`1 episode`, `2,000 episodes`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


# --- results ----------------------------------------------------------------------------------------------------------


def write(text: str) -> None:
    """`text` on stdout to the byte, for programs."""
    sys.stdout.write(text)
    sys.stdout.flush()


def write_json(record: dict[str, Any]) -> None:
    """One JSON object on stdout, for programs."""
    write(json.dumps(record, allow_nan=False) + "\n")


def table(title: str, columns: list[str], rows: list[list[str]]) -> Table:
    """A plain table; the first column is text, the others figures."""
    made = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        made.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made
