"""Atomic checkpoints: safetensors for tensors, JSON for the rest, nothing that executes code on load.

    RUN/checkpoints/000012000/  tensors.safetensors  state.json  manifest.json (sha256 of both)
    RUN/checkpoints/LATEST      name of the newest complete folder

Ordering: a folder is complete and durable under a temporary name before it is renamed, LATEST moves after the rename,
and older folders go only after LATEST moved. Whatever instant the process dies at, LATEST names a complete checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.errors import CheckpointError
from agent.files import write_atomic
from replay.layout import fsync_directory

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "slipway.checkpoint/1"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What one folder holds."""

    name: str
    """Folder name, the zero-padded total of updates."""
    tensors: dict[str, Tensor]
    """Networks, targets, optimiser moments, torch generator states, by name."""
    state: dict[str, Any]
    """Everything else, JSON-able."""


def save(
    folder: Path,
    step: int,
    tensors: dict[str, Tensor],
    state: dict[str, Any],
    *,
    keep: int,
    spare: frozenset[str] = frozenset(),
) -> Path:
    """Write checkpoint `step` below `folder` (RUN/checkpoints); drop all but the newest `keep` and those in `spare`."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob(".tmp-*"):
        shutil.rmtree(stale)
    final = folder / f"{step:09d}"
    if final.exists() and not is_loadable(final):
        shutil.rmtree(final)
    # A resume that stops at once finds the state after `step` updates on disk already.
    if not final.exists():
        _write(final, tensors, state)
    write_atomic(folder / "LATEST", final.name.encode())
    for old in complete(folder)[:-keep]:
        # Corrupt ones with a higher number must not push out what was just saved.
        if old != final and old.name not in spare:
            shutil.rmtree(old)
    return final


def _write(final: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    temporary = final.with_name(f".tmp-{final.name}-{os.getpid()}")
    temporary.mkdir()
    try:
        _fill(temporary, tensors, state)
        temporary.rename(final)
    except OSError:
        # What is half-written would only keep a full disk full.
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    fsync_directory(final.parent)


def _fill(temporary: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    # Here and in `load` only: the supervisor checks contents without torch.
    import safetensors.torch

    payloads = {
        "tensors.safetensors": safetensors.torch.save({k: v.contiguous() for k, v in tensors.items()}),
        "state.json": json.dumps(state, sort_keys=True).encode(),
    }
    manifest = {"format": FORMAT, "files": {name: hashlib.sha256(data).hexdigest() for name, data in payloads.items()}}
    for name, data in {**payloads, "manifest.json": json.dumps(manifest, sort_keys=True).encode()}.items():
        with (temporary / name).open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    fsync_directory(temporary)


def complete(folder: Path) -> list[Path]:
    """Checkpoint folders in order of age, oldest first."""
    return sorted(path for path in folder.glob("[0-9]*") if path.is_dir())


def is_loadable(path: Path) -> bool:
    """Whether `load` would succeed."""
    try:
        load(path)
    except CheckpointError:
        return False
    return True


def load_latest(folder: Path, *, on_fallback: Callable[[str], None]) -> Checkpoint | None:
    """The newest loadable checkpoint, None if none was ever saved.

    A corrupt newest one is passed over with a word to `on_fallback`; if every one is corrupt, CheckpointError.
    """
    candidates = complete(folder) if folder.exists() else []
    failures = []
    for path in reversed(candidates):
        try:
            return load(path)
        except CheckpointError as error:
            failures.append(str(error))
            on_fallback(str(error))
    if failures:
        raise CheckpointError(
            f"no checkpoint in {folder} can be loaded ({failures[0]}): "
            "restore the folder from a backup or start a new run with another --out"
        )
    return None


def read_contents(path: Path) -> dict[str, bytes]:
    """The files of one checkpoint folder, checked against its manifest; needs no torch.

    CheckpointError names the file that is missing or corrupt.
    """
    try:
        manifest = json.loads((path / "manifest.json").read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"checkpoint {path / 'manifest.json'} is missing or corrupt") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise CheckpointError(f"checkpoint {path} is not of the format {FORMAT}: use the Slipway that wrote it")
    contents = {}
    digests = manifest.get("files")
    if not isinstance(digests, dict) or set(digests) != {"tensors.safetensors", "state.json"}:
        raise CheckpointError(
            f"checkpoint {path / 'manifest.json'} is corrupt: it does not name the checkpoint's files"
        )
    for name, digest in digests.items():
        try:
            data = (path / name).read_bytes()
        except OSError as error:
            raise CheckpointError(f"checkpoint file {path / name} is missing") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise CheckpointError(f"checkpoint file {path / name} is corrupt (sha256 differs from its manifest)")
        contents[name] = data
    return contents


def load(path: Path) -> Checkpoint:
    """Read and verify one checkpoint folder; CheckpointError names the file that is missing or corrupt."""
    import safetensors
    import safetensors.torch

    contents = read_contents(path)
    try:
        tensors = safetensors.torch.load(contents["tensors.safetensors"])
        state = json.loads(contents["state.json"])
    except (safetensors.SafetensorError, ValueError) as error:
        raise CheckpointError(f"checkpoint {path} holds no tensors or no state in this format: {error}") from error
    return Checkpoint(name=path.name, tensors=tensors, state=state)
