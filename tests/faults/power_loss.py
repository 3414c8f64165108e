"""A disk that loses power: file operations of a real writer are recorded, then a state is drawn that a power loss at
some moment may leave behind.

`Recorder` stands over `os` and `io.open` while the store's own code runs, lets every operation through, and notes it.
fsync is noted and not executed: what lasts is decided by `Recording.crash`.

The model. POSIX promises only what fsync covers, and that is all that is assumed here:

- File data and size: fsync and fdatasync of a file make everything written to it before durable. Of later writes each
  sector of 512 bytes survives on its own, as it was at any moment since (a sector is never torn: disks write it whole);
  the size likewise. Files are independent of each other.
- Names: a creation, rename or removal is durable once a directory that it changes was fsynced. Of the others any subset
  survives. A rename is atomic, also across directories. fsync of a *file* makes no name durable, and fsync of a
  directory makes neither its own name in its parent durable, nor its files' data.

ext4 and xfs are kinder: their journals keep the order of names (a later one survives only with all earlier ones), an
fsync carries all earlier names along, and data=ordered writes data before the size that reveals it. None of this holds
for every file system, so nothing here relies on it. What no file system can mend is left out: disks that acknowledge a
flush and do not do it, and bits that rot later.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

SECTOR = 512
ROOT = 0

Name = tuple[int, str]  # directory node, entry


class Killed(BaseException):
    """kill -9 at a file operation: nothing behind it happens, not even the handlers' clean-up."""


@dataclass(frozen=True)
class Link:
    """A name appears: creation or mkdir."""

    name: Name
    node: int


@dataclass(frozen=True)
class Move:
    """A name moves, replacing what was there."""

    source: Name
    target: Name
    node: int


@dataclass(frozen=True)
class Unlink:
    """A name goes."""

    name: Name


@dataclass(frozen=True)
class Write:
    """Bytes at an offset."""

    node: int
    offset: int
    data: bytes


@dataclass(frozen=True)
class Size:
    """A new size: posix_fallocate (`grow`: never smaller) or truncation."""

    node: int
    size: int
    grow: bool


@dataclass(frozen=True)
class Sync:
    """fsync or fdatasync of a file or directory has returned; it was called after `covers` operations."""

    node: int
    covers: int


@dataclass(frozen=True)
class Promise:
    """What the store has promised its caller from here on: rows of each stream; None: nothing is promised."""

    heads: dict[str, int] | None


Operation = Link | Move | Unlink | Write | Size | Sync | Promise


