"""`slipway replay info`: what a store holds, for people and programs."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from agent.console import messages, plural, progress, results, table, write_json
from agent.data_review import Suggestion, record, review, suggest
from agent.files import check_place
from replay.inspection import Column, Inspection, inspect
from replay.store import Store

BARS = " ▁▂▃▄▅▆▇█"
MOST_ACTIONS = 12


@dataclass(frozen=True, kw_only=True)
class Info:
    """What is in a store, and what is remarkable about it before training: ranges, ends, duplicates, diversity.

    Example:
      slipway replay info door.zarr
      slipway replay info door.zarr --html door.html
      slipway replay info door.zarr --json
    """

    store: Annotated[Path, tyro.conf.Positional]
    """Store to look at."""
    html: Path | None = None
    """Also write a self-contained page with figures of every dimension."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> int:
        """Read every row, with progress, and print what the store holds."""
        store = Store.open(self.store)
        if self.html is not None:
            check_place("--html", self.html)
        held = store.info()
        with progress() as bars:
            bar = bars.add("inspect", None)
            found = inspect(store, progress=lambda done, total: bar(done, total=total, note="rows"))
        if self.html is not None:
            from agent.report.store_page import write_store_page  # loads matplotlib

            with messages.status("drawing the page"):
                write_store_page(store, held, found, self.html)
        if self.json:
            write_json(held | record(store.spec, found) | ({"html": str(self.html)} if self.html else {}))
            return 0
        say(self.store, store, held, found)
        if self.html is not None:
            results.print(f"page: {self.html}")
        return 0


def say(path: Path, store: Store, held: dict[str, Any], found: Inspection) -> None:
    """Print tables and findings."""
    results.print(table(f"store {path}", ["what", "value"], overview(store, held, found)))
    if found.steps:
        results.print(table("actions", ACTION_COLUMNS, action_rows(found)))
        results.print(table("observations", OBSERVATION_COLUMNS, observation_rows(found)))
    for finding in review(store.spec, found):
        results.print(f"{finding.level.upper():<7} {finding.message}")
    if found.steps:
        results.print(advice(suggest(store.spec, found), path))


def overview(store: Store, held: dict[str, Any], found: Inspection) -> list[list[str]]:
    """(what, value) of the whole store."""
    env = held["env"] or {}
    ends = f"{held['terminated']:,} terminated, {held['truncated']:,} truncated, {held['interrupted']:,} interrupted"
    rows = [
        ["environment", str(env.get("id", "not recorded"))],
        ["time limit", plural(env["max_episode_steps"], "step") if env.get("max_episode_steps") else "none recorded"],
        ["steps", f"{held['steps']:,}"],
        ["episodes", f"{held['episodes']:,}: {ends}"],
        ["duplicates", f"{found.duplicates:,}"],
    ]
    if found.success is not None and len(found.success):
        rows.append(["success", f"{100 * found.success.mean():.1f} % of the episodes"])
    for name, every in (("return", found.returns), ("length", found.lengths)):
        if found.ended.any():
            rows.append([name, spread(every[found.ended].astype(np.float64))])
    if found.steps:
        rows.append(["reward", reward_words(found)])
    if found.interventions or found.synthetic:
        rows.append(["interventions, synthetic", f"{found.interventions:,}, {plural(found.synthetic, 'step')}"])
    if found.diversity is not None:
        told = found.diversity
        rows.append(["action spread", f"{told.action_spread:.2f} (0: the state decides, 1: it does not)"])
        rows.append([
            "dimensions in use",
            f"{told.state_dimensions:.1f} of {len(found.observations)} observed, "
            f"{told.action_dimensions:.1f} of {len(found.actions)} acted",
        ])  # fmt: skip
    source = held["source"] or {}
    rows += [
        ["source", " ".join(str(source[key]) for key in ("kind", "id", "policy", "run") if key in source) or "unknown"],
        ["streams", ", ".join(f"{name} ({plural(head, 'row')})" for name, head in list(held["streams"].items())[:4])],
        ["on disk", f"{held['bytes'] / 1e6:,.1f} MB"],
        ["layout", held["layout_fingerprint"][:16]],
    ]
    return rows


def spread(values: np.ndarray) -> str:
    """Mean, deviation, range and a small histogram."""
    text = f"{values.mean():.4g} ± {values.std():.3g}, {values.min():.4g} to {values.max():.4g}"
    return f"{text}  {sketch(values)}" if np.ptp(values) else text


def sketch(values: np.ndarray) -> str:
    """A histogram in one line of block characters; whatever is not empty can be seen."""
    counts = np.histogram(values, bins=16)[0]
    levels = np.ceil((len(BARS) - 1) * counts / counts.max()).astype(int)
    return "".join(BARS[level] for level in levels)


def reward_words(found: Inspection) -> str:
    """Few different rewards one by one, more as a range."""
    if found.reward_values is not None and len(found.reward_values) <= 4:
        total = sum(found.reward_values.values())
        return ", ".join(f"{value:g} ({100 * count / total:.3g} %)" for value, count in found.reward_values.items())
    return f"{found.rewards.mean:.4g} ± {found.rewards.std:.3g}, {found.rewards.min:.4g} to {found.rewards.max:.4g}"


ACTION_COLUMNS = ["action", "bounds", "seen", "mean ± std", "at low", "at high", "outside"]


def action_rows(found: Inspection) -> list[list[str]]:
    """One row for each dimension of the action, the first few."""
    rows = [
        [column.name, f"{column.low:.3g} to {column.high:.3g}", f"{column.min:.3g} to {column.max:.3g}",
         f"{column.mean:.2g} ± {column.std:.2g}", f"{100 * column.at_low:.1f} %", f"{100 * column.at_high:.1f} %",
         f"{column.outside:,}"]
        for column in found.actions[:MOST_ACTIONS]
    ]  # fmt: skip
    left = len(found.actions) - len(rows)
    return [*rows, [f"{left} more: --html, --json", *[""] * 6]] if left else rows


OBSERVATION_COLUMNS = ["observation", "entries", "seen", "widest std", "constant", "not finite"]


def observation_rows(found: Inspection) -> list[list[str]]:
    """One row for each term of the observation."""
    rows = []
    for term, group in groupby(found.observations, key=lambda column: column.name.rpartition("[")[0]):
        columns: list[Column] = list(group)
        rows.append([
            term, str(len(columns)), f"{min(c.min for c in columns):.3g} to {max(c.max for c in columns):.3g}",
            f"{max(c.std for c in columns):.3g}", str(sum(c.constant for c in columns)),
            f"{sum(c.nonfinite for c in columns):,}",
        ])  # fmt: skip
    return rows


def advice(suggestion: Suggestion, path: Path) -> str:
    """The command to train with, and why."""
    flags = "".join(f" {flag}" for flag in suggestion.flags)
    preset = f"preset {suggestion.preset}" if suggestion.preset else "no preset"
    return (
        f"train: slipway train --replay {path}{flags} --out runs/{path.stem} ({preset}, reward "
        f"scaling {suggestion.reward_scaling}, shift {suggestion.reward_shift:g}: {suggestion.reason})"
    )
