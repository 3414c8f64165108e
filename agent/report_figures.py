"""The report's figures, each with its alternative in words made from the same numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from agent.report_facts import Facts
from agent.report_svg import (
    DATA,
    DEPLOYED,
    FINETUNED,
    INK,
    MUTED,
    PANEL,
    PRETRAINED,
    Picture,
    boundary_labels,
    inline_svg,
    label,
    picture,
    thousands,
)
from agent.report_words import PERCENT, RETURN, measure, number, plural, scale_of, value_text, whole

MARKS = {
    "data": (DATA, "--"), "pretrained": (PRETRAINED, "-."), "finetuned": (FINETUNED, "-"),
    "curve": (FINETUNED, "-"), "deployed": (DEPLOYED, ":"),
}  # fmt: skip
MOST_POINTS = 300
MOST_ERROR_BARS = 40
MOST_BINS = 60

# --- the learning curve -----------------------------------------------------------------------------------------------


def learning_curve(facts: Facts) -> Picture | None:
    """Evaluations with their 95% intervals over online steps; None before the first, or without an online phase."""
    kind = PERCENT if scale_of(facts) == PERCENT else RETURN
    points = [(r.online_steps, r, *m) for r in facts.curve if (m := measure(r, kind)) is not None]
    if not points or not facts.config.online_steps:
        return None
    data = facts.results.get("data")
    line = measure(data, kind) if data is not None else None
    warmup = facts.config.online.warmup_steps

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        last = max(facts.config.online_steps, points[-1][0])
        axes.set_xlim(-0.07 * last, 1.03 * last)
        axes.axvspan(-0.07 * last, 0.0, color=MUTED, alpha=0.12, linewidth=0)
        axes.axvline(0.0, color=INK, linewidth=1.0)
        boundary_labels(axes, 0.0)
        if line is not None:
            axes.axhline(line[0], color=DATA, linestyle="--", label="logged data")
        axes.axvline(warmup, color=MUTED, linestyle=":", linewidth=1.2, label="first online update")
        steps = np.array([p[0] for p in points], dtype=float)
        means = np.array([p[2] for p in points])
        bounds = np.array([p[3] or (p[2], p[2]) for p in points])
        axes.fill_between(steps, bounds[:, 0], bounds[:, 1], color=FINETUNED, alpha=0.15, linewidth=0)
        tuning = "fine-tuning, 95% interval" if len(points) > 1 else None
        axes.plot(steps, means, color=FINETUNED, marker="o", markersize=4, label=tuning)
        if len(points) <= MOST_ERROR_BARS:
            axes.vlines(steps, bounds[:, 0], bounds[:, 1], color=FINETUNED, linewidth=1.2)
        if points[0][1].key == "pretrained":
            axes.vlines(steps[:1], *bounds[0], color=PRETRAINED, linewidth=1.6)
            axes.plot(
                steps[:1], means[:1], color=PRETRAINED, marker="D", markersize=6, linestyle="", label="pretrained"
            )
        if kind == PERCENT:
            axes.set_ylim(-0.03, 1.03)
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")
        axes.set_ylabel("success rate" if kind == PERCENT else RETURN)
        axes.set_xlabel("online environment steps")
        axes.xaxis.set_major_formatter(thousands)
        columns = 4 if figure.get_size_inches()[0] > 6 else 2
        figure.legend(loc="outside lower left", ncols=columns, labelcolor=INK, handlelength=2.4)

    what = "success rate" if kind == PERCENT else RETURN
    told = [points[i] for i in np.unique(np.linspace(0, len(points) - 1, min(len(points), 6)).round().astype(int))]
    words = f"Evaluated {what} over online steps: " + "; ".join(
        f"{value_text(mean, kind)}{interval_words(ci, kind)} at {whole(steps)} steps" for steps, _, mean, ci in told
    )
    if line is not None:
        words += f". The logged data lies at {value_text(line[0], kind)}"
    words += f". Online steps begin at 0, online updates at {whole(warmup)}."
    return picture("curve", f"Evaluated {what} over online steps", words, draw)


def interval_words(ci: tuple[float, float] | None, kind: str) -> str:
    """` (10% to 20%)`, or nothing."""
    return f" ({value_text(ci[0], kind)} to {value_text(ci[1], kind)})" if ci else ""


# --- the logged data --------------------------------------------------------------------------------------------------


def return_histogram(facts: Facts) -> Picture | None:
    """Returns of the logged episodes with the means of data and policies marked; None without logged data."""
    returns = facts.data_returns
    if returns is None:
        return None
    edges, counts = bins(returns)
    marks = [(result.label, result.mean, *MARKS[key]) for key, result in facts.results.items()]

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        axes.bar(
            edges[:, 0], counts, width=edges[:, 1] - edges[:, 0], align="edge", color=MUTED, alpha=0.45, linewidth=0
        )
        axes.grid(visible=False, axis="x")
        for _, mean, colour, style in marks:
            axes.axvline(mean, color=colour, linestyle=style, linewidth=2.0)
        low, high = axes.get_xlim()
        for row, (name, mean, colour, style) in enumerate(stacked(marks, low + 0.6 * (high - low))):
            # Each mark's name stands in a row of its own above the axes, so that equal means stay readable.
            height = 1.03 + 0.085 * (len(marks) - 1 - row)
            axes.plot([mean, mean], [1.0, height + 0.03], color=colour, linestyle=style, linewidth=1.2, clip_on=False,
                      transform=axes.get_xaxis_transform())  # fmt: skip
            side, shift = ("right", -5) if mean > low + 0.6 * (high - low) else ("left", 5)
            label(axes, f"{name} {number(mean)}", (mean, height), side, (shift, 0), INK)
        axes.set_xlim(low, high)
        axes.set_xlabel("return of an episode")
        axes.set_ylabel("logged episodes")
        axes.yaxis.set_major_formatter(thousands)
        axes.yaxis.get_major_locator().set_params(integer=True)

    words = (
        f"Returns of {plural(len(returns), 'logged episode')}: from {number(float(returns.min()))} to "
        f"{number(float(returns.max()))}, median {number(float(np.median(returns)))}. Marked means: "
        + ", ".join(f"{name} {number(mean)}" for name, mean, _, _ in marks)
        + "."
    )
    return picture("returns", "Returns of the logged episodes, and where the policies stand", words, draw)


def stacked(marks: list[tuple[str, float, str, str]], middle: float) -> list[tuple[str, float, str, str]]:
    """Marks from the highest name to the lowest: names point to the middle, so the outermost stand highest."""
    return sorted(marks, key=lambda mark: mark[1] if mark[1] <= middle else 2 * middle - mark[1])


def bins(returns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Edges [K, 2] and counts [K]: a bar for each value where there are few, else equal bins."""
    values, counts = np.unique(returns, return_counts=True)
    if len(values) <= 10:
        gap = float(np.diff(values).min()) if len(values) > 1 else max(1.0, abs(float(values[0])))
        # Two values are mostly failure and success: slim bars keep the policies' means readable between them.
        half = max((0.05 if len(values) == 2 else 0.3) * gap, 0.004 * float(values[-1] - values[0]))
        return np.stack([values - half, values + half], axis=1), counts
    number_of = int(np.clip(np.ceil(2.0 * np.sqrt(len(returns))), 10, MOST_BINS))
    counts, edges = np.histogram(returns, bins=number_of)
    return np.stack([edges[:-1], edges[1:]], axis=1), counts


