"""The report's sentences and number formats. Every sentence is made from the run's figures and claims no more."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

from agent.console import plural
from agent.report.facts import Facts
from agent.report.results import Result

PERCENT = "success"
SCORE = "normalised score"
RETURN = "mean return"


def number(value: float | None) -> str:
    """About three significant digits, thousands separated, a true minus sign; an en dash for nothing."""
    if value is None or not math.isfinite(value):
        return "–"
    size = abs(value)
    decimals = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 10 else 3
    text = f"{value:,.{decimals}f}" if size >= 0.1 or size == 0 else f"{value:.3g}"
    return text.replace("-", "−")


def percent(share: float | None) -> str:
    """A share as a percentage, without decimals where none are needed."""
    if share is None:
        return "–"
    text = f"{100 * share:.1f}"
    return text.removesuffix(".0") + "%"


def small(value: float) -> str:
    """A difference, to one digit: `3e-7`."""
    mantissa, _, exponent = f"{value:.0e}".partition("e")
    return "0" if value == 0 else f"{mantissa}e{int(exponent)}".replace("-", "−")


def score(value: float) -> str:
    """A normalised score, to the tenth."""
    return f"{value:,.1f}".replace("-", "−")


def whole(value: float) -> str:
    """A count with thousands separated."""
    return f"{value:,.0f}"


def moment(seconds: float) -> str:
    """A Unix time in UTC, the same on every machine."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def elapsed(seconds: float) -> str:
    """Hours, minutes and seconds since the start."""
    total = round(seconds)
    return f"{total // 3600}:{total // 60 % 60:02d}:{total % 60:02d}"


def measure(result: Result, kind: str) -> tuple[float, tuple[float, float] | None] | None:
    """Value and 95% interval of a result on one scale; None where it has no such value."""
    if kind == PERCENT:
        return None if result.success is None else (result.success, result.success_ci)
    if kind == SCORE:
        return None if result.normalized is None else (result.normalized, result.normalized_ci)
    return result.mean, result.ci


def scale_of(facts: Facts) -> str:
    """What this run is judged by: the success rate, the normalised score, or the mean return."""
    policies = [result for key, result in facts.results.items() if key != "data"]
    if facts.task is not None and facts.task.score == "success" and all(p.success is not None for p in policies):
        return PERCENT
    if policies and all(p.normalized is not None for p in policies):
        return SCORE
    return RETURN


def value_text(value: float, kind: str) -> str:
    """One value on a scale."""
    return {PERCENT: percent, SCORE: score}.get(kind, number)(value)


def with_interval(result: Result, kind: str) -> str:
    """`35% (95% interval 26.4% to 44.7%)`."""
    measured = measure(result, kind)
    if measured is None:
        return f"{RETURN} {with_interval(result, RETURN)}" if kind != RETURN else "–"
    value, ci = measured
    text = value_text(value, kind)
    return f"{text} (95% interval {value_text(ci[0], kind)} to {value_text(ci[1], kind)})" if ci else text


def shared_scale(first: Result, second: Result, kind: str) -> str:
    """The scale that both results have: `kind`, or else the mean return."""
    return kind if measure(first, kind) is not None and measure(second, kind) is not None else RETURN


def order(first: Result, second: Result, kind: str) -> int:
    """1 where `second` lies above `first` beyond both 95% intervals, −1 where it lies below, 0 where they overlap."""
    before, after = measure(first, kind), measure(second, kind)
    if before is None or after is None or before[1] is None or after[1] is None:
        return 0
    return int(after[1][0] > before[1][1]) - int(after[1][1] < before[1][0])


def compare(before: Result, after: Result, kind: str, during: str) -> str:
    """`raised success from … to … DURING`, and whether the intervals carry that."""
    kind = shared_scale(before, after, kind)
    first, second = measure(before, kind), measure(after, kind)
    assert first is not None and second is not None
    name = {PERCENT: "success", SCORE: "the normalised score", RETURN: "the mean return"}[kind]
    old, new = value_text(first[0], kind), value_text(second[0], kind)
    if old == new:
        return f"left {name} at {new} {during}"
    verb = "raised" if second[0] > first[0] else "lowered"
    verdict = "the 95% intervals " + ("lie apart" if order(before, after, kind) else "overlap, so this may be chance")
    if first[1] is None or second[1] is None:
        verdict = "without their 95% intervals this may be chance"
    return f"{verb} {name} from {old} to {new} {during}; {verdict}"


