"""A run's status for a terminal of 80 columns. Signs and words tell everything; colour is only an ornament."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from agent.console import clock, figure, plural

PHASES = {"starting": "start", "pretrain": "pretrain", "warmup": "warm-up", "online": "online", "done": "done"}
WIDTH = 80
# One colour for both: red and green would be told apart by those alone who can.
BAR_STYLE = "cyan"
STALE_SECONDS = 10.0
MOST_COLLECTORS = 8


def panel(status: dict[str, Any], now: float | None = None) -> Panel:
    """All that there is to know, as one frame; `now` is a Unix time, the present where left out."""
    now = time.time() if now is None else now
    grid = Table.grid(Column(style="bold", no_wrap=True), Column(ratio=1, overflow="fold"), padding=(0, 2), expand=True)
    for name, content in rows(status, now):
        grid.add_row(name, content)
    parts: list[RenderableType] = [grid]
    if status["collectors"]:
        parts.append(collectors(status))
    return Panel(
        Group(*parts), title=Text(f"slipway · {shortened(status['run'])}"), title_align="left",
        subtitle=state(status, now), subtitle_align="right", box=box.ROUNDED, width=WIDTH,
    )  # fmt: skip


def shortened(path: str) -> str:
    """Its end, where it is too long for a title: rich widens a panel for those."""
    most = WIDTH - 20
    return path if len(path) <= most else f"…{path[1 - most :]}"


def line(status: dict[str, Any]) -> str:
    """The same in one line, for a log."""
    parts = [time.strftime("%H:%M:%S", time.localtime(status["time"])), status["phase"]]
    if status["phase"] in ("starting", "pretrain"):
        parts.append(of(status["pretrain_step"], status["pretrain_steps"], "updates"))
    else:
        parts.append(of(status["online_steps"], status["planned_online_steps"], "steps"))
    for key, unit in (("pretrain_per_second", "updates/s"), ("steps_per_second", "steps/s")):
        if status.get(key):
            parts.append(f"{status[key]:,.0f} {unit}")
    if status["last_evaluation"]:
        parts.append(f"{status['last_evaluation']['label']} {score(status['last_evaluation'])}")
    parts.append(plural(status["incidents"], "incident"))
    return " · ".join(parts)


def state(status: dict[str, Any], now: float) -> str:
    """Whether it runs, and how old the news are."""
    at = time.strftime("%H:%M:%S", time.localtime(status["time"]))
    if not status["running"]:
        return f"{'done' if status['phase'] == 'done' else 'not running'}, as of {at}"
    silent = now - status["time"]
    return f"running, as of {at}" if silent < STALE_SECONDS else f"! no news for {clock(silent)}"


def rows(status: dict[str, Any], now: float) -> Iterator[tuple[str, RenderableType]]:
    """(name, content) of the lines."""
    yield "phase", phases(status)
    yield (
        "pretrain",
        bar(status["pretrain_step"], status["pretrain_steps"], status.get("pretrain_per_second")),
    )
    if status["planned_online_steps"]:
        yield (
            "online",
            bar(status["online_steps"], status["planned_online_steps"], status.get("steps_per_second")),
        )
    if status["planned_online_steps"] and status["phase"] not in ("starting", "pretrain"):
        rate = status.get("updates_per_second")
        yield "updates", f"{status['online_updates']:,} online" + (f" · {rate:,.0f}/s" if rate else "")
        yield "policy", policy(status)
        yield "limiter", waits(status)
        yield "replay", replay(status)
    yield "evaluation", evaluation(status, now)
    if status.get("actor_paused"):
        yield "guard", Text("! the guard has paused the actor's updates", style="bold")
    yield "incidents", incidents(status, now)
    free = f"{size(status['disk_free_bytes'])} free"
    yield "disk", Text(f"! full: collectors wait, {free}", style="bold") if status.get("disk_full") else free


def phases(status: dict[str, Any]) -> Text:
    """`✓ pretrain  ✓ warm-up  ▶ online  · done`."""
    names = list(PHASES)
    if not status["planned_online_steps"]:
        names = [name for name in names if name not in ("warmup", "online")]
    here = names.index(status["phase"]) if status["phase"] in names else 0
    text = Text()
    for index, name in enumerate(names):
        finished = index < here or status["phase"] == "done"
        sign, style = ("✓", "dim") if finished else ("▶", "bold") if index == here else ("·", "dim")
        text.append(f"{sign} {PHASES[name]}   ", style=style)
    return text


def bar(done: int, total: int, rate: float | None) -> Table:
    """A bar with count, share, rate and time left."""
    made = Table.grid(Column(width=14), Column(ratio=1, no_wrap=True, overflow="ellipsis"), padding=(0, 1), expand=True)
    text = f"{done:,}/{total:,}"
    if total and done < total:
        text += f" · {100 * done / total:.0f}%"
        if rate:
            text += f" · {rate:,.0f}/s · {clock((total - done) / rate)} left"
    made.add_row(
        ProgressBar(
            total=max(total, 1),
            completed=done if total else 1,
            width=14,
            complete_style=BAR_STYLE,
            finished_style=BAR_STYLE,
        ),
        text,
    )
    return made


def of(done: int, total: int, unit: str) -> str:
    """`500 of 1,000 steps`."""
    return f"{done:,} of {total:,} {unit}"


def policy(status: dict[str, Any]) -> str:
    """Newest version, and how far the collectors are behind it."""
    text = f"version {status['policy_version']}"
    acting = [c["policy_version"] for c in status["collectors"] if c["policy_version"]]
    if acting and status["policy_version"]:
        behind = status["policy_version"] - min(acting)
        text += " · collectors act by it" if not behind else f" · collectors up to {behind} behind"
    stale = status.get("staleness_seconds_p99")
    if stale is not None:
        text += f" · staleness {status['staleness_seconds_p50']:.2g} s, p99 {stale:.2g} s"
    return text


def waits(status: dict[str, Any]) -> str:
    """Who waits for whom: the share of the last seconds, and in all."""
    collectors = sum(c["wait_seconds"] for c in status["collectors"])
    shares = [status.get("learner_wait_fraction"), status.get("collector_wait_fraction")]
    now = ["" if share is None else f" ({100 * share:.0f}% now)" for share in shares]
    learner = status["learner_wait_seconds"]
    return f"learner waited {duration(learner)}{now[0]}, collectors {duration(collectors)}{now[1]}"


def replay(status: dict[str, Any]) -> str:
    """What the run has stored, and how fast that grows."""
    episodes = sum(c["episodes"] for c in status["collectors"])
    text = f"{status['online_steps']:,} steps, {episodes:,} episodes, {size(status['replay_bytes'])}"
    rate = status.get("steps_per_second")
    return text + (f" · +{3600 * rate:,.0f} an hour" if rate else "")


def evaluation(status: dict[str, Any], now: float) -> str:
    """The newest one, and whether it lies above the one before."""
    newest, before = status["last_evaluation"], status.get("evaluation_before")
    if newest is None:
        return "none yet"
    shown = dict.fromkeys((score(newest), mean_return(newest)))  # the same where a task has nothing better
    text = f"{newest['label']} at {newest['online_steps']:,} steps: {', '.join(shown)}"
    if newest["ci"] is not None:
        text += f" (95% {figure(newest['ci'][0])} to {figure(newest['ci'][1])})"
    text += f", {ago(now - newest['time'])}"
    if before is not None:
        sign = "▲ up" if newest["mean"] > before["mean"] else "▼ down" if newest["mean"] < before["mean"] else "= same"
        text += f"; {sign} from {figure(before['mean'])}"
    return text


def score(record: dict[str, Any]) -> str:
    """Success rate or normalised score where the task has one, else the mean return."""
    if record.get("success") is not None:
        return f"success {100 * record['success']:.0f}%"
    if record.get("normalized") is not None:
        return f"score {record['normalized']:.1f}"
    return mean_return(record)


def mean_return(record: dict[str, Any]) -> str:
    """`return 12.3`."""
    return f"return {figure(record['mean'])}"


def incidents(status: dict[str, Any], now: float) -> Text:
    """How many, and the last of them."""
    if not status["incidents"]:
        return Text("none")
    when = ago(now - status["last_incident_time"])
    return Text(f"! {status['incidents']}, the last {when}: {status['last_incident']}", style="bold")


def collectors(status: dict[str, Any]) -> Table:
    """A line for each collector."""
    made = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False, padding=(0, 1, 0, 0))
    made.add_column("collector", justify="left")
    for name in ("steps", "episodes", "version", "waited", "faults", "paused"):
        made.add_column(name, justify="right")
    shown = status["collectors"][:MOST_COLLECTORS]
    for index, c in enumerate(shown):
        made.add_row(
            str(index), f"{c['steps']:,}", f"{c['episodes']:,}", str(c["policy_version"]), duration(c["wait_seconds"]),
            f"! {c['faults']}" if c["faults"] else "0", c.get("paused", "none"),
        )  # fmt: skip
    if left := len(status["collectors"]) - len(shown):
        made.add_row(f"and {left} more")
    return made


def duration(seconds: float) -> str:
    """`3.2 s`, `1:05:00`."""
    return f"{seconds:.1f} s" if seconds < 60 else clock(seconds)


def ago(seconds: float) -> str:
    """`12 s ago`."""
    return f"{seconds:.0f} s ago" if seconds < 60 else f"{clock(seconds)} ago"


def size(number: float) -> str:
    """Bytes with a unit: `1.2 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 999.5:  # more rounds to 1e+03
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"
