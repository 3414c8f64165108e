"""Methods side by side on the same data: trains every algorithm with every seed, then scores and ranks them.

The same command again resumes: runs that are done are kept, so more seeds or algorithms may be added. Each run is an
ordinary run directory below --out. Setting hyper-parameters makes a variant, named as it is written.

Example:
  slipway compare --replay door.zarr --algorithms iql,td3_bc,bc --seeds 3 --steps 100000 --out runs/compare
  slipway compare --replay door.zarr --algorithms iql+expectile=0.5,iql+expectile=0.9 --out runs/expectiles
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from agent.algorithms import ALGORITHMS
from agent.comparison.page import write_page
from agent.comparison.plan import Run, Variant, make_plan, read_settings
from agent.comparison.results import Method, Task, gather
from agent.comparison.runs import Runner, has_runs, progress_of
from agent.console import messages, plural, progress, results, table, write_json
from agent.errors import ConfigError, RunError
from agent.files import check_place
from agent.kinds import what_is
from agent.process import StopSignal

REQUIRED = tyro.conf.arg(help_behavior_hint="(required)")

# What a --config file cannot say, as each run gets its own, and what says it instead.
SET_BY_FLAGS = {
    "algorithm": "each variant, e.g. --algorithms iql+expectile=0.9", "replay": "--replay", "out": "--out",
    "env": "--env", "seed": "--seeds", "pretrain_steps": "--steps", "online_steps": "--online-steps",
    "preset": "--env or the environment recorded with each store",
    "recipe": "the settings that it stands for, in the file itself", "evaluation.final_episodes": "--episodes",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Args:
    replay: Annotated[tuple[Path, ...], REQUIRED] = ()
    """Store or stores with the data; several make several tasks."""
    algorithms: str = "iql,bc"
    """Names, or variants such as iql+expectile=0.9+critics=1, with commas; the others are held against the first."""
    seeds: int = 3
    """Runs of each, with seeds 0, 1, 2, …"""
    steps: int = 100_000
    """Offline updates of each run; sac, rlpd and others that learn from their own experience only do none."""
    online_steps: int = 0
    """Online environment steps of each run after that, warm-up included."""
    episodes: int = 100
    """Episodes of each run's final evaluation."""
    env: str = ""
    """Environment to score in; empty takes the one recorded with each store."""
    config: Path | None = None
    """TOML file with further settings for every run, as for `slipway train` but for [algorithm] and what flags set."""
    cores: int = 0
    """Trainings at a time, one thread each; 0 takes the cores that this process may use."""
    out: Annotated[Path, REQUIRED] = Path()
    """Folder of the comparison; the same command again resumes it."""
    html: Path | None = None
    """Where the page goes, in a folder that exists; OUT/comparison.html by default."""
    json: bool = False
    """Print one JSON object instead of tables."""


def run(args: Args) -> int:
    """Train, sum up, print; 2 where a run has failed."""
    check(args)
    variants = Variant.parse_all(args.algorithms)
    plan = make_plan(
        args.replay, variants, seeds=args.seeds, out=args.out, env=args.env,
        settings=read_settings(
            args.config, SET_BY_FLAGS, steps=args.steps, online_steps=args.online_steps, episodes=args.episodes
        ),
        where=str(args.config) if args.config else "the flags",
    )  # fmt: skip
    try:
        runner = Runner(plan, out=args.out, cores=args.cores or len(os.sched_getaffinity(0)))
    except OSError as error:
        raise RunError(f"--out {args.out} cannot be made ({error.strerror}): choose another --out") from error
    finished = train_with_progress(runner, plan)
    tasks = gather(plan, failures=runner.failures, seconds=runner.seconds, rng=np.random.default_rng(0))
    record = {
        "finished": finished,
        "steps": args.steps,
        "online_steps": args.online_steps,
        "episodes": args.episodes,
        "seeds": args.seeds,
        "tasks": [task.to_json() for task in tasks],
        "failures": {str(path): words for path, words in runner.failures.items()},
    }
    page = write_page(tasks, record, args.html or args.out / "comparison.html")
    if args.json:
        write_json(record)
    else:
        for task in tasks:
            results.print(table(title(task, args), COLUMNS, [row(method) for method in task.methods]))
        results.print(NOTE)
        messages.print(f"page: {page}")
    if not finished:
        messages.print("stopped: everything is saved; the same command goes on from here")
    for path, words in runner.failures.items():
        messages.print(f"{path} failed: {words}")
    return 2 if runner.failures else 0


