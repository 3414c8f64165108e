"""The page: facts, figures and sentences put into the templates."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from agent import __version__
from agent.errors import RunError
from agent.files import write_atomic
from agent.report.facts import Facts, gather
from agent.report.tables import configuration, deployment_rows, entry, export_rows, interval_bars
from agent.report.words import lead, moment, number, percent, plural, score, summary, whole

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
    # Here, not above: they take longer to import than other verbs run.
    from agent.report.contents import version_figure
    from agent.report.diagnostics import calibration, diagnostic_panels
    from agent.report.latency import latency_histogram
    from agent.report.returns import learning_curve, return_histogram
    from agent.report.timeline import timeline
    from agent.report.training import training_panels

    shown = facts.incidents[-MOST_INCIDENTS:]
    return template("run.html.j2").render(
        facts=facts,
        algorithm=type(facts.config.algorithm).__name__.removesuffix("Config"),
        lead=lead(facts),
        summary=summary(facts),
        curve=learning_curve(facts),
        histogram=return_histogram(facts),
        panels=training_panels(facts),
        diagnostics=diagnostic_panels(facts),
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