# --- training ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line of a training panel."""

    key: str
    """Key of metrics.jsonl."""
    label: str
    """Name in the legend."""
    colour: str = FINETUNED
    """Colour."""
    style: str = "-"
    """Line style."""
    spread: str = ""
    """Key of a standard deviation drawn as a band; empty for none."""
    wide_range: bool = False
    """Whether to take a logarithmic scale where the values, all positive, span more than a factor 30."""


PANELS: dict[str, tuple[Series, ...]] = {
    "Value loss": (Series(key="value_loss", label="value loss", wide_range=True),),
    "Critic loss": (Series(key="critic_loss", label="critic loss", wide_range=True),),
    "Actor loss": (Series(key="actor_loss", label="actor loss"),),
    "Q and V, ± 1 standard deviation": (
        Series(key="q_mean", label="Q mean", spread="q_std"),
        Series(key="v_mean", label="V mean", colour=PRETRAINED, style="--", spread="v_std"),
    ),
    "Advantage, ± 1 standard deviation": (
        Series(key="advantage_mean", label="mean", spread="advantage_std"),
        Series(key="advantage_max", label="largest", colour=PRETRAINED, style="--"),
    ),
    "Weight of the actor's regression": (
        Series(key="weight_mean", label="mean", wide_range=True),
        Series(key="weight_max", label="largest", colour=PRETRAINED, style="--"),
    ),
    "Updates per second": (Series(key="updates_per_second", label="updates per second"),),
    "Seconds waited for collectors, in all": (Series(key="wait_seconds", label="seconds waited"),),
}


