"""An evaluation process: `python -m agent.evaluator RUN VERSION LABEL STEP EPISODES PARENT`.

It adds a line to metrics.jsonl, never blocks training, and scores the very file that collectors and devices run.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from agent.curves import Curves
from agent.errors import RenderingError
from agent.evaluation import evaluate, evaluation_rng
from agent.filming import as_gif, film
from agent.incidents import no_space
from agent.policies import scoring_spec
from agent.process import run_child, stand_back
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
    record = dict(
        label=label, online_steps=step, policy_version=version, updates=runner.contract.step,
        seconds=round(time.monotonic() - started, 2), **score.to_json(),
    )  # fmt: skip
    record_score(run, beat, **record)
    draw_curves(run, record, policy_path(run.policies, version))


def draw_curves(run: RunDirectory, record: dict[str, Any], policy: Path) -> None:
    """The evaluation as points on TensorBoard's curves, with a video where the run wants them; never an error."""
    names = ("mean", "normalized", "success", "length", "steps_to_goal")
    values = {name: float(record[name]) for name in names if record[name] is not None}
    config, updates = run.load_config(), record["updates"]
    with contextlib.suppress(OSError):  # a full disk has taken the line of figures: the curves can wait
        curves = Curves(run.tensorboard / "evaluation")
        curves.scalars("evaluation", values, updates)
        if config.evaluation.video:
            try:
                gif, size = as_gif(draw_video(run, record, policy, seed=config.seed))
                curves.pictures("evaluation/episode", gif, size, updates)
            except RenderingError as error:
                steps = f"{record['online_steps']:,}"
                run.event("video_failed", f"no video of evaluation {record['label']} at {steps} online steps: {error}")
        curves.close()


def draw_video(run: RunDirectory, record: dict[str, Any], policy: Path, *, seed: int) -> Path:
    """An episode of the scored policy; RenderingError where nothing can draw."""
    run.videos.mkdir(exist_ok=True)
    video = run.videos / f"{record['label']}-{record['online_steps']:09d}-v{record['policy_version']:06d}.mp4"
    film(policy, video, env=json.loads(run.env.read_text()), seed=seed)
    return video


def record_score(run: RunDirectory, beat: Path, **values: Any) -> None:
    """Add the line; a full disk is waited for, since the episodes would have to be run again. `beat` shows life."""
    while True:
        try:
            run.metric("evaluation", **values)
            return
        except OSError as error:
            if not no_space(error):
                raise
        beat.touch()
        time.sleep(RETRY_SECONDS)


def main(run_path: str, version: str, label: str, step: str, episodes: str, parent: str) -> int:
    """Entry point of the process."""
    stand_back()  # training must not wait for its scores
    run = RunDirectory(Path(run_path))
    return run_child(parent, lambda: score_version(run, int(version), label, int(step), int(episodes)))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
