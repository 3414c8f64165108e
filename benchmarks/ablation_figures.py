"""What the ablations' runs have logged, as curves, and their pictures: stand-alone SVG in the report's style."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.comparison.plan import Run
from agent.files import read_lines, write_atomic
from agent.report.svg import DEPLOYED, FINETUNED, INK, MUTED, PRETRAINED, inline_svg, thousands
from agent.report.training import STYLES
from agent.run_directory import RunDirectory
from benchmarks.lucky_chain import LEARNERS, STATES, Found, Value, exact

LIGHT = {
    "--ink": "#1a2027", "--muted": "#56616c", "--rule": "#dce1e6", "--surface": "#ffffff",
    "--data": "#b85f90", "--pretrained": "#d55e00", "--finetuned": "#0072b2", "--deployed": "#00805c",
}  # fmt: skip
"""The report's light colours: a picture in a page of its own knows no variables."""
COLOURS = (FINETUNED, PRETRAINED, DEPLOYED, INK)
LAST_SHARE = 0.1
"""Of the updates, over which a figure at the end is a mean: one batch's says little."""
MOST_POINTS = 60
ACROSS = 3


@dataclass(frozen=True, kw_only=True)
class Column:
    """A figure of a run over its updates."""

    key: str
    """Of metrics.jsonl; `bias` is the mean over `calibration` of Q minus the return that followed."""
    title: str
    """In words."""
    logarithmic: bool = False
    """Whether to draw it on a logarithmic scale."""
    level: float | None = None
    """Where to draw a line to compare with."""


