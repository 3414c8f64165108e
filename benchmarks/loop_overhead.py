"""What the learner's loop costs beside its updates: waiting for data, figures, checkpoints, at default settings.

    python -m benchmarks.loop_overhead [--updates 2000]

Trains on a made-up store of HalfCheetah's sizes (17 observations, 6 actions, 2×256, batch 256) with the real learner,
with batches drawn ahead by the sampler's thread and, for comparison, in the loop. `overhead` is the share of the loop's
time that is not spent in the update; `updates_per_second` tells whether the thread slows the update itself. One JSON
line a mode, interleaved three times.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agent import learner as learner_module
from agent.board import Board
from agent.config import TrainConfig
from agent.feeding import AHEAD
from agent.learner import Learner
from agent.run_directory import RunDirectory
from agent.setup_run import set_up
from replay.schema import StoreSpec
from replay.store import Store

OBSERVATIONS, ACTIONS, EPISODES, LENGTH = 17, 6, 50, 1000


def make_store(path: Path) -> None:
    """Random episodes of HalfCheetah's layout."""
    rng = np.random.default_rng(0)
    terms = [{"name": "observation", "offset": 0, "length": OBSERVATIONS, "dtype": "float32"}]
    env = {"id": "HalfCheetah-v5", "kwargs": {}, "max_episode_steps": None}
    store = Store.create(path, StoreSpec.from_terms(terms, [-1.0] * ACTIONS, [1.0] * ACTIONS, env=env))
    with store.writer("data", durability="process") as writer:
        for _ in range(EPISODES):
            writer.append_episode(
                rng.normal(size=(LENGTH + 1, OBSERVATIONS)), rng.uniform(-1, 1, (LENGTH, ACTIONS)),
                rng.normal(size=LENGTH), terminated=False, truncated=True, info=None,
            )  # fmt: skip


def measure(place: Path, name: str, ahead: int, updates: int) -> dict[str, Any]:
    """Train `updates` updates; seconds in the update, in all, and what the log says."""
    run = RunDirectory(place / name)
    config = TrainConfig(replay=place / "store", out=run.path, pretrain_steps=updates)
    set_up(run, config)
    learner_module.batches_ahead = lambda: ahead  # type: ignore[attr-defined]
    learner = Learner(run, config, Board(run.board), lambda: False)
    spent = 0.0
    update: Callable[..., Any] = learner.algorithm.update

    def timed(*arguments: Any) -> Any:
        nonlocal spent
        started = time.perf_counter()
        result = update(*arguments)
        spent += time.perf_counter() - started
        return result

    learner.algorithm.update = timed  # type: ignore[method-assign]
    learner.log.open()
    started = time.perf_counter()
    with learner.feeding(learner.batches.offline) as feed:
        while learner.algorithm.updates < updates:
            learner.after_offline_update(learner.algorithm.update(feed.next()))
        seconds = time.perf_counter() - started
        learner.save(wait=True)
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return {
        "ahead": ahead,
        "updates_per_second": round(updates / seconds, 1),
        "overhead": round(1 - spent / seconds, 4),
        "data_wait_fraction": round(float(np.mean([line["data_wait_fraction"] for line in lines])), 5),
        "checkpoint_block_ms": round(learner.blocked_ms, 2),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main() -> None:
    """Print a JSON line for each measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=2000)
    updates = parser.parse_args().updates
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        make_store(place / "store")
        for repeat in range(3):
            for ahead in (AHEAD, 0):
                print(json.dumps(measure(place, f"run-{ahead}-{repeat}", ahead, updates)), flush=True)


if __name__ == "__main__":
    main()
