"""`slipway report`: one HTML page about a run, with everything inside: no network, no script, the same bytes each time.

    page = write_report(Path("runs/door"))

The figures come from `report_figures`, the sentences from `report_words`, all of them from `report_facts.gather`.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent import __version__
from agent.config import TrainConfig
from agent.config_files import flatten
from agent.errors import RunError
from agent.files import write_atomic
from agent.report.facts import Facts, gather
from agent.report.words import elapsed, lead, moment, number, percent, plural, score, summary, whole

if TYPE_CHECKING:
    import jinja2

MOST_INCIDENTS = 200


def write_report(run: Path, out: Path | None = None) -> Path:
    """Write the report of `run` to `out` (RUN/report.html by default) in one step, and return where it is.

    Shows whatever the run has so far. Raises RunError where `run` is no run or `out` cannot be written, and ReplayError
    where the run's own store is damaged; an unreadable offline store is named in the page instead.
    """
    facts = gather(run)
    out = out or run / "report.html"
    data = render(facts).encode()
    try:
        write_atomic(out, data)
    except OSError as error:
        raise RunError(f"cannot write the report {out} ({error.strerror}): choose another --out") from error
    return out


def render(facts: Facts) -> str:
    """The page."""
    # Here, not above: both take longer to import than other verbs run.
    from markupsafe import Markup

    from agent.report.returns import learning_curve, return_histogram
    from agent.report.training import training_panels

    shown = facts.incidents[-MOST_INCIDENTS:]
    return template().render(
        facts=facts,
        version=__version__,
        algorithm=type(facts.config.algorithm).__name__.removesuffix("Config"),
        lead=lead(facts),
        summary=summary(facts),
        curve=learning_curve(facts),
        histogram=return_histogram(facts),
        panels=training_panels(facts),
        interval_bars=interval_bars(facts),
        deployment=deployment_rows(facts.deployment),
        incidents=[entry(event, facts.started) for event in shown],
        incidents_left_out=len(facts.incidents) - len(shown),
        turning_points=[entry(event, facts.started) for event in facts.turning_points[-MOST_INCIDENTS:]],
        configuration=configuration(facts.config),
        # The figures are our own SVG, escaped where it was made; everything else is escaped by the template.
        drawing=Markup,
    )


def template() -> jinja2.Template:
    """The packaged page, escaping every value that is put into it."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "percent": percent, "whole": whole, "moment": moment, "plural": plural}
    environment.globals |= {"number": number, "percent": percent, "score": score}
    return environment.from_string((resources.files("agent.report") / "page.html.j2").read_text(encoding="utf-8"))


def interval_bars(facts: Facts) -> dict[str, tuple[float, float, float]]:
    """For each result the left edge, width and mean of its interval, in percent of the span of all of them."""
    intervals = [result.ci for result in facts.results.values()]
    if not intervals:
        return {}
    low, high = min(ci[0] for ci in intervals), max(ci[1] for ci in intervals)
    span = high - low or 1.0
    return {
        key: tuple(round(100.0 * v / span, 2) for v in (r.ci[0] - low, r.ci[1] - r.ci[0], r.mean - low))  # type: ignore[misc]
        for key, r in facts.results.items()
    }


def deployment_rows(record: dict[str, Any] | None) -> list[tuple[str, str]]:
    """The control loop's own figures, for people; only those that were recorded."""
    if record is None:
        return []
    latency = record.get("latency_us") or {}
    rows = [("policy", record.get("policy_id")), ("state at the end", record.get("state"))]
    rows += [("reason", record.get("reason")), ("actions", count_or_none(record.get("steps")))]
    names = {"p50": "latency, median", "p99": "latency, 99th percentile", "p99.9": "latency, 99.9th percentile"}
    rows += [
        (name, f"{number(latency[key])} µs")
        for key, name in {**names, "max": "latency, largest"}.items()
        if latency.get(key) is not None
    ]
    if "rate_hz" in record:
        held = "unknown" if record["rate_hz"] is None else f"{number(record['rate_hz'])} Hz"
        target = record.get("target_hz")
        rows.append(
            ("control rate", f"{held}, asked for {number(target)} Hz" if target else f"{held}, as fast as possible")
        )
    rows += [
        ("overruns", count_or_none(record.get("overruns"))),
        ("held steps", count_or_none(record.get("held_steps"))),
    ]
    faults = record.get("faults")
    if faults is not None:
        rows.append(("faults", ", ".join(f"{name}: {count}" for name, count in faults.items()) or "none"))
    rows += [
        ("recorded steps", count_or_none(record.get("recorded"))),
        ("lost steps", count_or_none(record.get("lost"))),
    ]
    return [(name, str(value)) for name, value in rows if value is not None]


def count_or_none(value: Any) -> str | None:
    """A count with thousands separated, None where there is none."""
    return None if value is None else whole(value)


def entry(event: dict[str, Any], started: float | None) -> dict[str, str]:
    """One event for the page: when, since the start, what, and its details."""
    known = ("time", "kind", "message")
    return {
        "when": moment(event["time"]) if "time" in event else "",
        "since": elapsed(event["time"] - (started or 0.0)) if "time" in event else "",
        "kind": str(event.get("kind", "event")).replace("_", " "),
        "message": str(event.get("message", "")),
        "details": ", ".join(f"{key.replace('_', ' ')}: {value}" for key, value in event.items() if key not in known),
    }


def configuration(config: TrainConfig) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Sections of (name, value, default where it differs)."""
    values, defaults = flatten(config), flatten(TrainConfig())
    sections: dict[str, list[tuple[str, str, str]]] = {}
    for name, value in values.items():
        section, _, key = name.rpartition(".")
        # Paths have no default worth showing.
        differs = value != defaults[name] and name not in ("replay", "out")
        sections.setdefault(section or "run", []).append(
            (key, text_of(value), text_of(defaults[name]) if differs else "")
        )
    return list(sections.items())


def text_of(value: Any) -> str:
    """A configuration value as the configuration file has it; what is empty there is told as such."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return " × ".join(map(str, value))
    return "(empty)" if value == "" else str(value)
