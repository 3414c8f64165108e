"""An evaluation process: `python -m agent.evaluator RUN VERSION LABEL STEP EPISODES PARENT`.

It adds a line to metrics.jsonl, never blocks training, and scores the very file that collectors and devices run.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from agent.evaluation import evaluate, evaluation_rng
from agent.incidents import no_space
from agent.policies import scoring_spec
from agent.process import run_child
from agent.publish import policy_path
from agent.run_directory import RunDirectory, evaluation_name
from envs.make import make_env
from export.runner import PolicyRunner

RETRY_SECONDS = 0.5


def score_version(run: RunDirectory, version: int, label: str, step: int, episodes: int) -> None:
    """Score one published version under `label` and note it at online step `step`."""
    runner = PolicyRunner(policy_path(run.policies, version))
    spec = scoring_spec(json.loads(run.env.read_text()))
    env = make_env(spec["id"], kwargs=spec["kwargs"], max_episode_steps=spec["max_episode_steps"])
    started = time.monotonic()
    beat = run.logs / f"{evaluation_name(label, step)}.log"
    score = evaluate(
        runner, env, episodes=episodes, rng=evaluation_rng(run.load_config().seed),
        on_episode=lambda done: beat.touch(),
    )  # fmt: skip
    record_score(
        run, label=label, online_steps=step, policy_version=version, updates=runner.contract.step,
        seconds=round(time.monotonic() - started, 2), **score.to_json(),
    )  # fmt: skip


def record_score(run: RunDirectory, **values: Any) -> None:
    """Add the line; a full disk is waited for, since the episodes would have to be run again."""
    while True:
        try:
            run.metric("evaluation", **values)
            return
        except OSError as error:
            if not no_space(error):
                raise
        time.sleep(RETRY_SECONDS)


def main(run_path: str, version: str, label: str, step: str, episodes: str, parent: str) -> int:
    """Entry point of the process."""
    run = RunDirectory(Path(run_path))
    return run_child(parent, lambda: score_version(run, int(version), label, int(step), int(episodes)))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
