"""IQL's ablations on real data: expectile, single critic, quantile critics, Q without V, D2RL, anti-exploration bonus.

    python -m benchmarks.ablations [--only values critics lucky quantiles rank depth bonus chain] [--seeds 3]
        [--data ../shared/data] [--datasets ...] [--updates N] [--out runs/ablations] [--figures docs/figures]
        [--json FILE]

Each question trains its variants on its datasets as `slipway compare` does; what is done is kept, so the same command
resumes, and questions with the same setting share runs. Read from each run are its training lines, diagnostics and
final evaluation. Every question prints a table and draws a picture; every run is in both. `chain` trains nothing on
data: it is a hand-made chain where luck and merit are known exactly (benchmarks/lucky_chain.py).
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agent.commands.compare import train_with_progress
from agent.comparison.plan import Run, Variant, make_plan
from agent.comparison.results import score_of, unit_of
from agent.comparison.runs import Runner
from benchmarks import lucky_chain
from benchmarks.ablation_figures import Column, Curves, chain_picture, picture, read_curves
from benchmarks.measure import machine
from benchmarks.offline_scores import ingest

DOOR, PEN, HOPPER = "dapg-door-human-v0", "dapg-pen-mixed-v0", "sac-hopper-medium-replay-v0"

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    # Targets follow four times as fast as published: what lies 100 steps ahead (γ 0.99) is then known after thousands
    # of updates, not tens of thousands.
    "small": {"hidden": [128, 128], "batch_size": 128, "target_rate": 0.02},
    # Three times the published step size besides: values that overshoot do so within the runs.
    "fast": {"hidden": [128, 128], "batch_size": 128, "target_rate": 0.02, "learning_rate": 1e-3},
    # Layers as wide as published, for figures that are out of 256.
    "wide": {"hidden": [256, 256], "batch_size": 128},
    "deep": {"hidden": [256, 256, 256, 256], "batch_size": 128},
}
"""Hyper-parameters of all variants of a question, over the task's preset."""

