"""Drawings as inline SVG that takes its colours and fonts from the page: equal numbers give equal bytes."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# Okabe and Ito's colours, by meaning; the page replaces each by a variable that suits light or dark.
INK, MUTED, GRID, SURFACE = "#010101", "#020202", "#030303", "#040404"
DATA, PRETRAINED, FINETUNED, DEPLOYED = "#cc79a7", "#d55e00", "#0072b2", "#009e73"
VARIABLES = {
    INK: "--ink", MUTED: "--muted", GRID: "--rule", SURFACE: "--surface",
    DATA: "--data", PRETRAINED: "--pretrained", FINETUNED: "--finetuned", DEPLOYED: "--deployed",
}  # fmt: skip
WIDE, NARROW, PANEL = (10.0, 3.7), (4.3, 3.7), (3.4, 2.3)

STYLE = {
    "svg.fonttype": "none", "font.family": "DejaVu Sans", "font.size": 9.0, "axes.titlesize": 9.0,
    "text.color": INK, "axes.labelcolor": MUTED, "xtick.labelcolor": MUTED, "ytick.labelcolor": MUTED,
    "axes.edgecolor": MUTED, "xtick.color": MUTED, "ytick.color": MUTED, "grid.color": GRID,
    "axes.grid": True, "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False,
    "grid.linewidth": 0.8, "lines.linewidth": 1.6, "legend.frameon": False, "axes.unicode_minus": True,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One figure for the page."""

    title: str
    """Caption."""
    words: str
    """What it shows, in words and numbers."""
    wide: str
    """Inline SVG."""
    narrow: str
    """Inline SVG for narrow screens; empty where `wide` is small enough."""


def inline_svg(name: str, size: tuple[float, float], words: str, draw: Callable[[Any], None]) -> str:
    """Draw into a figure of `size` inches and return its SVG for the body of a page, described by `words`."""
    # Here, not above: importing matplotlib takes longer than most verbs run.
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        # A user's own matplotlibrc must not change the report.
        matplotlib.rcdefaults()
        settings: Any = matplotlib.rcParams
        settings.update(STYLE | {"svg.hashsalt": name})
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return page_svg(buffer.getvalue().decode(), name, words)


def page_svg(document: str, name: str, words: str) -> str:
    """A stand-alone SVG document as an element of a page: no prologue, ids of its own, the page's colours and fonts."""
    view = re.search(r'viewBox="([^"]+)"', document)
    assert view is not None
    body = document[document.index(">", document.index("<svg")) + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.DOTALL)
    used = set(re.findall(r'href="#([^"]+)"', body)) | set(re.findall(r"url\(#([^)]+)\)", body))
    body = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", body)
    body = body.replace('xlink:href="#', f'href="#{name}-').replace("url(#", f"url(#{name}-")
    body = body.replace("font-family: 'DejaVu Sans'; ", "").replace("font-family: 'DejaVu Sans'", "")
    for colour, variable in VARIABLES.items():
        body = body.replace(colour, f"var({variable})")
    body = re.sub(r"\s*\n\s*", " ", body).replace("<defs> </defs>", "")
    return f'<svg role="img" aria-label="{html.escape(words)}" viewBox="{view[1]}">{body}'


def picture(name: str, title: str, words: str, draw: Callable[[Any], None]) -> Picture:
    """A figure in two widths."""
    return Picture(
        title=title,
        words=words,
        wide=inline_svg(f"{name}-wide", WIDE, words, draw),
        narrow=inline_svg(f"{name}-narrow", NARROW, words, draw),
    )


def boundary_labels(axes: Any, x: float) -> None:
    """`offline` and `online` on their sides of a boundary, above the axes."""
    for side, text, shift in (("right", "offline", -4), ("left", "online", 4)):
        label(axes, text, (x, 1.0), side, (shift, 2), MUTED)


def label(axes: Any, text: str, at: tuple[float, float], side: str, shift: tuple[float, float], colour: str) -> None:
    """Text whose `side` is at a value of x and a share of the axes' height, shifted by points."""
    axes.annotate(
        text, at, xytext=shift, xycoords=axes.get_xaxis_transform(), textcoords="offset points", ha=side, va="bottom",
        color=colour, annotation_clip=False, bbox={"facecolor": SURFACE, "edgecolor": "none", "pad": 0.5},
    )  # fmt: skip


def thousands(value: float, _: object = None) -> str:
    """Tick labels: 500, 20k, 1.5M."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{suffix}"
    return f"{value:g}".replace("-", "−")
