"""Weights & Biases. Without an API key the run is kept in RUN/wandb, for `wandb sync`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import wandb


class WandbRun:
    """One run."""

    def __init__(self, run: Any) -> None:
        self._run = run
        self.id = str(run.id)
        # Evaluations come later than the updates that they score: each figure goes by its own number of updates.
        run.define_metric("updates")
        run.define_metric("*", step_metric="updates")

    def log(self, values: dict[str, float], step: int) -> None:
        """Scalars at `step` updates."""
        self._run.log({**values, "updates": step})

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


def open_run(*, name: str, folder: Path, config: dict[str, Any], known: str | None) -> WandbRun:
    """A new run called `name`, or the one whose id is `known`; WANDB_MODE and the other variables of wandb hold."""
    # login(prompt=False) looks for a key and tells whether there is one; it asks nobody and no server.
    mode = None if os.environ.get("WANDB_MODE") or wandb.login(prompt=False) else "offline"
    settings = wandb.Settings(silent=True, console="off", disable_git=True)
    run = wandb.init(
        project="slipway", name=name, dir=str(folder), config=config, id=known, resume="allow" if known else None,
        mode=mode, settings=settings,
    )  # fmt: skip
    return WandbRun(run)
