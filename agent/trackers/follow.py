"""The tracker's process, `python -m agent.trackers.follow RUN PARENT`: from metrics.jsonl to the tracker.

The end of its standard input asks it to leave.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from agent.config import TrainConfig
from agent.config_files import flatten
from agent.files import Follower, write_atomic
from agent.process import run_child
from agent.run_directory import RunDirectory
from envs.errors import one_line

POLL_SECONDS = 1.0


class Tracker(Protocol):
    """One run of a tracker."""

    id: str
    """By which a resumed training finds it again."""

    def log(self, values: dict[str, float], step: int) -> None:
        """Scalars at `step` updates; steps may come out of order."""

    def close(self) -> None:
        """Finish the run."""


def follow(run: RunDirectory, config: TrainConfig, stopping: Callable[[], bool]) -> None:
    """Hand over every line of metrics.jsonl, each once over all starts of the training, until asked to stop."""
    memory = run.path / "tracker.json"
    saved = json.loads(memory.read_text()) if memory.exists() else {}
    known = saved if saved.get("tracker") == config.tracker else {}
    follower = Follower(run.metrics)
    follower.offset = int(known.get("offset", 0))
    tracker: Tracker = importlib.import_module(f"agent.trackers.{config.tracker}_tracker").open_run(
        name=run.path.resolve().name, folder=run.path.resolve(), config=flatten(config), known=known.get("id")
    )
    last, updates = False, int(known.get("updates", 0))
    while not last:
        # Once more after the request to stop: the last evaluation has been written by then.
        last = stopping()
        for line in follower.new():
            step = int(line.get("updates", updates))
            tracker.log(scalars(line), step)
            # A line about pace has none of its own: it was written at those of the learner's line before. An
            # evaluation's are those of the policy that it scored, which is an older one.
            updates = updates if line.get("kind") == "evaluation" else step
        record = {"tracker": config.tracker, "id": tracker.id, "offset": follower.offset, "updates": updates}
        write_atomic(memory, json.dumps(record).encode(), durable=False)
        if not last:
            time.sleep(POLL_SECONDS)
    tracker.close()


def input_ended() -> bool:
    """Whether nobody writes to standard input any more."""
    readable, _, _ = select.select([sys.stdin], [], [], 0.0)
    return bool(readable) and not os.read(sys.stdin.fileno(), 1)


def scalars(line: dict[str, Any]) -> dict[str, float]:
    """The numbers of a line of metrics.jsonl by `kind/name`; an evaluation's by its label too."""
    kind = str(line.get("kind"))
    prefix = f"{kind}/{line['label']}" if "label" in line else kind
    return {
        f"{prefix}/{name}": float(value)
        for name, value in line.items()
        if name not in ("time", "updates") and isinstance(value, int | float) and not isinstance(value, bool)
    }


def main(run_path: str, parent: str) -> int:
    """Entry point of the process."""
    run = RunDirectory(Path(run_path))
    config = run.load_config()

    def body() -> None:
        try:
            follow(run, config, input_ended)
        except Exception as error:
            # Whatever a tracker raises: the training goes on, and its user is told.
            run.event("tracker_failed", f"{config.tracker}: {one_line(error)}; the training goes on without it")
            raise

    return run_child(parent, body)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