def training_panels(facts: Facts) -> list[Picture]:
    """One small figure for each group of the learner's figures that was logged."""
    made = []
    for index, (title, group) in enumerate(PANELS.items()):
        present = [s for s in group if any(isinstance(line.get(s.key), int | float) for line in facts.training)]
        if present:
            made.append(training_panel(facts, f"panel{index}", title, present))
    return made


def training_panel(facts: Facts, name: str, title: str, group: Sequence[Series]) -> Picture:
    """One group over updates, with the boundary between offline and online ones."""
    updates = column(facts.training, "updates")
    online = [line["updates"] for line in facts.training if line.get("phase") == "online"]
    boundary = facts.config.pretrain_steps if online else None

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        for series in group:
            values = column(facts.training, series.key)
            x, y, low, high = thin(updates, values)
            if series.spread:
                spread = thin(updates, column(facts.training, series.spread))[1]
                low, high = y - spread, y + spread
            axes.fill_between(x, low, high, color=series.colour, alpha=0.18, linewidth=0)
            marker = "o" if len(x) == 1 else ""
            axes.plot(x, y, color=series.colour, linestyle=series.style, marker=marker, label=series.label)
        if boundary is not None:
            axes.axvline(boundary, color=INK, linewidth=1.0)
            boundary_labels(axes, boundary)
        shown = np.concatenate([column(facts.training, s.key) for s in group])
        shown = shown[np.isfinite(shown)]
        if any(s.wide_range for s in group) and shown.min() > 0 and shown.max() / shown.min() > 30:
            axes.set_yscale("log")
        elif shown.min() >= 0:
            axes.set_ylim(*((0, None) if shown.max() > 0 else (-0.03, 1)))
        axes.set_xlim(0, None)
        axes.set_xlabel("updates")
        axes.xaxis.set_major_formatter(thousands)
        axes.xaxis.get_major_locator().set_params(nbins=5)
        if len(group) > 1:
            figure.legend(loc="outside lower left", ncols=2, labelcolor=INK, handlelength=2.4)

    said = []
    for series in group:
        values = column(facts.training, series.key)
        good = np.flatnonzero(np.isfinite(values))
        said.append(
            f"{series.label} {number(float(values[good[0]]))} after {whole(updates[good[0]])} updates, "
            f"{number(float(values[good[-1]]))} after {whole(updates[good[-1]])}, "
            f"between {number(float(values[good].min()))} and {number(float(values[good].max()))}"
        )
    words = f"{title}: {'; '.join(said)}." + (f" Updates are online from {whole(boundary)} on." if boundary else "")
    return Picture(title=title, words=words, wide=inline_svg(name, PANEL, words, draw), narrow="")


def column(lines: Sequence[dict[str, Any]], key: str) -> np.ndarray:
    """One key of all lines [N] float64; NaN where it is missing."""
    return np.array([float(line[key]) if isinstance(line.get(key), int | float) else np.nan for line in lines])


def thin(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """x, mean, least and largest y of at most `MOST_POINTS` runs of neighbours; lines without a value are left out."""
    good = np.isfinite(y)
    x, y = x[good], y[good]
    starts = np.unique(np.linspace(0, len(x), min(len(x), MOST_POINTS), endpoint=False).astype(int))
    sizes = np.diff(np.append(starts, len(x)))
    means = [np.add.reduceat(v, starts) / sizes for v in (x, y)]
    return means[0], means[1], np.minimum.reduceat(y, starts), np.maximum.reduceat(y, starts)
