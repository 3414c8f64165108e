"""The learner's figures over updates, each with its alternative in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from agent.report.facts import Facts
from agent.report.svg import (
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
    thousands,
)
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
    style: Any = "-"
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
    "Share of the batch": (
        Series(key="weight_effective_share", label="that the weights leave in effect"),
        Series(key="weight_clipped_share", label="with weights at the clip", colour=PRETRAINED, style="--"),
    ),
    "Updates per second": (Series(key="updates_per_second", label="updates per second"),),
}


# What a line tells beside the learner's figures: the panels need no picture of it.
CONTEXT = frozenset(
    {
        "time",
        "updates",
        "online_steps",
        "policy_version",
        "data_wait_fraction",
        "checkpoint_block_ms",
        "wait_seconds",
    }
)
COLOURS = (FINETUNED, PRETRAINED, DEPLOYED, DATA, MUTED)
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
MOST_OTHERS = 12


def training_panels(facts: Facts) -> list[Picture]:
    """One small figure for each group of the learner's figures that was logged, the algorithm's own after the known."""
    return recorded_panels(facts, facts.training, {**PANELS, **other_panels(facts.training)}, "panel")


def recorded_panels(
    facts: Facts,
    lines: Sequence[dict[str, Any]],
    groups: Mapping[str, Sequence[Series]],
    name: str,
    *,
    over: str = "updates",
) -> list[Picture]:
    """A panel for each group (by title) of which `lines` hold anything, with what they hold of it."""
    made = []
    for index, (title, group) in enumerate(groups.items()):
        present = [s for s in group if np.isfinite(column(lines, s.key)).any()]
        if present:
            made.append(series_panel(facts, lines, f"{name}{index}", title, present, over=over))
    return made


def other_panels(lines: Sequence[dict[str, Any]]) -> dict[str, tuple[Series, ...]]:
    """Panels of the keys that `PANELS` does not name: gradient norms together, the others one by one."""
    shown = {name for group in PANELS.values() for s in group for name in (s.key, s.spread)}
    keys = dict.fromkeys(
        key for line in lines for key, value in line.items()
        if key not in shown | CONTEXT and isinstance(value, int | float) and not isinstance(value, bool)
    )  # fmt: skip
    norms = [key for key in keys if key.startswith("grad_norm_")][: len(COLOURS)]
    panels: dict[str, tuple[Series, ...]] = {}
    if norms:
        panels["Gradient norms"] = tuple(
            Series(key=key, label=key.removeprefix("grad_norm_"), colour=colour, style=style, wide_range=True)
            for key, colour, style in zip(norms, COLOURS, STYLES, strict=False)
        )
    # A maximum or deviation whose mean is shown says little by itself.
    plain = [key for key in keys if key not in norms and not key.endswith(("_std", "_max"))]
    for key in plain[:MOST_OTHERS]:
        title = key.removesuffix("_mean").replace("_", " ").capitalize()
        spread = key.removesuffix("mean") + "std" if key.endswith("_mean") else ""
        spread = spread if spread in keys else ""
        panels[title + (", ± 1 standard deviation" if spread else "")] = (
            Series(key=key, label=key.replace("_", " "), spread=spread, wide_range=True),
        )
    return panels


def series_panel(
    facts: Facts,
    lines: Sequence[dict[str, Any]],
    name: str,
    title: str,
    group: Sequence[Series],
    *,
    over: str = "updates",
) -> Picture:
    """One group of keys of `lines` over updates, with the boundary between offline and online ones, or over `over`."""
    updates, unit = column(lines, over), over.replace("_", " ")
    online = over == "updates" and any(line.get("phase") == "online" for line in lines)
    boundary = facts.config.pretrain_steps if online else None

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        for series in group:
            x, y, low, high = thin(updates, column(lines, series.key))
            if series.spread:
                spread = thin(updates, column(lines, series.spread))[1]
                low, high = y - spread, y + spread
            axes.fill_between(x, low, high, color=series.colour, alpha=0.18, linewidth=0)
            marker = "o" if len(x) == 1 else ""
            axes.plot(x, y, color=series.colour, linestyle=series.style, marker=marker, label=series.label)
        if boundary is not None:
            axes.axvline(boundary, color=INK, linewidth=1.0)
            boundary_labels(axes, boundary)
        shown = np.concatenate([column(lines, s.key) for s in group])
        fit_values(axes, shown[np.isfinite(shown)], wide_range=any(s.wide_range for s in group))
        axes.set_xlim(0, None)
        axes.set_xlabel(unit)
        axes.xaxis.set_major_formatter(thousands)
        axes.xaxis.get_major_locator().set_params(nbins=5)
        if len(group) > 1:
            figure.legend(loc="outside lower left", ncols=2, labelcolor=INK, handlelength=2.4)

    said = []
    for series in group:
        values = column(lines, series.key)
        good = np.flatnonzero(np.isfinite(values))
        said.append(
            f"{series.label} {number(float(values[good[0]]))} after {whole(updates[good[0]])} {unit}, "
            f"{number(float(values[good[-1]]))} after {whole(updates[good[-1]])}, "
            f"between {number(float(values[good].min()))} and {number(float(values[good].max()))}"
        )
    words = f"{title}: {'; '.join(said)}." + (f" Updates are online from {whole(boundary)} on." if boundary else "")
    return Picture(title=title, words=words, wide=inline_svg(name, PANEL, words, draw), narrow="")


def fit_values(axes: Any, values: np.ndarray, *, wide_range: bool) -> None:
    """A logarithmic scale for positive values of a wide range; else one that begins at 0 where nothing lies below."""
    if wide_range and values.min() > 0 and values.max() / values.min() > 30:
        axes.set_yscale("log")
        # Powers of ten alone may leave a panel with one label, all multiples are too many.
        axes.yaxis.get_major_locator().set_params(subs=(1.0, 3.0) if values.max() / values.min() < 1e3 else (1.0,))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}" if 1e-3 <= value < 1e4 else f"{value:.0e}")
        axes.yaxis.set_minor_formatter(lambda value, _: "")
    elif values.min() >= 0:
        axes.set_ylim(*((0, None) if values.max() > 0 else (-0.03, 1)))


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
