"""Fingerprints of sources: what tells that the same data is ingested again.

A file below 1 GiB is hashed whole (sha256). A larger one is hashed by its size, its first and last 64 MiB and 256
blocks of 1 MiB spread evenly between, so that a 20 GB file costs about a second; a change that keeps the size and
touches none of these goes unnoticed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

WHOLE_BELOW = 1 << 30
EDGE = 64 << 20
SAMPLE = 1 << 20
SAMPLES = 256


def file_digest(path: Path) -> str:
    """sha256 hex digest of one file; sampled for files of 1 GiB and more."""
    digest = hashlib.sha256()
    size = path.stat().st_size
    digest.update(f"{size}:".encode())
    with path.open("rb") as file:
        if size < WHOLE_BELOW:
            _update(digest, file, size)
            return digest.hexdigest()
        _update(digest, file, EDGE)
        for index in range(SAMPLES):
            file.seek(EDGE + (size - 2 * EDGE) * index // SAMPLES)
            _update(digest, file, SAMPLE)
        file.seek(size - EDGE)
        _update(digest, file, EDGE)
    return digest.hexdigest()


def _update(digest: Any, file: Any, length: int) -> None:
    while length > 0 and (block := file.read(min(length, 1 << 20))):
        digest.update(block)
        length -= len(block)


def folder_digest(root: Path, files: Iterable[Path]) -> str:
    """sha256 hex digest over the names (relative to `root`) and contents of some files of a folder."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path.relative_to(root).as_posix()}={file_digest(path)}\n".encode())
    return digest.hexdigest()
