"""What a path that does not fit is instead, for messages to someone who gave one of our folders for another."""

from __future__ import annotations

from pathlib import Path


def what_is(path: Path) -> str:
    """Something that exists, in words: which of Slipway's folders it is, or what else."""
    if path.is_file():
        return "is a file"
    if (path / "config.toml").exists():
        return "is a run directory"
    if (path / "manifest.json").exists():
        return "is a policy bundle"
    if (path / "zarr.json").exists():
        return "is a replay store"
    return "is a folder" if any(path.iterdir()) else "is an empty folder"
