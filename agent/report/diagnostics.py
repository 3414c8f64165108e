"""The critics' calibration, the effective rank of the features and dead units, where the run has recorded them."""

from __future__ import annotations

from typing import Any

import numpy as np

from agent.console import plural
from agent.report.facts import Facts
from agent.report.svg import FINETUNED, INK, MUTED, PRETRAINED, Picture, inline_svg
from agent.report.training import Series, recorded_panels
from agent.report.words import number, whole

SQUARE = (4.3, 3.9)
PANELS = {
    "Effective rank of the features (srank)": (
        Series(key="srank_critic", label="critic"),
        Series(key="srank_actor", label="actor", colour=PRETRAINED, style="--"),
    ),
    "Dead units, share": (
        Series(key="dead_units_critic", label="critic"),
        Series(key="dead_units_actor", label="actor", colour=PRETRAINED, style="--"),
    ),
}
PACE = {
    "Waiting at the limiter, share of time": (
        Series(key="learner_wait_fraction", label="learner"),
        Series(key="collector_wait_fraction", label="collectors", colour=PRETRAINED, style="--"),
    ),
    "Age of the acting policy, seconds": (
        Series(key="staleness_seconds_p50", label="median"),
        Series(key="staleness_seconds_p99", label="99th percentile", colour=PRETRAINED, style="--"),
    ),
    "Online steps per second": (Series(key="steps_per_second", label="steps per second"),),
}


def diagnostic_panels(facts: Facts) -> list[Picture]:
    """Rank, dead units and calibration over updates; only what was recorded."""
    return recorded_panels(facts, facts.diagnostics, PANELS, "diagnostic")


def pace_panels(facts: Facts) -> list[Picture]:
    """Waits, staleness and speed of fine-tuning over online steps; only what was recorded."""
    return recorded_panels(facts, facts.pace, PACE, "pace", over="online_steps")


def calibration(facts: Facts) -> Picture | None:
    """What the critics expected against the return that followed, at the end of each phase; None where not recorded."""
    newest = {
        str(line.get("phase")): line for line in facts.diagnostics if (line.get("calibration") or {}).get("q")
    }  # fmt: skip
    if not newest:
        return None
    groups = [
        (
            f"{phase}, {whole(line['updates'])} updates",
            np.asarray(line["calibration"]["return"], float),
            np.asarray(line["calibration"]["q"], float),
            PRETRAINED if phase == "offline" else FINETUNED,
            "D" if phase == "offline" else "o",
        )
        for phase, line in newest.items()
    ]

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        values = np.concatenate([v for _, returns, q, *_ in groups for v in (returns, q)])
        low, high = float(values.min()), float(values.max())
        margin = 0.05 * (high - low or 1.0)
        ends = [low - margin, high + margin]
        axes.plot(ends, ends, color=INK, linewidth=1.0, linestyle="--", label="expected as it came")
        for name, returns, q, colour, marker in groups:
            axes.plot(
                returns, q, linestyle="", marker=marker, markersize=5, color=colour, alpha=0.75, label=name,
                markeredgewidth=0,
            )  # fmt: skip
        axes.set_xlim(*ends)
        axes.set_ylim(*ends)
        axes.set_xlabel("discounted return that followed")
        axes.set_ylabel("Q")
        axes.tick_params(color=MUTED)
        figure.legend(loc="outside lower left", ncols=1, labelcolor=INK, handlelength=2.0)

    said = "; ".join(calibration_words(name, returns, q) for name, returns, q, *_ in groups)
    words = f"Q against the discounted return that followed: {said}."
    words += " Q is of the learnt policy, the return of the logged one: Q should lie above the dashed line, not astray."
    drawing = inline_svg("calibration", SQUARE, words, draw)
    return Picture(
        title="What the critics expect of the learnt policy, and what followed in the data",
        words=words,
        wide=drawing,
        narrow="",
    )


def calibration_words(name: str, returns: np.ndarray, q: np.ndarray) -> str:
    """Bias and correlation of Q against returns, both [N]."""
    excess = number(float((q - returns).mean()))
    text = f"{name}, {plural(len(q), 'group')} of steps: Q exceeds the return by {excess} on average"
    if q.std() > 0 and returns.std() > 0:
        text += f", correlation {number(float(np.corrcoef(q, returns)[0, 1]))}"
    return text
