"""Optional experiment trackers (`--tracker wandb|trackio|mlflow`), off by default.

A process of its own, `python -m agent.trackers.follow RUN PARENT`, follows metrics.jsonl and hands each line on: no
process of the training waits for a tracker, and one that fails (no network, no disk) costs an event and nothing else.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator

from agent.errors import ConfigError
from agent.run_directory import RunDirectory

CLOSE_SECONDS = 6.0


@contextlib.contextmanager
def tracking(run: RunDirectory, tracker: str) -> Iterator[None]:
    """Hand the run's figures to `tracker` for as long as the block runs; nothing where it is "none".

    Raises ConfigError before the block where the tracker's package is missing.
    """
    if tracker == "none":
        yield
        return
    check_installed(tracker)
    with (run.logs / "tracker.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "agent.trackers.follow", str(run.path), str(os.getpid())],
            stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        yield
    finally:
        # The end of its input asks it to hand over the last lines and leave, even where it is only starting; one that
        # waits for a network must not keep a stopped training from leaving.
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def check_installed(tracker: str) -> None:
    """ConfigError, naming what to install, where the package of `tracker` is missing."""
    if importlib.util.find_spec(tracker) is None:
        raise ConfigError(f"--tracker {tracker} needs the package {tracker}: pip install {tracker}")
