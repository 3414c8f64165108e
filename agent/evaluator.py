"""An evaluation process: `python -m agent.evaluator RUN VERSION LABEL STEP EPISODES PARENT`.

It adds a line to metrics.jsonl, never blocks training, and scores the very file that collectors and devices run.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from agent.errors import SLIPWAY_ERRORS
from agent.evaluate import evaluate, evaluation_rng
from agent.policies import scoring_spec
from agent.process import die_with_parent
from agent.publish import policy_path
from agent.run_directory import RunDirectory
from envs.make import make_env
from export.runner import PolicyRunner


def main(run_path: str, version: str, label: str, step: str, episodes: str, parent: str) -> int:
    """Entry point of the process; 0 when the line is written, 2 with a line on stderr for the user's input."""
    die_with_parent(int(parent))
    run = RunDirectory(Path(run_path))
    try:
        runner = PolicyRunner(policy_path(run.policies, int(version)))
        spec = scoring_spec(json.loads(run.env.read_text()))
        env = make_env(spec["id"], kwargs=spec["kwargs"], max_episode_steps=spec["max_episode_steps"])
        started = time.monotonic()
        score = evaluate(runner, env, episodes=int(episodes), rng=evaluation_rng(run.load_config().seed))
    except SLIPWAY_ERRORS as error:
        sys.stderr.write(f"{error}\n")
        return 2
    run.metric(
        "evaluation", label=label, online_steps=int(step), policy_version=int(version),
        updates=runner.contract.step, seconds=round(time.monotonic() - started, 2), **score.to_json(),
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
