"""Stands over `os` and `io.open` while the store's own code runs, lets every operation through, and notes it."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.faults.power_loss import ROOT, Link, Move, Name, Operation, Promise, Recording, Size, Sync, Unlink, Write


class Killed(BaseException):
    """kill -9 at a file operation: nothing behind it happens, not even the handlers' clean-up."""


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
