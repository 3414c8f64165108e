"""Rows of the report's tables, as text for people."""

from __future__ import annotations

from typing import Any

from agent.config import TrainConfig
from agent.config_files import flatten
from agent.report.facts import Facts
from agent.report.words import elapsed, moment, number, small, whole


def interval_bars(facts: Facts) -> dict[str, tuple[float, float, float]]:
    """For each comparable result the left edge, width and mean of its interval, in percent of the span of all."""
    intervals = {key: r.ci or (r.mean, r.mean) for key, r in facts.results.items() if r.comparable}
    if not intervals:
        return {}
    least, most = min(low for low, _ in intervals.values()), max(high for _, high in intervals.values())
    span = most - least or 1.0
    return {
        key: tuple(round(100.0 * v / span, 2) for v in (low - least, high - low, facts.results[key].mean - least))  # type: ignore[misc]
        for key, (low, high) in intervals.items()
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


def export_rows(record: dict[str, Any] | None) -> list[tuple[str, str]]:
    """What the newest export was compared with, and by how much each variant differs."""
    if record is None:
        return []
    rows = [("policy", str(record["policy"])), ("bundle", str(record["bundle"]))]
    for name, variant in record["variants"].items():
        parity = variant.get("parity") or {}
        if "action_error" in parity:
            text = f"{small(parity['action_error'])} over {whole(parity['observations'])} observations"
            if "tolerance" in parity:
                text += f", allowed {small(parity['tolerance'])}"
            rows.append((f"{name}: largest difference of an action", text))
    for name, failed in dict(record.get("left_out") or {}).items():
        differs, allowed = small(failed["parity"]["action_error_ordinary"]), small(failed["limit"])
        rows.append((f"{name}: left out", f"an action differs by {differs}, allowed {allowed}"))
    rows.append(("signed", "yes" if record.get("signed") else "no"))
    return rows


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
    values, defaults = flatten(config), flatten(TrainConfig(algorithm=type(config.algorithm)()))
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
