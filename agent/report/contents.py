"""What the online replay holds: steps by the policy version that acted, and how those episodes went."""

from __future__ import annotations

from typing import Any

import numpy as np

from agent.console import plural
from agent.report.streams import Versions
from agent.report.svg import FINETUNED, MUTED, PRETRAINED, Picture, picture, thousands
from agent.report.words import number, whole


def version_figure(versions: Versions | None) -> Picture | None:
    """Steps and mean return by policy version; None where nothing versioned was stored."""
    if versions is None or not versions.steps.sum():
        return None
    edges, steps, returns = versions.edges, versions.steps, versions.mean_return
    known = np.isfinite(returns)

    def draw(figure: Any) -> None:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        middles, widths = (edges[:-1] + edges[1:] - 1) / 2, np.diff(edges)
        above.plot(middles[known], returns[known], color=FINETUNED, marker="o", markersize=4)
        above.set_ylabel("mean return")
        below.bar(edges[:-1] - 0.5, steps, width=widths * 0.96, align="edge", color=MUTED, alpha=0.55, linewidth=0)
        below.set_ylabel("steps")
        below.yaxis.set_major_formatter(thousands)
        below.set_xlabel("policy version")
        below.xaxis.get_major_locator().set_params(integer=True)
        if edges[0] == 0:
            below.axvline(0.5, color=PRETRAINED, linewidth=1.0)

    words = f"{plural(int(steps.sum()), 'online step')} by the policy versions {edges[0]} to {edges[-1] - 1}"
    if known.any():
        first, last = np.flatnonzero(known)[[0, -1]]
        words += (
            f": episodes begun by versions {span(edges, first)} have a mean return of {number(float(returns[first]))}, "
            f"those by {span(edges, last)} of {number(float(returns[last]))}"
        )
    words += f". Most steps, {whole(steps.max())}, are by versions {span(edges, int(steps.argmax()))}."
    return picture("versions", "Online steps by the policy version that acted, and how its episodes went", words, draw)


def span(edges: np.ndarray, index: int) -> str:
    """`4`, or `4 to 7`: the versions of a bin."""
    first, last = int(edges[index]), int(edges[index + 1]) - 1
    return str(first) if first == last else f"{first} to {last}"
