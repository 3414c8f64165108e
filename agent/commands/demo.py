"""The whole loop on an embedded task, start to end, in minutes on two cores and without a network.

A scripted expert logs a maze, badly on purpose. The log is ingested into a replay store, IQL pretrains from it, then
fine-tunes while collectors drive the maze; the actor is exported, verified against the trained network and flown by the
device's control loop, which records its flights into a store again. Ends with a table and a report.

Example:
  slipway demo --out runs/demo
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.console import results, table, write_json
from agent.demo import Demo, DemoSettings


@dataclass(frozen=True, kw_only=True)
class Args:
    out: Path = Path("runs/demo")
    """Folder for everything that the demo makes; the same command resumes it."""
    seed: int = 0
    """Seeds data, training and evaluation."""
    quick: bool = False
    """A minute-long smoke run of every stage, too short to learn much."""
    json: bool = False
    """Print one JSON object instead of the table."""


QUICK = DemoSettings(dataset_steps=3_000, pretrain_steps=500, online_steps=4_000, evaluation_episodes=20)

POLICIES = {
    "dataset": "logged data", "pretrained": "pretrained", "finetuned": "fine-tuned", "deployed": "deployed",
}  # fmt: skip


def run(args: Args) -> int:
    """Play the demo and show what came of it."""
    record = Demo(args.out, QUICK if args.quick else DemoSettings(), seed=args.seed).play()
    if args.json:
        write_json(record)
        return 0
    rows = [cells(words, record[name]) for name, words in POLICIES.items()]
    columns = ["policy", "mean return", "95% interval", "score", "episodes"]
    results.print(table("PointMaze_UMaze-v3: a return of 1 is a reached goal", columns, rows))
    stages = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in record["stages_s"].items())
    results.print(f"{record['wall_s']:.0f} s in all: {stages}")
    results.print(f"bundle: {record['bundle']}\nreport: {record['report']}")
    results.print("next: open the report in a browser, then docs/tutorials/first-policy.md")
    return 0


def cells(label: str, score: dict[str, Any]) -> list[str]:
    """One line of the table."""
    low, high = score["ci"]
    return [
        label,
        f"{score['mean']:.3f}",
        f"{low:.3f} to {high:.3f}",
        f"{score['normalized']:.1f}",
        str(score["episodes"]),
    ]
