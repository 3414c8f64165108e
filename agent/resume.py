"""Whether a saved state may go on here: same data layout, no row lost that it has seen, same libraries or a word."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from agent import checkpoint
from agent.checkpoint import Checkpoint
from agent.errors import CheckpointError, RunError
from agent.run_directory import RunDirectory
from replay.schema import StoreSpec
from replay.store import Store


def library_versions() -> dict[str, str]:
    """What a bit-exact resume depends on."""
    return {"torch": torch.__version__, "numpy": np.__version__}


def load_for(run: RunDirectory, spec: StoreSpec, replay: Path) -> Checkpoint | None:
    """The newest loadable checkpoint of `run`, None where there is none.

    Raises:
        CheckpointError: none of several loads, or it was trained on another layout than the store `replay` has.
        RunError: the online store has lost rows that it has seen.
    """

    def say(message: str) -> None:
        run.event("checkpoint_fallback", f"{message}; falling back to the one before")

    saved = checkpoint.load_latest(run.checkpoints, on_fallback=say)
    if saved is None:
        return None
    if saved.state["layout_fingerprint"] != spec.layout_fingerprint:
        raise CheckpointError(
            f"checkpoint {saved.name} of {run.path} was trained on another observation or action layout than "
            f"{replay} has: give the store that the run was started with"
        )
    check_watermark(run, saved.state["watermark"])
    differing = {
        name: f"{saved.state['versions'].get(name)} → {version}"
        for name, version in library_versions().items()
        if saved.state["versions"].get(name) != version
    }
    if differing:
        run.event("versions_differ", f"resumed under other libraries, so not bit-exactly: {differing}")
    return saved


def check_watermark(run: RunDirectory, watermark: dict[str, int]) -> None:
    """RunError if the online store ends before a row that the checkpoint has seen."""
    if not watermark:
        return
    if not run.replay.exists():
        raise RunError(f"{run.replay} is gone but checkpoints name its rows: restore it or start a new run")
    heads = Store.open(run.replay).reader().heads
    for stream, head in watermark.items():
        if int(heads.get(stream, 0)) < head:
            raise RunError(
                f"stream {stream} of {run.replay} ends at row {int(heads.get(stream, 0))}, before row {head} "
                "that the checkpoint has seen: restore the store that belongs to this run"
            )