@dataclass
class Recording:
    """Everything that happened below one folder, from a durable beginning."""

    files: dict[int, bytes] = field(default_factory=dict)
    folders: set[int] = field(default_factory=lambda: {ROOT})
    names: dict[Name, int] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)

    @classmethod
    def beginning(cls, root: Path) -> Recording:
        """A recording whose durable beginning is what lies in `root` now."""
        recording = cls()
        nodes = {root: ROOT}
        for path in sorted(root.rglob("*")):
            nodes[path] = node = len(nodes)
            recording.names[nodes[path.parent], path.name] = node
            if path.is_dir():
                recording.folders.add(node)
            else:
                recording.files[node] = path.read_bytes()
        return recording

    def promised(self, moment: int) -> dict[str, int] | None:
        """The last promise before operation `moment`: {} at the beginning."""
        return next((op.heads for op in reversed(self.operations[:moment]) if isinstance(op, Promise)), {})

    def crash(self, moment: int, target: Path, rng: np.random.Generator) -> None:
        """Write to `target` what a power loss before operation `moment` may leave."""
        happened = self.operations[:moment]
        names = self._surviving_names(happened, rng)
        target.mkdir()
        self._build(ROOT, target, names, happened, rng)

    def _surviving_names(self, happened: list[Operation], rng: np.random.Generator) -> dict[Name, int]:
        changes = [(at, op) for at, op in enumerate(happened) if isinstance(op, Link | Move | Unlink)]
        covered = {op.node: op.covers for op in happened if isinstance(op, Sync)}
        # One mood a power loss, so that also the extremes come up: all names lost, all kept, the journal's order.
        mood = rng.choice(["lost", "kept", "any", "ordered"])
        last = rng.integers(len(happened) + 1)
        names = dict(self.names)
        for at, op in changes:
            folders = {op.source[0], op.target[0]} if isinstance(op, Move) else {op.name[0]}
            durable = any(at < covered.get(folder, 0) for folder in folders)
            keep = {"lost": False, "kept": True, "any": rng.random() < 0.5, "ordered": at < last}[mood]
            if not (durable or keep):
                continue
            if isinstance(op, Link):
                names[op.name] = op.node
            elif isinstance(op, Move):
                if names.get(op.source) == op.node:
                    del names[op.source]
                names[op.target] = op.node
            else:
                names.pop(op.name, None)
        return names

    def _build(
        self, folder: int, path: Path, names: dict[Name, int], happened: list[Operation], rng: np.random.Generator
    ) -> None:
        for (parent, name), node in names.items():
            if parent != folder:
                continue
            if node in self.folders:
                (path / name).mkdir()
                self._build(node, path / name, names, happened, rng)
            else:
                (path / name).write_bytes(self._surviving_data(node, happened, rng))

    def _surviving_data(self, node: int, happened: list[Operation], rng: np.random.Generator) -> bytes:
        own = [(at, op) for at, op in enumerate(happened) if isinstance(op, Write | Size | Sync) and op.node == node]
        covered = max((op.covers for _, op in own if isinstance(op, Sync)), default=0)
        data = bytearray(self.files.get(node, b""))
        for at, op in own:
            if at < covered:
                _apply(data, op)
        pending = [op for at, op in own if at >= covered and not isinstance(op, Sync)]
        sizes, whole = [len(data)], bytearray(data)
        for op in pending:
            _apply(whole, op)
            sizes.append(len(whole))
        mood = rng.choice(["lost", "kept", "any"])
        # Each sector, and the size, is as it was after so many of the pending operations.
        count = len(pending)
        sectors = -(-max(sizes) // SECTOR)
        versions = {
            "lost": np.zeros(sectors, np.int64),
            "kept": np.full(sectors, count),
            "any": rng.integers(count + 1, size=sectors),
        }[mood]
        size = sizes[{"lost": 0, "kept": count, "any": int(rng.integers(count + 1))}[mood]]
        data.extend(bytes(sectors * SECTOR - len(data)))
        for number, op in enumerate(pending, 1):
            if isinstance(op, Size):
                if not op.grow:
                    for sector in np.flatnonzero(versions >= number).tolist():
                        start = max(sector * SECTOR, op.size)
                        data[start : (sector + 1) * SECTOR] = bytes(max(0, (sector + 1) * SECTOR - start))
                continue
            end = op.offset + len(op.data)
            for sector in range(op.offset // SECTOR, -(-end // SECTOR)):
                if versions[sector] >= number:
                    start, stop = max(op.offset, sector * SECTOR), min(end, (sector + 1) * SECTOR)
                    data[start:stop] = op.data[start - op.offset : stop - op.offset]
        return bytes(data[:size])


def _apply(data: bytearray, op: Operation) -> None:
    if isinstance(op, Size):
        if len(data) < op.size:
            data.extend(bytes(op.size - len(data)))
        elif not op.grow:
            del data[op.size :]
    elif isinstance(op, Write):
        if len(data) < op.offset + len(op.data):
            data.extend(bytes(op.offset + len(op.data) - len(data)))
        data[op.offset : op.offset + len(op.data)] = op.data


class Recorder:
    """Notes what happens below `root`, in this process, while `watching`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.recording = Recording.beginning(root)
        self.kill_in: int | None = None
        """So many operations from now the process is killed: each operation from that one on raises Killed."""
        self.on_data_sync: Callable[[], None] | None = None
        """Called within each fdatasync: what another thread does meanwhile."""
        self._names = dict(self.recording.names)
        self._count = len(self.recording.files) + len(self.recording.folders)
        self._fds: dict[int, int] = {}
        self._buffered: set[int] = set()  # nodes written through Python's buffers, which do not pass by os.write
        self._lock = threading.RLock()

    def promise(self, heads: dict[str, int] | None) -> None:
        """Note what the store has promised so far."""
        self.recording.operations.append(Promise(None if heads is None else dict(heads)))

    def revive(self) -> None:
        """A new process after a kill: the old one's descriptors are closed, its locks gone."""
        self.kill_in = None
        for fd in self._fds:
            at = Path(f"/proc/self/fd/{fd}")
            if at.is_symlink() and at.readlink().is_relative_to(self.root):
                self._real["close"](fd)
        self._fds.clear()

    @contextmanager
    def watching(self) -> Iterator[Recorder]:
        """Note the operations of the store's code within the block."""
        replaced: list[tuple[Any, str, Any]] = [(io, "open", io.open)]
        wrappers: dict[str, Any] = {
            name: getattr(self, f"_{name}")
            for name in (
                "open", "close", "pwrite", "pwritev", "write", "posix_fallocate", "ftruncate", "fsync", "fdatasync",
                "rename", "replace", "unlink", "mkdir", "rmdir",
            )
        }  # fmt: skip
        replaced += [(os, name, getattr(os, name)) for name in wrappers]
        self._real = {name: real for module, name, real in replaced if module is os}
        self._real_io_open = io.open
        try:
            io.open = self._io_open  # type: ignore[assignment]
            for name, wrapper in wrappers.items():
                setattr(os, name, wrapper)
            yield self
        finally:
            for module, name, real in replaced:
                setattr(module, name, real)

    def _note(self, operation: Operation) -> None:
        self.recording.operations.append(operation)

    def _step(self) -> None:
        if self.kill_in is not None:
            self.kill_in -= 1
            if self.kill_in < 0:
                raise Killed

    def _name(self, path: str | os.PathLike[str], folder_fd: int | None = None) -> Name | None:
        """Directory node and entry of a path; None outside the root."""
        if folder_fd is not None:
            path = Path(f"/proc/self/fd/{folder_fd}").readlink() / path
        try:
            parts = Path(os.path.abspath(path)).relative_to(self.root).parts  # noqa: PTH100
        except ValueError:
            return None
        folder = ROOT
        for part in parts[:-1]:
            if (folder, part) not in self._names:
                return None
            folder = self._names[folder, part]
        return (folder, parts[-1]) if parts else (-1, "")

    def _node(self, name: Name) -> int | None:
        return ROOT if name == (-1, "") else self._names.get(name)

    def _new(self, name: Name) -> int:
        node, self._count = self._count, self._count + 1
        self._names[name] = node
        self._note(Link(name, node))
        return node

    # The operations

    def _open(self, path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        with self._lock:
            name = self._name(path) if isinstance(path, str | os.PathLike) and not options.get("dir_fd") else None
            if name is not None and flags & (os.O_CREAT | os.O_TRUNC):
                self._step()
            fd: int = self._real["open"](path, flags, *arguments, **options)
            self._fds.pop(fd, None)
            if name is not None:
                node = self._node(name)
                if node is None:
                    node = self._new(name)
                elif flags & os.O_TRUNC:
                    self._note(Size(node, 0, grow=False))
                self._fds[fd] = node
            return fd

    def _io_open(self, file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if isinstance(file, int) or not set(mode) & set("wax+"):
            return self._real_io_open(file, mode, *arguments, **options)
        opened = self._real_io_open(file, mode, *arguments, opener=lambda path, flags: self._open(path, flags, 0o644),
                                    **options)  # fmt: skip
        if (node := self._fds.get(opened.fileno())) is not None:
            self._buffered.add(node)
        return opened

    def _close(self, fd: int) -> None:
        with self._lock:
            self._fds.pop(fd, None)
            self._real["close"](fd)

    def _pwrite(self, fd: int, data: Any, offset: int) -> int:
        with self._lock:
            if fd in self._fds:
                self._step()
            written: int = self._real["pwrite"](fd, data, offset)
            if fd in self._fds:
                self._note(Write(self._fds[fd], offset, bytes(memoryview(data).cast("B")[:written])))
            return written

    def _pwritev(self, fd: int, buffers: Any, offset: int, *arguments: Any) -> int:
        return self._pwrite(fd, b"".join(bytes(memoryview(each).cast("B")) for each in buffers), offset)

    def _write(self, fd: int, data: Any) -> int:
        if fd not in self._fds:
            written: int = self._real["write"](fd, data)
            return written
        written = self._pwrite(fd, data, os.lseek(fd, 0, os.SEEK_CUR))
        os.lseek(fd, written, os.SEEK_CUR)
        return written

    def _posix_fallocate(self, fd: int, offset: int, length: int) -> None:
        with self._lock:
            self._step()
            self._real["posix_fallocate"](fd, offset, length)
            self._note(Size(self._fds[fd], offset + length, grow=True))

    def _ftruncate(self, fd: int, length: int) -> None:
        with self._lock:
            self._step()
            self._real["ftruncate"](fd, length)
            self._note(Size(self._fds[fd], length, grow=False))

    def _fsync(self, fd: int) -> None:
        with self._lock:
            self._step()
            node = self._fds[fd]
            self._note_buffered(node, f"/proc/self/fd/{fd}")
            self._note(Sync(node, len(self.recording.operations)))

    def _fdatasync(self, fd: int) -> None:
        self._step()
        node, covers = self._fds[fd], len(self.recording.operations)
        if self.on_data_sync is not None:
            self.on_data_sync()
        self._note(Sync(node, covers))

    def _rename(self, source: Any, target: Any, **options: Any) -> None:
        with self._lock:
            before, after = self._name(source), self._name(target)
            assert before is not None and after is not None, "a rename into or out of the recorded folder"
            self._step()
            node = self._names.get(before)
            if node is not None:
                self._note_buffered(node, source)
            self._real["rename"](source, target, **options)
            assert node is not None
            del self._names[before]
            self._names[after] = node
            self._note(Move(before, after, node))

    _replace = _rename

    def _unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        with self._lock:
            name = self._name(path, dir_fd)
            self._step()
            self._real["unlink"](path, dir_fd=dir_fd)
            if name is not None:
                del self._names[name]
                self._note(Unlink(name))

    def _mkdir(self, path: Any, mode: int = 0o777, **options: Any) -> None:
        with self._lock:
            name = self._name(path)
            self._step()
            self._real["mkdir"](path, mode, **options)
            if name is not None:
                self.recording.folders.add(self._new(name))

    def _rmdir(self, path: Any, *, dir_fd: int | None = None) -> None:
        with self._lock:
            name = self._name(path, dir_fd)
            self._step()
            self._real["rmdir"](path, dir_fd=dir_fd)
            if name is not None:
                del self._names[name]
                self._note(Unlink(name))

    def _note_buffered(self, node: int, path: Any) -> None:
        """Files written through Python's buffers: what is in them by now."""
        if node in self._buffered:
            self._buffered.discard(node)
            with self._real_io_open(path, "rb") as file:
                self._note(Write(node, 0, file.read()))
