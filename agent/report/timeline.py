"""The run on one axis of time: phases, evaluations, turning points and incidents."""

from __future__ import annotations

from collections import Counter
from typing import Any

from agent.console import plural
from agent.report.facts import Facts
from agent.report.svg import DATA, FINETUNED, INK, MUTED, PRETRAINED, Picture, inline_svg
from agent.report.words import elapsed

MOST_ROWS = 10
OTHERS = "others"
UNITS = ((86_400.0, "days"), (3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))


def phases(facts: Facts) -> list[tuple[str, float, float]]:
    """(name, from, to) in seconds since the start; what lies between two of them was start-up, warm-up or a stop."""
    started = facts.started or 0.0
    spans = []
    for name in ("offline", "online"):
        times = [float(line["time"]) - started for line in facts.training if line.get("phase") == name]
        if times:
            spans.append((name, min(times), max(times)))
    return spans


def timeline(facts: Facts) -> Picture | None:
    """Incidents by kind along the run's time; None where nothing went wrong and nothing was resumed."""
    events = [e for e in (*facts.turning_points, *facts.incidents) if "time" in e]
    if not events or facts.started is None or facts.as_of is None:
        return None
    started, span = facts.started, max(facts.as_of - facts.started, 1.0)
    ordered = Counter(str(e.get("kind", "event")) for e in events).most_common()
    kinds = [kind for kind, _ in ordered[: MOST_ROWS if len(ordered) <= MOST_ROWS else MOST_ROWS - 1]]
    rows = kinds + ([OTHERS] if len(ordered) > len(kinds) else [])
    incidents = {str(e.get("kind", "event")) for e in facts.incidents}
    size, unit = next((size, unit) for size, unit in UNITS if span >= 1.5 * size or unit == "seconds")
    parts = phases(facts)

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        for name, begin, end in parts:
            colour = PRETRAINED if name == "offline" else FINETUNED
            axes.axvspan(begin / size, max(end, begin + 0.002 * span) / size, color=colour, alpha=0.13, linewidth=0)
            axes.annotate(
                f"{name} updates", ((begin + end) / 2 / size, 1.0), xytext=(0, 3), textcoords="offset points",
                xycoords=axes.get_xaxis_transform(), ha="center", va="bottom", color=MUTED, annotation_clip=False,
            )  # fmt: skip
        for row, kind in enumerate(rows):
            mine = [e for e in events if (str(e.get("kind", "event")) if kind in kinds else None) == kind or (
                kind == OTHERS and str(e.get("kind", "event")) not in kinds)]  # fmt: skip
            times = [(float(e["time"]) - started) / size for e in mine]
            wrong = kind in incidents or kind == OTHERS
            # The shape, not the colour alone, tells an incident from a turning point.
            axes.plot(
                times, [row] * len(times), linestyle="", marker="X" if wrong else "o", markersize=8 if wrong else 6,
                color=DATA if wrong else MUTED, markeredgecolor=INK if wrong else MUTED, markeredgewidth=0.7,
                clip_on=False,
            )  # fmt: skip
        axes.set_yticks(range(len(rows)), [kind.replace("_", " ") for kind in rows])
        axes.tick_params(axis="y", labelcolor=INK, length=0)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(0.0, span / size)
        axes.set_xlabel(f"{unit} since the start")
        axes.spines["left"].set_visible(False)

    counted = ", ".join(f"{kind.replace('_', ' ')} {count}×" for kind, count in ordered)
    words = f"{plural(len(facts.incidents), 'incident')} and {plural(len(facts.turning_points), 'turning point')} in "
    words += f"{elapsed(span)} (hours:minutes:seconds): {counted}. "
    words += " ".join(f"{name.capitalize()} updates ran from {elapsed(a)} to {elapsed(b)}." for name, a, b in parts)
    height = 1.0 + 0.27 * len(rows)
    return Picture(
        title="What happened when: crosses are incidents, dots turning points",
        words=words.strip(),
        wide=inline_svg("timeline-wide", (10.0, height), words, draw),
        narrow=inline_svg("timeline-narrow", (4.3, height), words, draw),
    )
