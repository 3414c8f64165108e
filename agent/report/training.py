"""The learner's figures over updates, each with its alternative in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from agent.report.facts import Facts
from agent.report.svg import FINETUNED, INK, PANEL, PRETRAINED, Picture, boundary_labels, inline_svg, thousands
from agent.report.words import number, whole

MOST_POINTS = 300


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