def lead(facts: Facts) -> str:
    """The one thing to know."""
    results, kind = facts.results, scale_of(facts)
    after = facts.tuned
    if "pretrained" in results and after is not None:
        during = f"in {whole(after.online_steps)} online steps" + ("" if after.key == "finetuned" else " so far")
        return f"Fine-tuning {compare(results['pretrained'], after, kind, during)}."
    if after is not None:
        return f"The fine-tuned policy reaches {named(after, kind)}."
    if "pretrained" in results:
        updates = whole(facts.config.pretrain_steps)
        return f"Pretraining for {updates} updates reaches {named(results['pretrained'], kind)}."
    return "No policy of this run has been evaluated yet."


def named(result: Result, kind: str) -> str:
    """`35% success (…)`, `a normalised score of …`, `a mean return of …`."""
    text = with_interval(result, kind)
    return f"a success rate of {text}" if kind == PERCENT else f"a {kind} of {text}"


def summary(facts: Facts) -> list[str]:
    """The sentences after the lead."""
    results, kind = facts.results, scale_of(facts)
    said = []
    if "data" in results:
        said.append(logged(results["data"], results.get("pretrained"), kind))
    if facts.export is not None:
        said.append(exported(facts.export))
    if "deployed" in results:
        said.append(deployed(facts, results["deployed"], kind))
    said.append(incidents(facts))
    if facts.status is not None and facts.status["phase"] != "done":
        said.append(state(facts.status))
    return said


def logged(data: Result, pretrained: Result | None, kind: str) -> str:
    """What the logged data reaches, and where the pretrained policy lies beside it."""
    shown = RETURN if not data.comparable else shared_scale(data, pretrained or data, kind)
    text = f"The logged data ({plural(data.episodes, 'episode')}) has {named(data, shown)}"
    if not data.comparable:
        return f"{text}, its rewards counted otherwise than in scoring: the policies do not compare with it."
    if pretrained is not None:
        place = {1: "lies above it", 0: "cannot be told from it", -1: "lies below it"}[order(data, pretrained, shown)]
        measured = measure(pretrained, shown)
        assert measured is not None
        text += f"; the pretrained policy with {value_text(measured[0], shown)} {place}"
    return f"{text}."


def exported(record: dict[str, Any]) -> str:
    """How well the newest export matches the trained network."""
    parity = record["parity"]
    text = f"The exported policy matches the trained network to {small(parity['action_error'])}"
    return f"{text} on {whole(parity['observations'])} observations."


def deployed(facts: Facts, result: Result, kind: str) -> str:
    """What the control loop saw of the exported policy, and whether that agrees with its evaluation."""
    text = f"Deployed in the control loop, the exported policy reached {named(result, kind)}"
    text += f" over {plural(result.episodes, 'episode')}"
    final = facts.tuned or facts.results.get("pretrained")
    if final is not None and result.ci is not None and final.ci is not None:
        agree = result.ci[0] <= final.ci[1] and final.ci[0] <= result.ci[1]
        differs = ", which differs from its evaluation by more than the intervals allow"
        text += ", in line with its evaluation" if agree else differs
    latency = (facts.deployment or {}).get("latency_us") or {}
    if latency.get("p50") is not None and latency.get("p99") is not None:
        text += f"; an action took {number(latency['p50'])} µs (median), {number(latency['p99'])} µs (99th percentile)"
    return text + "."


def incidents(facts: Facts) -> str:
    """How many things went wrong, and the last of them."""
    if not facts.incidents:
        return "No incidents."
    last = str(facts.incidents[-1].get("message", facts.incidents[-1].get("kind", ""))).rstrip(".")
    if len(facts.incidents) == 1:
        return f"1 incident: {last}."
    return f"{plural(len(facts.incidents), 'incident')}, the last: {last}."


def state(status: dict[str, Any]) -> str:
    """Where a run that has not ended stands."""
    where = (
        f"{whole(status['pretrain_step'])} of {whole(status['pretrain_steps'])} offline updates and "
        f"{whole(status['online_steps'])} of {whole(status['planned_online_steps'])} online steps done"
    )
    at = moment(status["time"])
    if status["stopped"]:
        return f"The run was stopped in phase {status['phase']} at {at}, {where}: the same command resumes it."
    return f"The run was in phase {status['phase']} at {at}, {where}."
