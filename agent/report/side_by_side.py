"""Several runs on one page: results side by side, curves in one figure, and what their configurations differ in."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agent.config_files import flatten
from agent.console import plural
from agent.report.facts import Facts
from agent.report.results import Result
from agent.report.returns import over_online_steps
from agent.report.svg import INK, PANEL, Picture, inline_svg, picture, thousands
from agent.report.tables import text_of
from agent.report.training import COLOURS, PANELS, STYLES, column, fit_values, thin
from agent.report.words import (
    RETURN,
    measure,
    number,
    order,
    scale_of,
    value_text,
    whole,
    with_interval,
)

MARKERS = "osD^vP"
PLACES = frozenset({"out", "replay", "seed"})


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart: `run`, else `seed-0/run`."""
    parts = [path.resolve().parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-length:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def common_scale(runs: Sequence[Facts]) -> str:
    """What all runs can be judged by."""
    kinds = {scale_of(facts) for facts in runs}
    return kinds.pop() if len(kinds) == 1 else RETURN


def best_of(facts: Facts) -> Result | None:
    """The newest policy that was evaluated."""
    return facts.tuned or facts.results.get("pretrained")


def comparison_lead(runs: Sequence[Facts]) -> str:
    """Which run stands highest, and whether the next one can be told from it."""
    kind = common_scale(runs)
    judged = [(facts, result) for facts in runs if (result := best_of(facts)) and measure(result, kind) is not None]
    if not judged:
        return f"None of these {len(runs)} runs has been evaluated yet."

    def value(pair: tuple[Facts, Result]) -> float:
        measured = measure(pair[1], kind)
        assert measured is not None
        return measured[0]

    judged.sort(key=value, reverse=True)
    (first, highest), others = judged[0], judged[1:]
    text = f"{first.name} stands highest with {with_interval(highest, kind)}"
    if not others:
        return f"{text}; the other runs have not been evaluated yet."
    level = [facts.name for facts, result in others if order(result, highest, kind) == 0]
    if not level:
        return f"{text}; the 95% intervals of all others lie below."
    return f"{text}; {', '.join(level)} cannot be told from it by the 95% intervals."


def result_rows(runs: Sequence[Facts]) -> list[dict[str, Any]]:
    """For each run its name, setting, and the results of every stage on the common scale, with intervals."""
    kind = common_scale(runs)

    def cell(result: Result | None) -> tuple[str, str]:
        measured = None if result is None or not result.comparable else measure(result, kind)
        if measured is None:
            return "–", ""
        value, ci = measured
        return value_text(value, kind), f"{value_text(ci[0], kind)} to {value_text(ci[1], kind)}" if ci else ""

    return [
        {
            "name": facts.name,
            "algorithm": type(facts.config.algorithm).__name__.removesuffix("Config"),
            "seed": facts.config.seed,
            "stages": {
                stage: cell(facts.tuned if stage == "tuned" else facts.results.get(stage))
                for stage in ("data", "pretrained", "tuned", "deployed")
            },
            "steps": facts.tuned.online_steps if facts.tuned else 0,
            "incidents": len(facts.incidents),
            "kinds": ", ".join(
                f"{name.replace('_', ' ')} {count}×"
                for name, count in Counter(str(e.get("kind", "event")) for e in facts.incidents).most_common()
            ),
        }
        for facts in runs
    ]


def differences(runs: Sequence[Facts]) -> tuple[list[tuple[str, list[str]]], int]:
    """Names and values (one a run) in which the configurations differ, and how many values are the same in all."""
    flat = [flatten(facts.config) for facts in runs]
    names = dict.fromkeys(name for values in flat for name in values if name != "out")
    differing = [
        (name, [text_of(values[name]) if name in values else "–" for values in flat])
        for name in names
        if any(values.get(name) != flat[0].get(name) or name not in values for values in flat)
    ]
    return differing, len(names) - len(differing)


# --- figures ----------------------------------------------------------------------------------------------------------


def look(index: int) -> dict[str, Any]:
    """Colour and line of a run; lines differ where colours repeat."""
    turn = index // len(COLOURS)
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": STYLES[(index + turn) % len(STYLES)]}


def curves(runs: Sequence[Facts]) -> Picture | None:
    """Every run's evaluations over online steps with their 95% intervals; None without any."""
    kind = common_scale(runs)
    lines = []
    for index, facts in enumerate(runs):
        points = [(r.online_steps, *m) for r in facts.curve if (m := measure(r, kind)) is not None]
        if points and facts.config.online_steps:
            lines.append((index, facts.name, points))
    if not lines:
        return None

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        for index, name, points in lines:
            steps = np.array([p[0] for p in points], float)
            means = np.array([p[1] for p in points])
            bounds = np.array([p[2] or (p[1], p[1]) for p in points])
            style = look(index)
            axes.fill_between(steps, bounds[:, 0], bounds[:, 1], color=style["color"], alpha=0.12, linewidth=0)
            axes.plot(steps, means, marker=MARKERS[index % len(MARKERS)], markersize=4, label=name, **style)
        over_online_steps(axes, kind)
        legend(figure)

    words = "Evaluations over online steps: " + "; ".join(
        f"{name} from {value_text(points[0][1], kind)} at {whole(points[0][0])} steps to "
        f"{value_text(points[-1][1], kind)} at {whole(points[-1][0])}"
        for _, name, points in lines
    )
    return picture("curves", "Evaluations over online steps, with their 95% intervals", words + ".", draw)


def seed_groups(runs: Sequence[Facts]) -> list[tuple[str, list[Facts]]]:
    """Runs that differ in nothing but the seed, by the names of the first and how many there are; two or more each.

    They learn from the same data, wherever it lies, or each from a log of its own that the same request made; of runs
    with the same seed the first stands.
    """
    groups: dict[str, dict[int, Facts]] = {}
    for facts in runs:
        values = {name: value for name, value in flatten(facts.config).items() if name not in PLACES}
        key = repr((values, facts.env, facts.data_identity))
        groups.setdefault(key, {}).setdefault(facts.config.seed, facts)
    seeds = [list(group.values()) for group in groups.values() if len(group) > 1]
    return [(f"{group[0].name} and {plural(len(group) - 1, 'other seed')}", group) for group in seeds]


def seed_bands(runs: Sequence[Facts]) -> Picture | None:
    """The mean over seeds of each group of runs, from its lowest to its highest seed; None without such a group."""
    kind = common_scale(runs)
    bands = []
    for name, group in seed_groups(runs):
        tables = [{r.online_steps: m[0] for r in facts.curve if (m := measure(r, kind)) is not None} for facts in group]
        steps = sorted(set.intersection(*map(set, tables)))
        if steps:
            bands.append((name, np.array(steps, float), np.array([[t[step] for step in steps] for t in tables])))
    if not bands:
        return None

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        for index, (name, steps, values) in enumerate(bands):
            style = look(index)
            axes.fill_between(steps, values.min(0), values.max(0), color=style["color"], alpha=0.15, linewidth=0)
            axes.plot(steps, values.mean(0), marker=MARKERS[index % len(MARKERS)], markersize=4, label=name, **style)
        over_online_steps(axes, kind)
        legend(figure)

    words = "Means over seeds: " + "; ".join(
        f"{name} {value_text(float(values[:, -1].mean()), kind)} at {whole(steps[-1])} steps, its seeds between "
        f"{value_text(float(values[:, -1].min()), kind)} and {value_text(float(values[:, -1].max()), kind)}"
        for name, steps, values in bands
    )
    title = "Runs that differ in nothing but the seed: their mean, and from the lowest to the highest"
    return picture("seeds", title, words + ".", draw)


def legend(figure: Any) -> None:
    """Below the axes, in as many columns as the width holds."""
    columns = 4 if figure.get_size_inches()[0] > 6 else 1
    figure.legend(loc="outside lower left", ncols=columns, labelcolor=INK, handlelength=2.8)


def panels(runs: Sequence[Facts]) -> list[Picture]:
    """The learner's leading figure of each group over updates, a line for each run that logged it."""
    made: list[Picture] = []
    for title, group in PANELS.items():
        key, heading = group[0].key, title.partition(",")[0]
        lines = [
            (index, facts.name, column(facts.training, "updates"), values)
            for index, facts in enumerate(runs)
            if np.isfinite(values := column(facts.training, key)).any()
        ]
        if lines:
            full = heading if len(group) == 1 else f"{heading}: {group[0].label}"
            made.append(panel(f"compared{len(made)}", full, lines, wide_range=group[0].wide_range))
    return made


def panel(
    name: str, title: str, lines: Sequence[tuple[int, str, np.ndarray, np.ndarray]], *, wide_range: bool
) -> Picture:
    """One key of several runs over updates."""

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        for index, _, updates, values in lines:
            x, y, _, _ = thin(updates, values)
            axes.plot(x, y, linewidth=1.2, **look(index))
        shown = np.concatenate([values[np.isfinite(values)] for *_, values in lines])
        fit_values(axes, shown, wide_range=wide_range)
        axes.set_xlim(0, None)
        axes.set_xlabel("updates")
        axes.xaxis.set_major_formatter(thousands)
        axes.xaxis.get_major_locator().set_params(nbins=5)

    last = [(run, float(values[np.isfinite(values)][-1])) for _, run, _, values in lines]
    words = f"{title}, at last: " + "; ".join(f"{run} {number(value)}" for run, value in last) + "."
    return Picture(title=title, words=words, wide=inline_svg(name, PANEL, words, draw), narrow="")


def named(runs: Sequence[Facts], paths: Sequence[Path]) -> list[Facts]:
    """The runs under names that tell them apart."""
    return [dataclasses.replace(f, name=name) for f, name in zip(runs, distinct_names(paths), strict=True)]
