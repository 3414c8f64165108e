"""The learning curve and the histogram of the logged returns, each with its alternative in words."""

from __future__ import annotations

from typing import Any

import numpy as np

from agent.console import plural
from agent.report.facts import Facts
from agent.report.svg import (
    DATA,
    DEPLOYED,
    FINETUNED,
    INK,
    MUTED,
    PRETRAINED,
    Picture,
    boundary_labels,
    label,
    picture,
    thousands,
)
from agent.report.words import PERCENT, RETURN, measure, number, scale_of, value_text, whole

MARKS = {
    "data": (DATA, "--"), "pretrained": (PRETRAINED, "-."), "finetuned": (FINETUNED, "-"),
    "curve": (FINETUNED, "-"), "deployed": (DEPLOYED, ":"),
}  # fmt: skip
MOST_ERROR_BARS = 40
MOST_BINS = 60


def learning_curve(facts: Facts) -> Picture | None:
    """Evaluations with their 95% intervals over online steps; None before the first, or without an online phase."""
    kind = PERCENT if scale_of(facts) == PERCENT else RETURN
    points = [(r.online_steps, r, *m) for r in facts.curve if (m := measure(r, kind)) is not None]
    if not points or not facts.config.online_steps:
        return None
    data = facts.results.get("data")
    line = measure(data, kind) if data is not None and data.comparable else None
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
        over_online_steps(axes, kind)
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


def over_online_steps(axes: Any, kind: str) -> None:
    """Labels and scale of a figure of `kind` over online steps."""
    if kind == PERCENT:
        axes.set_ylim(-0.03, 1.03)
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")
    axes.set_ylabel("success rate" if kind == PERCENT else kind)
    axes.set_xlabel("online environment steps")
    axes.xaxis.set_major_formatter(thousands)


def interval_words(ci: tuple[float, float] | None, kind: str) -> str:
    """` (10% to 20%)`, or nothing."""
    return f" ({value_text(ci[0], kind)} to {value_text(ci[1], kind)})" if ci else ""


def return_histogram(facts: Facts) -> Picture | None:
    """Returns of the logged episodes with the means of data and policies marked; None without logged data.

    The policies' are left out where the data counts rewards otherwise.
    """
    returns = facts.data_returns
    if returns is None:
        return None
    edges, counts = bins(returns)
    comparable = facts.results["data"].comparable
    marks = [
        (result.label, result.mean, *MARKS[key]) for key, result in facts.results.items() if comparable or key == "data"
    ]

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
    policies = "and where the policies stand" if comparable else "their rewards counted otherwise than in scoring"
    return picture("returns", f"Returns of the logged episodes, {policies}", words, draw)


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
