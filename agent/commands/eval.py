"""Score a policy: mean return, normalised score and success rate over episodes, with 95% intervals.

TARGET is a run (its newest policy), a bundle or a .onnx policy.

Example:
  slipway eval runs/door --episodes 100
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from agent.calls import evaluate
from agent.commands.train import SCORE_COLUMNS, score_cells
from agent.console import plural, progress, results, table, write_json


@dataclass(frozen=True, kw_only=True)
class Args:
    target: Annotated[Path, tyro.conf.Positional]
    """Run, bundle or .onnx policy."""
    env: str = ""
    """Gymnasium environment id; empty takes the one in the policy's contract."""
    max_episode_steps: int = 0
    """Time limit in steps; 0 takes the contract's."""
    episodes: int = 100
    """Episodes to run."""
    variant: str = ""
    """Variant of a bundle: float32, wfp16 or int8; empty is float32."""
    seed: int = 0
    """Seeds the episodes."""
    json: bool = False
    """Print one JSON object."""


def run(args: Args) -> int:
    """Evaluate and print."""
    with progress() as bars:
        bar = bars.add("evaluate", args.episodes)
        record = evaluate(
            args.target, env=args.env, episodes=args.episodes, seed=args.seed, variant=args.variant,
            max_episode_steps=args.max_episode_steps, on_episode=lambda done, env: bar(done, note=env),
        )  # fmt: skip
    if args.json:
        write_json(record)
    else:
        rows = [[record["policy"], *score_cells(record)]]
        results.print(table(f"{plural(args.episodes, 'episode')} of {record['env']['id']}", SCORE_COLUMNS, rows))
    return 0
