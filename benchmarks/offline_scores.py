"""Offline methods on the shared datasets over seeds, beside the data's own score and, if asked, d3rlpy's methods.

    python -m benchmarks.offline_scores --data ../shared/data [--datasets dapg-door-expert-v0 ...]
        [--algorithms iql,bc] [--seeds 3] [--steps 100000] [--d3rlpy] [--config FILE] [--out runs/offline] [--json FILE]

Every dataset is extracted and ingested below --out and trained as `slipway compare` does, with its task's preset; what
is done is kept, so the same command resumes. Every run is reported. d3rlpy's IQL and TD3+BC train on the same arrays
(normalised observations, scaled rewards and actions), with the same hyper-parameters and updates, in an environment of
their own, and are scored by the same episodes, after ours are reported. FILE is as for `slipway compare`, but that it
may have an [algorithm] with hyper-parameters for all variants.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from agent.cli import main as slipway
from agent.commands.compare import SET_BY_FLAGS, interval_text, number, pair, train_with_progress
from agent.comparison.aggregates import standard_error
from agent.comparison.plan import Run, Variant, make_plan, read_settings
from agent.comparison.results import Task, gather
from agent.comparison.runs import Runner
from agent.errors import ConfigError
from benchmarks.measure import machine
from benchmarks.offline_peer import HYPER_PARAMETERS, d3rlpy_scores

INGEST_FLAGS = {"dapg-door-human-v0": ["--max-episode-steps", "200"]}
"""What the README of the data says of a dataset: its recording allows 300 steps, its task is scored with 200."""

# As for `slipway compare`, but that the file may have hyper-parameters for all variants, whose names are the flag's.
SET_ELSEWHERE = {name: instead for name, instead in SET_BY_FLAGS.items() if name != "algorithm"} | {
    "algorithm.name": "--algorithms", "replay": "--datasets", "preset": "the environment recorded with each dataset",
    "env": "`slipway compare`", "online_steps": "`slipway compare`",
}  # fmt: skip


def ingest(archive: Path, out: Path) -> Path:
    """Extract one archive and ingest it, both once."""
    name = archive.name.removesuffix(".tar.gz")
    store = out / f"{name}.zarr"
    if not store.exists():
        with tarfile.open(archive) as tar:
            tar.extractall(out / "minari", filter="data")
            folder = next(name for name in tar.getnames() if name.endswith("/data/main_data.hdf5"))
        source = str(out / "minari" / Path(folder).parent.parent)
        if slipway(["ingest", source, *INGEST_FLAGS.get(name, []), "--out", str(store)]) != 0:
            raise SystemExit(2)
    return store


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("SLIPWAY_DATA", "../shared/data")))
    parser.add_argument("--datasets", nargs="+", help="names of archives; all of them by default")
    parser.add_argument("--algorithms", default="iql,bc", help="as for `slipway compare`")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument(
        "--d3rlpy", action="store_true", help="train d3rlpy's IQL and TD3+BC as well, where ours are trained"
    )
    parser.add_argument("--config", type=Path, help="TOML with settings for all of our runs")
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, default=Path("runs/offline"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="one dataset, one seed, 200 updates: a smoke run")
    args = parser.parse_args()
    args.datasets = args.datasets or sorted(path.name.removesuffix(".tar.gz") for path in args.data.glob("*.tar.gz"))
    if not args.datasets:
        parser.error(f"no dataset (*.tar.gz) in {args.data}: give --data")
    if args.quick:
        args.datasets, args.seeds, args.steps, args.episodes = args.datasets[:1], 1, 200, 5
    return args


def main() -> None:
    """Train every dataset, method and seed, print a table, optionally write the results; then d3rlpy likewise."""
    args = parse()
    try:
        settings = read_settings(args.config, SET_ELSEWHERE, steps=args.steps, online_steps=0, episodes=args.episodes)
        variants = Variant.parse_all(args.algorithms)
        args.out.mkdir(parents=True, exist_ok=True)
        stores = [ingest(args.data / f"{name}.tar.gz", args.out) for name in args.datasets]
        where = str(args.config) if args.config else "the flags"
        folder = args.out / str(args.steps)
        plan = make_plan(stores, variants, seeds=args.seeds, out=folder, settings=settings, where=where)
    except ConfigError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from error
    runner = Runner(plan, out=folder, cores=args.cores)
    finished = train_with_progress(runner, plan)
    tasks = gather(plan, failures=runner.failures, seconds=runner.seconds, rng=np.random.default_rng(0))
    rows = report(tasks, args)
    for path, words in runner.failures.items():
        print(f"{path} failed: {words}", file=sys.stderr)
    if not finished:
        raise SystemExit("stopped: everything is saved; the same command goes on from here")
    write(rows, args)
    for task in tasks if args.d3rlpy else []:
        for method in HYPER_PARAMETERS:
            if runs := runs_of(method, plan, task.name):
                rows.append(report_peer(method, task, runs, args))
                write(rows, args)


def runs_of(method: str, plan: list[Run], task: str) -> list[Run]:
    """A plain method's runs on a task, whose data, hyper-parameters and episodes the peer takes over."""
    return [run for run in plan if run.task == task and run.variant == method]


def report(tasks: list[Task], args: argparse.Namespace) -> list[dict[str, Any]]:
    """The table as Markdown, and its rows."""
    print(f"{args.steps:,} updates, {args.episodes} episodes, seeds 0 to {args.seeds - 1}\n")
    print(
        "| dataset | data | method | runs | mean ± s.e. | interquartile mean, 95% interval |\n|---|---|---|---|---|---|"
    )
    return [
        line(
            task, m.label, m.scores, pair(m.mean, m.standard_error),
            number(m.iqm) + (f" ({interval_text(m.iqm_ci)})" if m.iqm_ci else ""), args,
        )
        for task in tasks for m in task.methods
    ]  # fmt: skip


def report_peer(method: str, task: Task, runs: list[Run], args: argparse.Namespace) -> dict[str, Any]:
    """The table's line of d3rlpy's `method`, which is trained first where it has not been, and its row."""
    scores = d3rlpy_scores(runs)
    finished = np.array([score for score in scores if score is not None])
    error = standard_error(finished) if len(finished) > 1 else None
    return line(
        task, f"d3rlpy {method}", scores, pair(float(finished.mean()), error) if len(finished) else "", "", args
    )


def line(
    task: Task, label: str, scores: list[float | None], mean: str, iqm: str, args: argparse.Namespace
) -> dict[str, Any]:
    """Print one line of the table; its row."""
    runs = ", ".join("not finished" if score is None else f"{score:.1f}" for score in scores)
    print(f"| {task.name} | {number(task.data)} | {label} | {runs} | {mean} | {iqm} |", flush=True)
    kept = [score for score in scores if score is not None]
    value = float(np.mean(kept)) if kept else None
    ratio = value / task.data if value is not None and task.data else None
    row = {"name": f"{task.name}_{label}", "value": value, "unit": task.unit, "against": "data", "ratio": ratio}
    return {**row, "runs": scores, "steps": args.steps}


def write(rows: list[dict[str, Any]], args: argparse.Namespace) -> None:
    """To --json, where asked."""
    if args.json:
        args.json.write_text(json.dumps({"machine": machine(["torch"]), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