def check(args: Args) -> None:
    """ConfigError for what cannot work, before anything is made."""
    if not args.replay:
        raise ConfigError("--replay is missing: name the store to learn from, made by `slipway ingest`")
    if args.out == Path():
        raise ConfigError("--out is missing: name the folder of the comparison")
    for flag, value, least in (
        ("--seeds", args.seeds, 1),
        ("--cores", args.cores, 0),
        ("--episodes", args.episodes, 1),
        ("--steps", args.steps, 0),
        ("--online-steps", args.online_steps, 0),
    ):
        if value < least:
            raise ConfigError(f"{flag} is {value} but must be {least} or more")
    if args.env and len(args.replay) > 1:
        raise ConfigError("--env names one environment for several stores: leave it out, or compare one at a time")
    if args.out.exists() and not is_free_or_ours(args.out):
        raise RunError(f"{args.out} {what_is(args.out)}, not a comparison: choose another --out")
    if args.html is not None:
        check_page(args.html, args.out)


def is_free_or_ours(out: Path) -> bool:
    """Whether a comparison may begin or go on in `out`: nothing is there, or what one has left."""
    found = what_is(out)
    return found == "is an empty folder" or (found == "is a folder" and has_runs(out))


def check_page(page: Path, out: Path) -> None:
    """RunError where the page could not be written at the end of all training."""
    if page.is_dir() or page.parent.resolve() != out.resolve():  # which is made if need be
        check_place("--html", page)


def train_with_progress(runner: Runner, plan: list[Run]) -> bool:
    """Work through the plan with one bar for all and one for each run under way."""
    total = len(plan)
    with progress() as bars:
        overall = bars.add("runs", total)

        def tick(runner: Runner) -> None:
            ended = total - len(runner.waiting) - len(runner.jobs)
            notes = []
            for job in runner.jobs:
                offline, online = progress_of(job.run)
                goal = job.run.config.pretrain_steps + job.run.config.online_steps
                notes.append(f"{job.run.variant} seed {job.run.seed} {100 * (offline + online) / max(goal, 1):.0f}%")
            overall(ended, note=", ".join(notes))

        with StopSignal() as stopping:
            return runner.work(tick, stopping)


COLUMNS = ["method", "mean ± s.e.", "IQM", "95% interval", "better*", "runs", "min/run"]
NOTE = "* probability that a run scores higher than one of the first method; IQM: interquartile mean over runs"


def title(task: Task, args: Args) -> str:
    """Head of a table."""
    data = "" if task.data is None else f", data {number(task.data)}"
    online = f" + {args.online_steps:,} online steps" if args.online_steps else ""
    return (
        f"{task.name}: {task.unit}{data} ({plural(args.steps, 'update')}{online}, {plural(args.episodes, 'episode')})"
    )


def row(method: Method) -> list[str]:
    """One line of a table."""
    done = sum(score is not None for score in method.scores)
    return [
        method.label.replace("+", "\n+"),
        pair(method.mean, method.standard_error),
        number(method.iqm),
        interval_text(method.iqm_ci),
        "" if method.improvement is None else f"{method.improvement:.2f}",
        f"{done} of {len(method.scores)}",
        "" if method.seconds is None else f"{method.seconds / 60:.1f}",
    ]


def number(value: float | None) -> str:
    """One decimal for scores, four digits for what is small."""
    if value is None or math.isnan(value):
        return ""
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3g}"


def pair(mean: float | None, error: float | None) -> str:
    """mean ± standard error."""
    return number(mean) + (f" ± {number(error)}" if error is not None else "")


def interval_text(ci: tuple[float, float] | None) -> str:
    """low to high."""
    return "" if ci is None else f"{number(ci[0])} to {number(ci[1])}"


def parse(arguments: list[str]) -> Args:
    """The arguments; help names the algorithms that there are."""
    description = f"{__doc__}\nAlgorithms: {', '.join(ALGORITHMS)}."
    return tyro.cli(Args, args=arguments, prog="slipway compare", description=description)
