"""The page: facts, figures and sentences put into the templates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agent import __version__
from agent.console import plural
from agent.errors import RunError
from agent.files import check_place, write_atomic
from agent.report.facts import Facts, gather
from agent.report.rollout import Rollout, rollout
from agent.report.side_by_side import named
from agent.report.tables import configuration, deployment_rows, entry, export_rows, interval_bars
from agent.report.words import lead, moment, number, percent, score, summary, whole
from agent.run_directory import RunDirectory

if TYPE_CHECKING:
    import jinja2

MOST_INCIDENTS = 200


def write_report(
    run: Path, out: Path | None = None, *, with_rollout: bool = True, deployment: Path | None = None
) -> Path:
    """Write the report of `run` to `out` (RUN/report.html by default) in one step, and return where it is.

    Shows whatever the run has so far; `with_rollout` draws an episode of its newest policy, `deployment` is a file with
    what `slipway deploy --json` printed (RUN/deploy.json by default). Raises RunError where `run`
    is no run or `out` cannot be written, and ReplayError where the run's own store is damaged; an unreadable offline
    store is named in the page instead, and so is what hinders the drawing.
    """
    directory = RunDirectory(run)
    page = out or directory.report
    facts = gather(run, deployment)
    check_place("--out", page)
    episode = rollout(directory, facts.env, facts.config.seed) if with_rollout else None
    return write_page(page, render(facts, episode))


def write_comparison(runs: Sequence[Path], out: Path) -> Path:
    """Write one page about several runs to `out` in one step: results, curves and what their configurations differ in.

    Raises like `write_report`.
    """
    gathered = named([gather(run) for run in runs], runs)
    check_place("--out", out)
    return write_page(out, render_comparison(gathered))


def write_page(out: Path, page: str) -> Path:
    """Replace `out` by `page`; RunError where that cannot be."""
    try:
        write_atomic(out, page.encode())
    except OSError as error:
        raise RunError(f"cannot write the report {out} ({error.strerror}): choose another --out") from error
    return out


def render(facts: Facts, episode: Rollout | None = None) -> str:
    """The page about one run."""
    # Here, not above: they take longer to import than other verbs run.
    from agent.report.contents import version_figure
    from agent.report.diagnostics import calibration, diagnostic_panels, pace_panels
    from agent.report.latency import latency_histogram
    from agent.report.returns import learning_curve, return_histogram
    from agent.report.timeline import timeline
    from agent.report.training import training_panels

    shown = facts.incidents[-MOST_INCIDENTS:]
    return template("run.html.j2").render(
        facts=facts,
        episode=episode,
        algorithm=type(facts.config.algorithm).__name__.removesuffix("Config"),
        lead=lead(facts),
        summary=summary(facts),
        curve=learning_curve(facts),
        histogram=return_histogram(facts),
        panels=training_panels(facts),
        diagnostics=diagnostic_panels(facts) + pace_panels(facts),
        calibration=calibration(facts),
        versions=version_figure(facts.versions),
        latency=latency_histogram(facts.deployment),
        timeline=timeline(facts),
        export=export_rows(facts.export),
        interval_bars=interval_bars(facts),
        deployment=deployment_rows(facts.deployment),
        incidents=[entry(event, facts.started) for event in shown],
        incidents_left_out=len(facts.incidents) - len(shown),
        turning_points=[entry(event, facts.started) for event in facts.turning_points[-MOST_INCIDENTS:]],
        configuration=configuration(facts.config),
    )


def render_comparison(runs: Sequence[Facts]) -> str:
    """The page about several runs."""
    from agent.report import side_by_side

    differing, same = side_by_side.differences(runs)
    return template("runs.html.j2").render(
        runs=runs,
        names=[facts.name for facts in runs],
        lead=side_by_side.comparison_lead(runs),
        scale=side_by_side.common_scale(runs),
        rows=side_by_side.result_rows(runs),
        curves=side_by_side.curves(runs),
        seeds=side_by_side.seed_bands(runs),
        panels=side_by_side.panels(runs),
        differing=differing,
        same=same,
    )


def template(name: str) -> jinja2.Template:
    """A packaged page, escaping every value that is put into it."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("agent.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "percent": percent, "whole": whole, "moment": moment, "plural": plural}
    # The figures are our own SVG, escaped where it was made; everything else is escaped by the template.
    environment.globals |= {
        "number": number, "percent": percent, "score": score, "drawing": Markup, "version": __version__,
    }  # fmt: skip
    return environment.get_template(name)
