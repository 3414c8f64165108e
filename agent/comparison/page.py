"""The comparison as one HTML page, in the report's style, with everything inside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agent.comparison.results import Method, Task
from agent.errors import RunError
from agent.files import write_atomic
from agent.report.page import template
from agent.report.svg import DATA, FINETUNED, INK, Picture, inline_svg


def write_page(tasks: Sequence[Task], record: dict[str, Any], out: Path) -> Path:
    """Write it in one step and return where it is; RunError where it cannot be written.

    `record` holds how the comparison was made: `steps`, `online_steps`, `episodes`, `seeds`, `failures`.
    """
    pictures = [picture_of(task, index) for index, task in enumerate(tasks)]
    page = template("comparison.html.j2").render(tasks=list(zip(tasks, pictures, strict=True)), record=record)
    try:
        write_atomic(out, page.encode())
    except OSError as error:
        raise RunError(f"cannot write the comparison {out} ({error.strerror}): choose another --html") from error
    return out


def picture_of(task: Task, index: int) -> Picture:
    """Every run as a dot, mean and interquartile mean with its interval as marks, the data as a line."""
    words = "; ".join(sentence(method) for method in task.methods)
    height = 0.9 + 0.38 * len(task.methods)

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for row, method in enumerate(task.methods):
            runs = np.array([score for score in method.scores if score is not None])
            axes.plot(runs, np.full(len(runs), row), "o", color=FINETUNED, alpha=0.5, markersize=5, zorder=3)
            if method.iqm_ci is not None:
                axes.plot(method.iqm_ci, [row, row], color=FINETUNED, linewidth=2.5, solid_capstyle="butt")
            if method.iqm is not None:
                axes.plot([method.iqm], [row], "|", color=INK, markersize=13, markeredgewidth=2.0, zorder=4)
        if task.data is not None:
            axes.axvline(task.data, color=DATA, linestyle="--")
        axes.set_yticks(range(len(task.methods)), [method.label for method in task.methods])
        axes.set_ylim(len(task.methods) - 0.5, -0.5)
        axes.set_xlabel("normalised score" if task.unit == "score" else "mean return")
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")

    name = f"comparison-{index}"
    title = "Dots are runs, the bar is the 95% interval of their interquartile mean (the stroke)"
    return Picture(
        title=title + (", the dashed line is the data." if task.data is not None else "."),
        words=words,
        wide=inline_svg(f"{name}-wide", (10.0, height), words, draw),
        narrow=inline_svg(f"{name}-narrow", (4.3, height + 0.3), words, draw),
    )


def sentence(method: Method) -> str:
    """One method in words."""
    if method.iqm is None:
        return f"{method.label}: no finished run"
    interval = "" if method.iqm_ci is None else f" ({method.iqm_ci[0]:.3g} to {method.iqm_ci[1]:.3g})"
    return f"{method.label}: interquartile mean {method.iqm:.3g}{interval}"
