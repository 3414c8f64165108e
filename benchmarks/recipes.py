"""Fine-tuning recipes on the shared datasets: final score and area under the curve, seed by seed.

    python -m benchmarks.recipes --data ../shared/data [--datasets dapg-pen-mixed-v0 ...] [--recipes safe,default]
        [--seeds 0 1 2] [--pretrain-steps 20000] [--online-steps 20000] [--config FILE] [--runs-at-once 1]
        [--out runs/recipes] [--json FILE] [--picture FILE.svg] [--quick]

Each run is `slipway train --recipe R` on one dataset with one seed, collectors and learner at once; what is done is
kept, so the same command resumes. The score is D4RL's normalised return, or 100 times the success rate where success is
what the task counts. The area is the mean score over the online phase, by trapezoids from the pretrained policy's
score to the final one's. *Below* is the longest row of evaluations under J(π0) − 2·SE, which the guard bounds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agent.comparison.aggregates import standard_error
from agent.files import read_lines
from agent.guard import squared_error
from agent.run_directory import RunDirectory
from benchmarks.measure import ONE_THREAD, machine
from benchmarks.offline_scores import ingest

DATASETS = ["local-pointmaze-medium-v0", "dapg-pen-mixed-v0", "dapg-door-mixed-v0"]
COLOURS = {"safe": "#0072b2", "default": "#d55e00", "fast": "#009e73"}
POINTS = 10
"""Evaluations along the curve."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One run's evaluations."""

    dataset: str
    recipe: str
    seed: int
    steps: np.ndarray
    """Online steps [E], from 0 to the last."""
    scores: np.ndarray
    """[E], the first of the pretrained policy."""
    below: int
    """Longest row of evaluations whose mean return lies under J(π0) − 2·SE of the difference."""
    alarms: int
    """Times that the guard rolled back."""

    @property
    def area(self) -> float:
        """Mean score over the online phase."""
        return float(np.trapezoid(self.scores, self.steps) / self.steps[-1])


def run_path(args: argparse.Namespace, dataset: str, recipe: str, seed: int) -> Path:
    """The run's directory; its length is in the name, because a run keeps its configuration."""
    out: Path = args.out
    return out / f"{args.pretrain_steps}-{args.online_steps}" / dataset / recipe / f"seed-{seed}"


def train(args: argparse.Namespace, dataset: str, recipe: str, seed: int) -> None:
    """Train or go on with one run; SystemExit with its last words where it fails."""
    path = run_path(args, dataset, recipe, seed)
    for record in RunDirectory(path).evaluations():
        if record["label"] == "finetuned" and record["episodes"] != args.final_episodes:
            raise SystemExit(
                f"{path} was scored over {record['episodes']} episodes, not {args.final_episodes}: "
                f"give --final-episodes {record['episodes']} or another --out"
            )
        if record["label"] == "finetuned":
            return
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable, "-m", "agent.cli", "train", *([args.config] if args.config else []),
        "--replay", args.out / f"{dataset}.zarr", "--out", path, "--recipe", recipe, "--seed", seed,
        "--pretrain-steps", args.pretrain_steps, "--online-steps", args.online_steps,
        "--evaluation.every-steps", max(1, args.online_steps // POINTS), "--evaluation.episodes", args.episodes,
        "--evaluation.final-episodes", args.final_episodes,
        *(["--online.warmup-steps", 50] if args.quick else []),
    ]  # fmt: skip
    print(f"{dataset} {recipe} seed {seed}: started", flush=True)
    with path.with_suffix(".log").open("a") as log:
        code = subprocess.run(
            list(map(str, command)), env={**os.environ, **ONE_THREAD}, stdout=log, stderr=subprocess.STDOUT
        ).returncode
    if code != 0:
        raise SystemExit(f"{dataset} {recipe} seed {seed} ended with exit code {code}: see {path.with_suffix('.log')}")
    print(f"{dataset} {recipe} seed {seed}: {curve_of(args, dataset, recipe, seed).scores.round(1)}", flush=True)


def curve_of(args: argparse.Namespace, dataset: str, recipe: str, seed: int) -> Curve:
    """What a finished run's evaluations say."""
    run = RunDirectory(run_path(args, dataset, recipe, seed))
    records = sorted(run.evaluations(), key=lambda record: record["online_steps"])
    scores = [score_of(record) for record in records]
    alarms = sum(event["kind"] == "guard" for event in read_lines(run.events))
    return Curve(
        dataset=dataset, recipe=recipe, seed=seed, scores=np.array(scores), alarms=alarms,
        steps=np.array([record["online_steps"] for record in records]), below=longest_below(records),
    )  # fmt: skip


def score_of(record: dict[str, Any]) -> float:
    """D4RL's normalised score, or the mean return where there is none."""
    normalized = record["normalized"]
    return float(record["mean"] if normalized is None else normalized)


def longest_below(records: list[dict[str, Any]]) -> int:
    """Longest row of evaluations whose mean return lies below the first's by more than two errors of the difference."""
    first, longest, row = records[0], 0, 0
    for record in records[1:]:
        error = np.sqrt(squared_error(first) + squared_error(record))
        row = row + 1 if record["mean"] < first["mean"] - 2.0 * error else 0
        longest = max(longest, row)
    return longest


