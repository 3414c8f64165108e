"""The deployed policy's latencies, from the control loop's own histogram."""

from __future__ import annotations

from typing import Any

import numpy as np

from agent.console import plural
from agent.report.svg import DEPLOYED, INK, MUTED, PRETRAINED, Picture, label, picture, thousands
from agent.report.words import number, whole

PER_OCTAVE = 4


def latency_histogram(deployment: dict[str, Any] | None) -> Picture | None:
    """How long the deployed policy took to decide; None without a deployment that recorded it."""
    histogram = (deployment or {}).get("latency_histogram")
    if not deployment or not histogram or not sum(histogram["counts"]):
        return None
    edges, counts = coarser(np.asarray(histogram["edges_us"], float), np.asarray(histogram["counts"], float))
    quantiles = [(name, value) for name, value in deployment["latency_us"].items() if value is not None]
    hz = deployment.get("target_hz")
    period = 1e6 / hz if hz else None

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        axes.bar(edges[:-1], counts, width=np.diff(edges), align="edge", color=DEPLOYED, alpha=0.55, linewidth=0)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_ylim(0.7, None)
        axes.grid(visible=False, axis="x")
        low = edges[0]
        high = 1.1 * max(float(edges[-1]), period or 0.0, *(value for _, value in quantiles))
        axes.set_xlim(low, high)
        middle = float(np.sqrt(low * high))
        marks = [(name, value, INK, "--") for name, value in quantiles]
        marks += [("period", period, PRETRAINED, "-")] if period else []
        for row, (name, value, colour, style) in enumerate(sorted(marks, key=lambda mark: -mark[1])):
            height = 1.03 + 0.085 * row
            axes.plot([value, value], [0.0, height + 0.03], color=colour, linestyle=style, linewidth=1.2, clip_on=False,
                      transform=axes.get_xaxis_transform())  # fmt: skip
            side, shift = ("right", -5) if value > middle else ("left", 5)
            label(axes, f"{name} {duration(value)}", (value, height), side, (shift, 0), INK)
        axes.set_xlabel("time to decide on an action")
        axes.xaxis.set_major_formatter(lambda value, _: duration(value))
        axes.xaxis.set_minor_formatter(lambda value, _: "")
        axes.set_ylabel("actions (logarithmic)")
        axes.yaxis.set_major_formatter(thousands)
        axes.tick_params(axis="both", which="minor", color=MUTED)

    total = int(counts.sum())
    words = f"Time to decide on {plural(total, 'action')}: " + ", ".join(
        f"{name} {duration(value)}" for name, value in quantiles
    )
    words += f". The control period is {duration(period)}." if period else ". The loop ran as fast as it could."
    words += f" The fullest bar reaches from {duration(edges[counts.argmax()])} to "
    words += f"{duration(edges[counts.argmax() + 1])} with {whole(counts.max())} actions."
    return picture("latency", "How long the deployed policy took to decide on an action", words, draw)


def coarser(edges: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The histogram in bins a quarter of an octave wide: edges [K + 1] in µs, counts [K]; none empty at its ends."""
    middles = np.sqrt(edges[:-1] * edges[1:])
    bins = np.floor(np.log2(middles) * PER_OCTAVE).astype(int)
    first, last = int(bins[counts > 0].min()), int(bins[counts > 0].max())
    kept = (bins >= first) & (bins <= last)
    gathered = np.bincount(bins[kept] - first, weights=counts[kept], minlength=last - first + 1)
    return 2.0 ** (np.arange(first, last + 2) / PER_OCTAVE), gathered


def duration(microseconds: float) -> str:
    """`21.3 µs`, `1.2 ms`, `2.5 s`."""
    size, unit = next((pair for pair in ((1e6, "s"), (1e3, "ms")) if microseconds >= pair[0]), (1.0, "µs"))
    value = microseconds / size
    return f"{whole(value) if value % 1 == 0 else number(value)} {unit}"
