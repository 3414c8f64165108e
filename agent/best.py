"""`checkpoints/BEST`: which checkpoint belongs to the best evaluation so far. Torch-free."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from agent.files import write_atomic
from agent.run_directory import RunDirectory

KEPT = ("mean", "label", "online_steps", "policy_version")


def read(run: RunDirectory) -> dict[str, Any]:
    """The record: `checkpoint`, its folder's name, and the evaluation's mean and origin; empty before the first."""
    return dict(json.loads(run.best.read_text())) if run.best.exists() else {}


def note(run: RunDirectory, record: Mapping[str, Any], checkpoint: str) -> bool:
    """Let BEST name `checkpoint` if evaluation `record` is better than all before; whether it was."""
    if record["mean"] <= read(run).get("mean", float("-inf")):
        return False
    write_atomic(run.best, json.dumps({"checkpoint": checkpoint, **{key: record[key] for key in KEPT}}).encode())
    return True