def report(curves: list[Curve], args: argparse.Namespace) -> list[dict[str, Any]]:
    """The table as Markdown; its rows."""
    rows: list[dict[str, Any]] = []
    seeds = ", ".join(map(str, args.seeds))
    print(f"\n{args.pretrain_steps:,} updates offline, {args.online_steps:,} steps online, seeds {seeds}\n")
    print("| dataset | recipe | pretrained | final, by seed | final | area | below | alarms |\n" + "|---" * 8 + "|")
    for dataset in args.datasets:
        for recipe in args.recipes:
            mine = [curve for curve in curves if (curve.dataset, curve.recipe) == (dataset, recipe)]
            final, area = np.array([c.scores[-1] for c in mine]), np.array([c.area for c in mine])
            first = np.array([c.scores[0] for c in mine])
            below, alarms = max(c.below for c in mine), sum(c.alarms for c in mine)
            seen = ", ".join(f"{value:.1f}" for value in final)
            print(
                f"| {dataset} | {recipe} | {spread(first)} | {seen} | {spread(final)} | {spread(area)} | {below} "
                f"| {alarms} |"
            )
            for name, values in (("pretrained", first), ("final", final), ("area", area)):
                ratio = float(values.mean() / first.mean()) if first.mean() else None
                row = {"name": f"{dataset}_{recipe}_{name}", "value": float(values.mean()), "unit": "score"}
                rows.append({**row, "against": "pretrained", "ratio": ratio, "runs": values.tolist()})
    return rows


def spread(values: np.ndarray) -> str:
    """Mean ± standard error over seeds."""
    return f"{values.mean():.1f} ± {standard_error(values):.1f}" if len(values) > 1 else f"{values.mean():.1f}"


def draw(curves: list[Curve], args: argparse.Namespace) -> None:
    """A panel a dataset: each seed a thin line, each recipe's mean a thick one."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(args.datasets), figsize=(4.2 * len(args.datasets), 3.4), squeeze=False)
    for axes, dataset in zip(panels[0], args.datasets, strict=True):
        for recipe in args.recipes:
            mine = [curve for curve in curves if (curve.dataset, curve.recipe) == (dataset, recipe)]
            grid = np.linspace(0, args.online_steps, 50)
            for curve in mine:
                axes.plot(curve.steps / 1000, curve.scores, color=COLOURS[recipe], linewidth=0.7, alpha=0.5)
            mean = np.mean([np.interp(grid, curve.steps, curve.scores) for curve in mine], axis=0)
            axes.plot(grid / 1000, mean, color=COLOURS[recipe], linewidth=2.2, label=recipe)
        axes.set_title(dataset, fontsize=10)
        axes.set_xlabel("online steps, thousand")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("score")
    panels[0][0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(args.picture)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("SLIPWAY_DATA", "../shared/data")))
    parser.add_argument("--datasets", nargs="+", default=DATASETS, help="names of archives")
    parser.add_argument("--recipes", type=lambda text: text.split(","), default=["safe", "default"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--pretrain-steps", type=int, default=20_000)
    parser.add_argument("--online-steps", type=int, default=20_000)
    parser.add_argument("--episodes", type=int, default=20, help="of each evaluation along the curve")
    parser.add_argument("--final-episodes", type=int, default=100)
    parser.add_argument("--config", type=Path, help="TOML with settings for all runs")
    parser.add_argument("--runs-at-once", type=int, default=1, help="each has a learner and a collector")
    parser.add_argument("--out", type=Path, default=Path("runs/recipes"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--quick", action="store_true", help="one dataset, one seed, 200 steps: a smoke run")
    args = parser.parse_args()
    if unknown := set(args.recipes) - set(COLOURS):
        parser.error(f"no recipe {sorted(unknown)[0]!r}: safe, default or fast")
    missing = [name for name in args.datasets if not (args.data / f"{name}.tar.gz").exists()]
    if missing:
        parser.error(f"no archive {missing[0]}.tar.gz in {args.data}: give --data")
    if args.quick:
        args.datasets, args.seeds, args.pretrain_steps, args.online_steps = args.datasets[:1], args.seeds[:1], 200, 200
        args.episodes = args.final_episodes = 2
    return args


def main() -> None:
    """Run every dataset, recipe and seed, print a table, optionally draw the curves and write the rows."""
    args = parse()
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.datasets:
        ingest(args.data / f"{name}.tar.gz", args.out)
    runs = [(d, r, s) for s in args.seeds for d in args.datasets for r in args.recipes]
    with ThreadPoolExecutor(args.runs_at_once) as pool:
        for done in [pool.submit(train, args, *run) for run in runs]:
            done.result()
    curves = [curve_of(args, *run) for run in runs]
    rows = report(curves, args)
    if args.picture:
        draw(curves, args)
    if args.json:
        args.json.write_text(json.dumps({"machine": machine(["torch"]), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
