"""`slipway replay info --html`: a page about a store's data, in the style of the run's report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from agent.console import plural
from agent.data_review import known_task, review, suggest
from agent.errors import RunError
from agent.files import write_atomic
from agent.report.page import template
from agent.report.svg import DATA, DEPLOYED, INK, MUTED, PRETRAINED, Picture, picture, thousands
from agent.report.words import number, whole
from replay.inspection import Inspection, in_order
from replay.store import Store

MOST_BOXES = 60


def write_store_page(store: Store, held: dict[str, Any], found: Inspection, out: Path) -> None:
    """Write the page to `out` in one step. RunError where it cannot be written."""
    data = render(store, held, found).encode()
    try:
        write_atomic(out, data)
    except OSError as error:
        raise RunError(f"cannot write the page {out} ({error.strerror}): choose another --html") from error


def render(store: Store, held: dict[str, Any], found: Inspection) -> str:
    """The page."""
    return template("store.html.j2").render(
        name=store.path.name,
        held=held,
        found=found,
        lead=lead(held, found),
        findings=review(store.spec, found),
        suggestion=suggest(store.spec, found) if found.steps else None,
        task=known_task(store.spec),
        returns=distribution(found, "returns", "return of an episode", found.returns),
        lengths=distribution(found, "lengths", "steps of an episode", found.lengths.astype(np.float64)),
        order=order(found),
        boxes=action_boxes(found),
    )


def lead(held: dict[str, Any], found: Inspection) -> str:
    """The first sentence."""
    env = f" of {held['env']['id']}" if held["env"] else ""
    text = f"{plural(held['steps'], 'step')} in {plural(len(found.returns), 'episode')}{env}"
    returns = found.returns[found.ended]
    if len(returns):
        text += f"; returns from {number(float(returns.min()))} to {number(float(returns.max()))}, mean "
        text += number(float(returns.mean()))
    if found.success is not None and len(found.success):
        text += f"; {100 * found.success.mean():.1f}% succeed"
    return text + "."


def distribution(found: Inspection, name: str, axis: str, every: np.ndarray) -> Picture | None:
    """Histogram of a figure of the episodes that ended, those that terminated set apart; None without any."""
    ended = every[found.ended]
    if not len(ended):
        return None
    edges = np.histogram_bin_edges(ended, bins=int(np.clip(np.ceil(2 * np.sqrt(len(ended))), 10, 60)))
    parts = [every[found.terminated], every[found.truncated]]

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        axes.hist(parts, bins=edges, stacked=True, color=[DEPLOYED, MUTED], label=["terminated", "truncated"])
        axes.axvline(float(ended.mean()), color=DATA, linestyle="--", linewidth=2.0, label="mean")
        axes.grid(visible=False, axis="x")
        axes.set_xlabel(axis)
        axes.set_ylabel("episodes")
        axes.xaxis.set_major_formatter(thousands)
        axes.yaxis.get_major_locator().set_params(integer=True)
        figure.legend(loc="outside lower left", ncols=3, labelcolor=INK)

    words = (
        f"{axis[0].upper()}{axis[1:]}, {plural(len(ended), 'episode')}: from {number(float(ended.min()))} to "
        f"{number(float(ended.max()))}, median {number(float(np.median(ended)))}; {whole(len(parts[0]))} terminated, "
        f"{whole(len(parts[1]))} truncated."
    )
    return picture(name, f"{axis[0].upper()}{axis[1:]}", words, draw)


def order(found: Inspection) -> Picture | None:
    """Mean returns of successive parts of the store: whether behaviour changed while it was recorded."""
    means = in_order(found.returns[found.ended])
    if len(means) < 3:
        return None

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        axes.plot((np.arange(len(means)) + 0.5) / len(means) * 100, means, color=DATA, marker="o", markersize=4)
        axes.set_xlabel("episodes in the order of the store, %")
        axes.set_ylabel("mean return")
        axes.yaxis.set_major_formatter(thousands)
        axes.set_xlim(0, 100)

    words = f"Mean return of {len(means)} successive parts: {', '.join(number(mean) for mean in means)}."
    return picture("order", "Mean return in the order of recording", words, draw)


def action_boxes(found: Inspection) -> Picture | None:
    """Each action's quantiles between its bounds; None for too many, or without steps."""
    if not found.steps or not 0 < len(found.actions) <= MOST_BOXES or not found.actions[0].quantiles:
        return None
    shares = [
        [(q - column.low) / (column.high - column.low) for q in column.quantiles] for column in found.actions
    ]  # fmt: skip

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        for place, (p5, p25, p50, p75, p95) in enumerate(shares):
            axes.vlines(place, p5, p95, color=MUTED, linewidth=1.4)
            axes.vlines(place, p25, p75, color=DATA, linewidth=5.0)
            axes.plot([place], [p50], color=INK, marker="_", markersize=9)
        axes.axhline(0.0, color=PRETRAINED, linewidth=1.0, linestyle="--")
        axes.axhline(1.0, color=PRETRAINED, linewidth=1.0, linestyle="--")
        axes.set_yticks([0.0, 0.5, 1.0], ["lower bound", "middle", "upper bound"])
        axes.set_ylim(-0.06, 1.06)
        axes.set_xlabel("action")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(visible=False, axis="x")

    words = "Actions between their bounds, median (middle half): " + "; ".join(
        f"{column.name} {number(column.quantiles[2])} ({number(column.quantiles[1])} to {number(column.quantiles[3])})"
        for column in found.actions
    )
    return picture("actions", "Actions between their bounds: median, middle half, 5% to 95%", words + ".", draw)
