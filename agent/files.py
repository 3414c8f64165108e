"""Durable file operations of a run directory: a reader sees the old content or the new, never a part."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from pathlib import Path
from typing import Any

from replay.layout import fsync_directory


def write_atomic(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Replace `path` by `data` through a temporary file; `durable` also survives a power loss."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    if durable:
        fsync_directory(path.parent)


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Append one JSON line in a single write, so that several processes may share the file; OSError on a full disk."""
    line = (json.dumps(record, separators=(",", ":")) + "\n").encode()
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        end = os.lseek(descriptor, 0, os.SEEK_END)
        # A line that a power loss or a full disk cut short must not swallow this one.
        torn = end > 0 and os.pread(descriptor, 1, end - 1) != b"\n"
        data = b"\n" + line if torn else line
        if os.write(descriptor, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    finally:
        os.close(descriptor)


class Follower:
    """Hands out the JSON lines that were appended to a file since it was asked last; the file need not exist yet."""

    def __init__(self, path: Path, *, from_end: bool = False) -> None:
        self.path = path
        self.offset = path.stat().st_size if from_end and path.exists() else 0

    def new(self) -> list[dict[str, Any]]:
        """The complete lines since the last call; a line still being written comes with the next one."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self.offset += len(whole)
        return parse_lines(whole.decode(errors="replace"))


class LineFollower:
    """The complete JSON lines that have been appended to a file since the last look."""

    def __init__(self, path: Path) -> None:
        self._path, self._position = path, 0

    def read(self) -> list[dict[str, Any]]:
        """New records; a missing file has none, a line still being written comes with the next call."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._position)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._position += len(whole)
        records = []
        for line in whole.splitlines():
            with contextlib.suppress(ValueError):  # one that a full disk or a power loss cut short
                records.append(json.loads(line))
        return records


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All complete JSON lines of `path`; one that was cut short is left out. Missing file: empty list."""
    if not path.exists():
        return []
    return parse_lines(path.read_text())


def parse_lines(text: str) -> list[dict[str, Any]]:
    """The JSON objects in `text`, one a line; what is none is left out."""
    records = []
    for line in text.splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records