@dataclass(frozen=True)
class Curves:
    """The training lines and diagnostics of one run."""

    lines: list[dict[str, Any]]

    def over_updates(self, key: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Updates and values of the lines that have the key."""
        found = [(line["updates"], line[key]) for line in self.lines if line.get(key) is not None]
        table = np.array(found, dtype=np.float64).reshape(-1, 2)
        return table[:, 0], table[:, 1]

    def at_the_end(self, key: str) -> float:
        """Mean over the last tenth of the updates; NaN where the key was never logged."""
        updates, values = self.over_updates(key)
        if not len(values):
            return float("nan")
        return float(values[updates > (1.0 - LAST_SHARE) * updates[-1]].mean())


def read_curves(run: Path) -> Curves:
    """Of a run directory; no lines where it has logged none."""
    lines = [line for line in read_lines(RunDirectory(run).metrics) if line["kind"] in ("train", "diagnostics")]
    for line in lines:
        if calibration := line.get("calibration"):
            line["bias"] = float(np.mean(calibration["q"]) - np.mean(calibration["return"]))
    return Curves(lines)


def picture(
    path: Path, asks: str, columns: Sequence[Column], runs: Sequence[Run], curves: Mapping[Path, Curves]
) -> None:
    """One dataset: a panel a figure; lines are means over seeds in the band of all of them."""
    variants = list(dict.fromkeys(run.variant for run in runs))
    rows = -(-len(columns) // ACROSS)

    def draw(figure: Any) -> None:
        panels = figure.subplots(rows, ACROSS, squeeze=False, sharex=True).ravel()
        for axes, column in zip(panels, columns, strict=False):
            for index, variant in enumerate(variants):
                own = [run.config.out for run in runs if run.variant == variant]
                band(axes, [curves[out].over_updates(column.key) for out in own], index)
            axes.set_title(column.title)
            if column.level is not None:
                axes.axhline(column.level, color=MUTED, linewidth=1.0)
            if column.logarithmic:
                axes.set_yscale("log")
            axes.set_xlim(0, None)
            axes.set_xlabel("updates")
            axes.xaxis.set_major_formatter(thousands)
            axes.xaxis.get_major_locator().set_params(nbins=4)
        for axes in panels[len(columns) :]:
            axes.set_visible(False)
        handles = [
            panels[0].plot([], [], color=COLOURS[i % len(COLOURS)], linestyle=STYLES[i % len(STYLES)], label=v)[0]
            for i, v in enumerate(variants)
        ]
        figure.legend(handles=handles, loc="outside lower left", ncols=1, labelcolor=INK, handlelength=3.0)

    size = (9.0, 2.1 * rows + 0.3 + 0.19 * len(variants))
    write_picture(path, size, f"{asks} Lines are means over seeds, bands reach from the lowest to the highest.", draw)


def band(axes: Any, found: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]], index: int) -> None:
    """One variant: the mean over its runs at the updates that all of them have logged, and their range."""
    logged = [each for each in found if len(each[0])]
    if not logged:
        return
    common = sorted(set.intersection(*(set(updates.tolist()) for updates, _ in logged)))
    values = np.array([[dict(zip(*map(np.ndarray.tolist, each), strict=True))[u] for u in common] for each in logged])
    x = np.array(common)
    starts = np.unique(np.linspace(0, len(x), min(len(x), MOST_POINTS), endpoint=False).astype(int))
    sizes = np.diff(np.append(starts, len(x)))
    x, values = np.add.reduceat(x, starts) / sizes, np.add.reduceat(values, starts, axis=1) / sizes
    colour, style = COLOURS[index % len(COLOURS)], STYLES[index % len(STYLES)]
    axes.fill_between(x, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.15, linewidth=0)
    axes.plot(x, values.mean(axis=0), color=colour, linestyle=style, linewidth=1.4)


def chain_picture(path: Path, found: Sequence[Found]) -> None:
    """Exact fixed points over τ as lines, what was learnt as dots."""
    taus = np.linspace(0.5, 0.98, 49)
    looks: dict[str, tuple[str, Any, str]] = {"IQL": (FINETUNED, "-", "o"), "Q alone": (PRETRAINED, "--", "D")}

    def draw(figure: Any) -> None:
        left, right = figure.subplots(1, 2)
        values: dict[Value, str] = LEARNERS
        for value, name in values.items():
            colour, style, marker = looks[name]
            fixed = [exact(float(tau), value, 0.99) for tau in taus]
            left.plot(
                taus, [q[0, 0] - q[0, 1] for q, _ in fixed], color=colour, linestyle=style, label=f"{name}, exact"
            )
            right.plot(taus, [worth for _, worth in fixed], color=colour, linestyle=style)
            for axes, key in ((left, "preferences"), (right, "values")):
                x = [row.expectile for row in found if row.learner == name for _ in row.preferences]
                y = [v for row in found if row.learner == name for v in getattr(row, key)]
                axes.plot(x, y, linestyle="", marker=marker, color=colour, alpha=0.7, markeredgewidth=0)
            left.plot([], [], linestyle="", marker=marker, color=colour, label=f"{name}, learnt (a mark a seed)")
        best = sum(0.99**k for k in range(STATES))
        left.axhline(-0.5, color=MUTED, linewidth=1.0, linestyle=":", label="truth; best that a policy can reach")
        right.axhline(best, color=MUTED, linewidth=1.0, linestyle=":")
        left.set_title("Q(gamble) − Q(safe) at the start: above 0 luck wins")
        right.set_title("What the start is held to be worth")
        for axes in (left, right):
            axes.set_xlabel("τ")
        figure.legend(loc="outside lower left", ncols=2, labelcolor=INK, handlelength=3.0)

    words = "IQL prefers the better action at every expectile, Q alone from 0.7 on the lucky one."
    write_picture(path, (8.0, 3.4), words, draw)


def write_picture(path: Path, size: tuple[float, float], words: str, draw: Callable[[Any], None]) -> None:
    """Draw into a stand-alone SVG of `size` inches on white, described by `words`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, stand_alone(inline_svg(path.stem, size, words, draw)).encode())


def stand_alone(element: str) -> str:
    """A page's inline drawing as a document: its colours for its variables, a font, a ground."""
    for variable, colour in LIGHT.items():
        element = element.replace(f"var({variable})", colour)
    view = re.search(r'viewBox="([\d. ]+)"', element)
    assert view is not None
    width, height = view[1].split()[2:]
    size = f'width="{width}" height="{height}"'
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="DejaVu Sans, sans-serif" '
    head, _, body = element.replace("<svg ", opening, 1).partition(">")
    return f'{head}><rect {size} fill="{LIGHT["--surface"]}"/>{body}\n'
