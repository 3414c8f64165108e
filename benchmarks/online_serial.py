"""The serial side of online_speed: `python -m benchmarks.online_serial RUN`, where RUN is set up as `train` sets it up.

Serves the two halves of a serial loop with the same learner, collector code and store: `env` is one environment step
(act, step, append), `update` one update whose batch is drawn in the loop, `update ahead` one whose batch the sampler's
thread drew. Taking turns of many calls each, these halves *are* the fastest serial loop: it pays no switch between them
and publishes nothing. `publish` is one publication.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

from agent.board import Board
from agent.feeding import AHEAD, Feed
from agent.learner import Learner
from agent.process import keep_freed_memory
from agent.publish import policy_path
from agent.run_directory import RunDirectory
from benchmarks.serving import serve
from envs.make import make_env
from export.runner import PolicyRunner
from replay.store import Store

FIRST_STEPS = 500


def main(path: Path) -> None:
    """Set up from RUN's configuration, collect a little, serve."""
    run = RunDirectory(path)
    config = run.load_config()
    torch.set_num_threads(config.threads or 1)
    keep_freed_memory()
    learner = Learner(run, config, Board(run.board), lambda: False)
    learner.execution.choose(to_come=10**6)
    publication = learner.start_publishing()
    runner = PolicyRunner(policy_path(run.policies, publication.version))
    spec = json.loads(run.env.read_text())
    env = make_env(spec["id"], kwargs=spec["kwargs"], max_episode_steps=spec["max_episode_steps"])
    rng = np.random.default_rng(0)
    store = Store.open(run.replay)
    columns = store.spec.info
    with store.writer("serial", durability=config.online.durability) as writer:
        observation: np.ndarray | None = None
        first = True

        def step() -> None:
            nonlocal observation, first
            if observation is None:
                observation, _ = env.reset(seed=int(rng.integers(2**31)))
                runner.reset()
                first = True
            action = runner.act(observation, rng.standard_normal(runner.action_size, dtype=np.float32))
            following, reward, terminated, truncated, info = env.step(action)
            writer.append(
                observation, np.clip(action, env.action_low, env.action_high), reward,
                terminated=terminated, truncated=truncated, next_observation=following, first=first, policy_version=1,
                info={name: float(info.get(name, 0.0)) for name in columns},
            )  # fmt: skip
            first = terminated or truncated
            observation = None if first else following

        for _ in range(FIRST_STEPS):
            step()
        batches = learner.batches
        inline = Feed(batches.mix(), learner.prepare, ahead=0, follow=batches.online_reader.refresh)
        ahead = Feed(batches.mix(), learner.prepare, ahead=AHEAD, follow=batches.online_reader.refresh)
        with inline, ahead:
            algorithm = learner.algorithm
            serve(
                {
                    "env": step,
                    "update": lambda: algorithm.update(inline.next()),
                    "update ahead": lambda: algorithm.update(ahead.next()),
                    "publish": publication.publish,
                },
                executor=learner.execution.name,
            )  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]))
