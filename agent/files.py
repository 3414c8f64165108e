"""Durable file operations of a run directory: a reader sees the old content or the new, never a part."""

from __future__ import annotations

import ctypes
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.errors import RunError
from replay.layout import fsync_directory

PAGE_BYTES = 4096
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h


def check_place(flag: str, file: Path) -> None:
    """RunError where no `file`, which `flag` names, could be written, before the work that is to fill it."""
    if file.is_dir():
        raise RunError(f"{flag} {file} is a folder: name a file")
    if not file.parent.is_dir():
        raise RunError(f"{flag} {file}: there is no folder {file.parent}: make it, or choose another {flag}")
    if not os.access(file.parent, os.W_OK):
        raise RunError(f"{flag} {file}: the folder {file.parent} cannot be written: choose another {flag}")


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


class SwappedFile:
    """A small file that is replaced often, also on a full disk: its two copies keep their blocks and swap names.

    A reader sees the old content or the new, padded with spaces to whole pages. The first two writes need space.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._spare = path, path.with_name(f".{path.name}.spare")
        self._libc = ctypes.CDLL(None, use_errno=True)

    def write(self, data: bytes) -> None:
        """Replace the content; OSError where there is no space for it."""
        padded = data + b" " * (-len(data) % PAGE_BYTES)
        descriptor = os.open(self._spare, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if os.write(descriptor, padded) < len(padded):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._spare))
            if os.fstat(descriptor).st_size > len(padded):
                os.ftruncate(descriptor, len(padded))
        finally:
            os.close(descriptor)
        here = ctypes.c_int(AT_FDCWD)
        names = os.fsencode(self._spare), os.fsencode(self._path)
        if self._libc.renameat2(here, names[0], here, names[1], ctypes.c_uint(RENAME_EXCHANGE)) != 0:
            self._spare.replace(self._path)  # the first time, or a file system that cannot swap


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

    def new(self, kind: str = "") -> list[dict[str, Any]]:
        """The complete lines since the last call, of one `kind` if given; one still being written comes later."""
        return list(self.each(kind))

    def each(self, kind: str = "") -> Iterator[dict[str, Any]]:
        """As `new`, one at a time: no more of a long file is held."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self.offset += len(line)
                    yield from parse_line(line, kind)
        except FileNotFoundError:
            pass


def read_lines(path: Path, kind: str = "") -> list[dict[str, Any]]:
    """All complete JSON lines of `path`, of one `kind` if given; one that was cut short is left out.

    No more of a long file is held in memory than what is asked for. Missing file: empty list.
    """
    if not path.exists():
        return []
    with path.open("rb") as file:
        return [record for line in file for record in parse_line(line, kind)]


def last_line(path: Path, start: int) -> str:
    """The last line of what was written to log `path` from byte `start` on; empty where nothing was."""
    with path.open("rb") as file:
        file.seek(start)
        lines = file.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


def parse_line(line: bytes, kind: str) -> list[dict[str, Any]]:
    """The JSON object in `line`, of any `kind` where none is given; empty where there is none such."""
    try:
        record = json.loads(line.decode(errors="replace"))
    except json.JSONDecodeError:
        return []
    return [record] if isinstance(record, dict) and kind in ("", record.get("kind")) else []