Q = Column(key="q_mean", title="Q of the data's actions, mean")
Q_MAX = Column(key="q_max", title="Q, largest of a batch")
V = Column(key="v_mean", title="V, mean")
ADVANTAGE = Column(key="advantage_mean", title="advantage, mean")
SPREAD = Column(key="advantage_std", title="advantage, deviation")
CLIPPED = Column(key="weight_clipped_share", title="weights at the clip, share")
BIAS = Column(key="bias", title="Q minus the return that followed", level=0.0)
GRADIENT = Column(key="grad_norm_critic", title="critics' gradient norm", logarithmic=True)
Q_POLICY = Column(key="q_policy_mean", title="Q of the policy's actions")
SRANK_ACTOR = Column(key="srank_actor", title="effective rank, actor")
SRANK_CRITIC = Column(key="srank_critic", title="effective rank, critic")
DEAD_CRITIC = Column(key="dead_units_critic", title="dead units, critic")


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is trained for one claim, and what is looked at."""

    asks: str
    """The claim in one line."""
    variants: tuple[str, ...]
    """As for `slipway compare`; a change against the first."""
    datasets: tuple[str, ...]
    """Names of archives."""
    columns: tuple[Column, ...]
    """What the table and the picture show, beside the score."""
    updates: int = 6_000
    """Of each run."""
    setting: str = "small"
    """Of `SETTINGS`."""


QUESTIONS = {
    "values": Question(
        asks="τ 0.5, 0.7 and 0.9, and one critic in place of two: what becomes of Q, V and the advantage?",
        variants=("iql", "iql+expectile=0.5", "iql+expectile=0.9", "iql+critics=1"),
        datasets=(DOOR, PEN, HOPPER),
        columns=(Q, V, ADVANTAGE, SPREAD, CLIPPED, BIAS),
    ),
    "critics": Question(
        asks="Where does a single critic overestimate, and does it diverge?",
        variants=("iql+expectile=0.9", "iql+expectile=0.9+critics=1"),
        datasets=(DOOR,),
        columns=(Q, Q_MAX, BIAS, V, SPREAD, GRADIENT),
        updates=15_000,
        setting="fast",
    ),
    "lucky": Question(
        asks="Does Q alone, without V, take luck for merit on data too?",
        variants=("iql+expectile=0.9", "iql+expectile=0.9+value=none"),
        datasets=(DOOR,),
        columns=(Q, Q_MAX, BIAS),
        updates=15_000,
        setting="fast",
    ),
    "quantiles": Question(
        asks="Are quantile critics steadier than scalar ones?",
        variants=(
            "iql+expectile=0.9", "iql+expectile=0.9+critic=quantile",
            "iql+expectile=0.9+critic=quantile+quantile_loss=squared",
        ),
        datasets=(DOOR,),
        columns=(Q, Q_MAX, BIAS, SPREAD, GRADIENT, SRANK_CRITIC),
        setting="fast",
    ),
    "rank": Question(
        asks="Is the effective rank of D2RL's features above that of plain layers?",
        variants=("iql", "iql+trunk=d2rl"),
        datasets=(DOOR,),
        columns=(SRANK_ACTOR, SRANK_CRITIC, DEAD_CRITIC),
        updates=2_000,
        setting="wide",
    ),
    "depth": Question(
        asks="The same with four hidden layers, where plain ones lose rank",
        variants=("iql", "iql+trunk=d2rl"),
        datasets=(DOOR,),
        columns=(SRANK_ACTOR, SRANK_CRITIC, DEAD_CRITIC),
        updates=2_000,
        setting="deep",
    ),
    "bonus": Question(
        asks="Does the anti-exploration bonus hold a policy that follows Q near the data?",
        variants=tuple(f"iql+policy=ddpg_bc+bc_weight=0.1{bonus}" for bonus in (
            "", "+anti_exploration=rnd+anti_exploration_scale=1.0", "+anti_exploration=cvae+anti_exploration_scale=1.0",
        )),
        datasets=(DOOR,),
        columns=(Q, Q_POLICY, BIAS),
        updates=4_000,
    ),
}  # fmt: skip


def main() -> None:
    """Train, sum up, draw."""
    args = parse()
    args.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for name in args.only:
        if name == "chain":
            rows += hand_made_chain(args)
            continue
        question = QUESTIONS[name]
        plan = plan_of(question, args)
        runner = Runner(plan, out=folder_of(question, args), cores=args.cores)
        finished = train_with_progress(runner, plan)
        curves = {run.config.out: read_curves(run.config.out) for run in plan}
        rows += report(name, question, plan, curves, failures=runner.failures)
        for task in dict.fromkeys(run.task for run in plan):
            drawn = [run for run in plan if run.task == task and curves[run.config.out].lines]
            if drawn:
                picture(args.figures / f"{name}-{short(task)}.svg", question.asks, question.columns, drawn, curves)
        if not finished:
            raise SystemExit("stopped: everything is saved; the same command goes on from here")
    if args.json:
        args.json.write_text(json.dumps({"machine": machine(["torch"]), "rows": rows}, indent=1) + "\n")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("SLIPWAY_DATA", "../shared/data")))
    parser.add_argument("--only", nargs="+", choices=[*QUESTIONS, "chain"], default=[*QUESTIONS, "chain"])
    parser.add_argument("--datasets", nargs="+", help="names of archives in place of each question's own")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=0, help="of each run; each question's own by default")
    parser.add_argument("--episodes", type=int, default=10, help="of each run's final evaluation")
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, default=Path("runs/ablations"))
    parser.add_argument(
        "--figures", type=Path, help="folder of the pictures; docs/figures, or with --quick below --out"
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="one seed, 100 updates, 2 episodes: a smoke run")
    args = parser.parse_args()
    if args.quick:
        args.seeds, args.updates, args.episodes = 1, 100, 2
    args.figures = args.figures or (args.out / "figures" if args.quick else Path("docs/figures"))
    return args


def folder_of(question: Question, args: argparse.Namespace) -> Path:
    """Where runs of this setting are, those of other questions with the same setting among them."""
    return Path(args.out) / f"{question.setting}-{args.updates or question.updates}"


def plan_of(question: Question, args: argparse.Namespace) -> list[Run]:
    """Every variant on every dataset with every seed."""
    names = args.datasets or question.datasets
    stores = [ingest(args.data / f"{name}.tar.gz", args.out) for name in names]
    updates = args.updates or question.updates
    settings = {
        "pretrain_steps": updates,
        # Eager, so that the same seed gives the same run whatever else the machine does at the time.
        "executor": "eager",
        "log_every": max(1, updates // 120),
        "diagnostics_every": max(1, updates // 12),
        "checkpoint": {"every_updates": 1_000},
        "evaluation": {"final_episodes": args.episodes},
        "algorithm": dict(SETTINGS[question.setting]),
    }
    variants = [Variant.parse(text) for text in question.variants]
    return make_plan(stores, variants, seeds=args.seeds, out=folder_of(question, args), settings=settings)


def report(
    name: str, question: Question, plan: list[Run], curves: Mapping[Path, Curves], *, failures: Mapping[Path, str]
) -> list[dict[str, Any]]:
    """The question's table as Markdown: mean over seeds (lowest to highest); the rows with every seed's figure."""
    updates = plan[0].config.pretrain_steps
    seeds = 1 + max(run.seed for run in plan)
    print(f"\n## {name}: {question.asks}\n\n{updates:,} updates, seeds 0 to {seeds - 1}\n")
    print("| dataset | variant | score | " + " | ".join(column.title for column in question.columns) + " |")
    print("|---|---|---|" + "---|" * len(question.columns))
    made = []
    for task in dict.fromkeys(run.task for run in plan):
        for variant in question.variants:
            runs = [run for run in plan if (run.task, run.variant) == (task, variant)]
            figures = {"score": [score_of(run, unit_of(run)) for run in runs]}
            figures |= {c.key: [curves[run.config.out].at_the_end(c.key) for run in runs] for c in question.columns}
            print(f"| {short(task)} | `{variant}` | " + " | ".join(span(values) for values in figures.values()) + " |")
            for run in runs:
                if run.config.out in failures:
                    print(f"\nseed {run.seed} of `{variant}` failed: {failures[run.config.out]}\n")
            made += [
                {"name": f"{name}_{task}_{variant}_{key}", "value": mean_of(values), "unit": key,
                 "runs": [plain(value) for value in values], "updates": updates}
                for key, values in figures.items()
            ]  # fmt: skip
    return made


def short(task: str) -> str:
    """door-human of dapg-door-human-v0."""
    return task.split("-", 1)[-1].rsplit("-", 1)[0]


def plain(value: float) -> float | None:
    """For JSON, which knows no NaN: what a run that failed has not told is null."""
    return value if np.isfinite(value) else None


def mean_of(values: list[float]) -> float | None:
    """Over the seeds that have a value, None without any."""
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else None


def span(values: list[float]) -> str:
    """Mean (lowest to highest) of the seeds that have a value."""
    known = [value for value in values if np.isfinite(value)]
    if not known:
        return ""
    missing = len(values) - len(known)
    ends = f" ({min(known):.3g} to {max(known):.3g})" if len(known) > 1 else ""
    return f"{np.mean(known):.3g}{ends}" + (f", {missing} without" if missing else "")


def hand_made_chain(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Learnt against exact values where a lucky action is known to be the worse one."""
    updates = args.updates or lucky_chain.UPDATES
    torch.set_num_threads(1)  # a second thread has nothing to do in networks of this size
    found = lucky_chain.study(seeds=args.seeds, updates=updates)
    print(f"\n## chain: {lucky_chain.ASKS}\n\n{updates:,} updates, seeds 0 to {args.seeds - 1}\n")
    print(
        "| τ | learner | Q(gamble) − Q(safe) at the start, exact | learnt | V at the start, exact | learnt | chooses |"
    )
    print("|---|---|---|---|---|---|---|")
    for row in found:
        print(
            f"| {row.expectile} | {row.learner} | {row.exact_preference:.2f} | {span(row.preferences)} | "
            f"{row.exact_value:.2f} | {span(row.values)} | {', '.join(row.chosen)} |"
        )
    chain_picture(args.figures / "chain.svg", found)
    return [
        {"name": f"chain_{row.learner}_{row.expectile}", "value": float(np.mean(row.preferences)), "unit": "preference",
         "against": "exact", "peer": row.exact_preference, "runs": row.preferences, "updates": updates}
        for row in found
    ]  # fmt: skip


if __name__ == "__main__":
    main()
