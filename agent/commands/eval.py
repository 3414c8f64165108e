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

from agent.commands.train import SCORE_COLUMNS, score_cells
from agent.console import progress, results, table, write_json
from agent.errors import ConfigError
from agent.evaluation import evaluate, evaluation_rng, make_matching_env
from agent.policies import env_spec_of, resolve_policy
from export.runner import PolicyRunner


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
    if args.episodes < 1:
        raise ConfigError(f"--episodes is {args.episodes} but must be 1 or more")
    runner = PolicyRunner(resolve_policy(args.target), variant=args.variant or None)
    contract = runner.contract
    spec = env_spec_of(contract, args.env, args.max_episode_steps)
    env = make_matching_env(spec, contract.layout_fingerprint, what=f"policy {contract.policy_id}")
    with progress() as bars:
        bar = bars.add("evaluate", args.episodes)
        score = evaluate(
            runner, env, episodes=args.episodes, rng=evaluation_rng(args.seed),
            on_episode=lambda done: bar(done, note=spec["id"]),
        )  # fmt: skip
    record = {"policy": contract.policy_id, "env": spec, **score.to_json()}
    if args.json:
        write_json(record)
    else:
        rows = [[contract.policy_id, *score_cells(record)]]
        results.print(table(f"{args.episodes} episodes of {spec['id']}", SCORE_COLUMNS, rows))
    return 0
