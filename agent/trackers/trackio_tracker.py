"""Trackio: kept on this machine, shown by `trackio show`; TRACKIO_DIR names the folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import trackio


class TrackioRun:
    """One run."""

    def __init__(self, run: Any, name: str) -> None:
        self._run, self.id = run, name

    def log(self, values: dict[str, float], step: int) -> None:
        """Scalars at `step` updates."""
        self._run.log(values, step=step)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


def open_run(*, name: str, folder: Path, config: dict[str, Any], known: str | None) -> TrackioRun:
    """A run called `name`; `known` continues the one of that name."""
    run = trackio.init(
        project="slipway", name=known or name, config=config, resume="allow" if known else "never", embed=False,
        auto_log_gpu=False,
    )  # fmt: skip
    return TrackioRun(run, str(run.name))
