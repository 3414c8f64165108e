"""Chunk files of one array of one stream, as its writer sees them: reserved whole, then filled by pwrite.

Reserving comes before writing so that a full disk is an error here, with nothing half-written; pwrite instead of a
writable mapping so that it can never be a SIGBUS.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from replay.errors import CorruptStoreError, StorageError
from replay.layout import fsync_directory, repair_advice


def chunk_path(array: Path, index: int) -> Path:
    """Path of chunk `index` of a two-dimensional array chunked along rows only."""
    return array / "c" / str(index) / "0"


def pieces(start: int, stop: int, chunk_rows: int) -> Iterator[tuple[int, int, int]]:
    """Rows [start, stop) chunk by chunk: (chunk, first row within it, number of rows)."""
    while start < stop:
        chunk, within = divmod(start, chunk_rows)
        count = min(chunk_rows - within, stop - start)
        yield chunk, within, count
        start += count


def check_chunk(path: Path, expected_bytes: int) -> None:
    """Raise CorruptStoreError unless the chunk file exists with its full size."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise unreadable(path, error) from error
    if size != expected_bytes:
        raise CorruptStoreError(
            f"chunk file {path} has {size} bytes instead of {expected_bytes}: {repair_advice(path)}"
        )


def unreadable(path: Path, error: OSError) -> CorruptStoreError:
    """The error for a chunk file that the operating system does not give."""
    if isinstance(error, FileNotFoundError):
        return CorruptStoreError(f"chunk file {path} is missing: {repair_advice(path)}")
    return CorruptStoreError(f"cannot read {path} ({error.strerror}): {repair_advice(path)}")


class ChunkFiles:
    """The chunk files of one array. One chunk is open at a time; others are opened only to be synchronised."""

    def __init__(self, array: Path, chunk_bytes: int, *, fill: bool = False) -> None:
        """With `fill`, chunks are reserved by writing zeros.

        The first write to a part of a file that is only allocated changes the file's extents, so every fdatasync
        waits for the journal; with the zeros written, an fdatasync writes the data and nothing else.
        """
        self._array = array
        self._chunk_bytes = chunk_bytes
        self._fill = fill
        self._fd = -1
        self._index = -1
        self._reserving = threading.Lock()
        self._reserved: set[int] = set()
        self._unsynced_entries: set[int] = set()
        self._known = 0  # chunks from here on hold no committed row of a writer before
        self._dirty: dict[int, bool] = {}  # chunk -> its directory entry is not durable either

    def reserve(self, index: int, *, durable: bool) -> None:
        """Make sure that chunk `index` exists at its full size: temp file, posix_fallocate, fsync, rename, fsync.

        Any thread may call it.

        Raises:
            StorageError: no space, quota or file size limit; nothing is left behind.
            CorruptStoreError: the chunk exists with another size.
        """
        with self._reserving:
            if index in self._reserved or self._adopt(index):
                if durable and index in self._unsynced_entries:
                    self._settle(index)
                return
            path = chunk_path(self._array, index)
            temporary = path.with_name(".0.tmp")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._allocate(temporary, durable=durable)
                temporary.rename(path)
                if durable:
                    self._sync_directories(index)
            except OSError as error:
                with suppress(OSError):
                    temporary.unlink(missing_ok=True)
                    path.parent.rmdir()
                raise StorageError(
                    f"cannot reserve {self._chunk_bytes} bytes for {path} ({error.strerror}): free some space and go "
                    "on; all committed rows are intact"
                ) from error
            if not durable:
                self._unsynced_entries.add(index)
            self._reserved.add(index)

    def adopt(self, index: int) -> bool:
        """Take over chunk `index` if a writer before reserved it; returns whether it did.

        Raises:
            CorruptStoreError: the chunk exists with another size.
        """
        with self._reserving:
            return self._adopt(index)

    def _adopt(self, index: int) -> bool:
        path = chunk_path(self._array, index)
        if not path.exists() or (index >= self._known and path.stat().st_size != self._chunk_bytes):
            return False  # without a committed row, a file that a power loss left short is replaced
        check_chunk(path, self._chunk_bytes)
        self._unsynced_entries.add(index)  # that writer may have died before it synchronised them
        self._reserved.add(index)
        return True

    def _settle(self, index: int) -> None:
        """Make an adopted chunk's size and name durable: a slot may be on the disk before the next flush."""
        path = chunk_path(self._array, index)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
            self._sync_directories(index)
        except OSError as error:
            raise StorageError(f"cannot synchronise {path} ({error.strerror}): check the disk") from error
        self._unsynced_entries.discard(index)

    def _allocate(self, path: Path, *, durable: bool) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            os.posix_fallocate(fd, 0, self._chunk_bytes)
            if self._fill:
                zeros = bytes(min(self._chunk_bytes, 1 << 20))
                at = 0
                while at < self._chunk_bytes:
                    at += os.pwrite(fd, zeros[: self._chunk_bytes - at], at)
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)

    def discard_from(self, index: int) -> None:
        """Remove the chunks from `index` on that were reserved and hold no row."""
        with self._reserving:
            for each in [each for each in self._reserved if each >= index]:
                path = chunk_path(self._array, each)
                with suppress(OSError):
                    path.unlink(missing_ok=True)
                    path.parent.rmdir()
                self._reserved.discard(each)
                self._dirty.pop(each, None)

    def write(self, index: int, offset: int, data: NDArray[np.generic]) -> None:
        """Write an array's bytes at a byte offset of a reserved chunk.

        Raises:
            StorageError: the operating system refused; the rows are not committed.
        """
        try:
            if index != self._index:
                fd = os.open(chunk_path(self._array, index), os.O_RDWR | os.O_CLOEXEC)
                self.close()
                self._fd, self._index = fd, index
            if index not in self._dirty:
                self._dirty[index] = index in self._unsynced_entries
                self._unsynced_entries.discard(index)
            written = os.pwrite(self._fd, data.data, offset)
            if written != data.nbytes:
                view = data.data.cast("B")
                while written < len(view):
                    written += os.pwrite(self._fd, view[written:], offset + written)
        except OSError as error:
            raise StorageError(
                f"cannot write to {chunk_path(self._array, index)} ({error.strerror}): the rows are not committed"
            ) from error

    def read(self, index: int, offset: int, size: int) -> bytes:
        """Read bytes of a chunk.

        Raises:
            CorruptStoreError: the file is missing, ends before, or cannot be read.
        """
        path = chunk_path(self._array, index)
        try:
            with path.open("rb", buffering=0) as file:
                data = os.pread(file.fileno(), size, offset)
        except OSError as error:
            raise unreadable(path, error) from error
        if len(data) != size:
            check_chunk(path, self._chunk_bytes)
            raise CorruptStoreError(f"chunk file {path} cannot be read to its end: {repair_advice(path)}")
        return data

    def check(self, indices: range) -> None:
        """Raise CorruptStoreError unless all these chunks are there at full size; they count as not yet durable."""
        for index in indices:
            check_chunk(chunk_path(self._array, index), self._chunk_bytes)
        self._dirty.update(dict.fromkeys(indices, True))
        self._known = max(self._known, indices.stop)

    def take_dirty(self) -> dict[int, bool]:
        """Chunks written since the last call, for `synchronise`."""
        dirty, self._dirty = self._dirty, {}
        return dirty

    def synchronise(self, dirty: dict[int, bool]) -> None:
        """fdatasync these chunks, and their directory entries where that is still due. Needs no lock.

        Raises:
            OSError: the data may be lost; the caller must not go on writing.
        """
        for index, new in dirty.items():
            fd = os.open(chunk_path(self._array, index), os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fdatasync(fd)
            finally:
                os.close(fd)
            if new:
                self._sync_directories(index)

    def drop_below(self, index: int) -> int:
        """Remove the chunk files before `index`: evicted ones, or what a kill left of an eviction.

        Returns:
            How many were removed.

        Raises:
            StorageError: the operating system refuses.
        """
        removed = 0
        folder = self._array / "c"
        try:
            names = [entry.name for entry in os.scandir(folder)] if folder.is_dir() else []
            for name in names:
                if name.isdigit() and int(name) < index:
                    chunk_path(self._array, int(name)).unlink(missing_ok=True)
                    (folder / name).rmdir()
                    self._dirty.pop(int(name), None)
                    removed += 1
        except OSError as error:
            raise StorageError(
                f"evicted chunks of {self._array} cannot be removed ({error.strerror}): the rows are evicted all the "
                "same; the next writer tries again"
            ) from error
        return removed

    def _sync_directories(self, index: int) -> None:
        folder = chunk_path(self._array, index).parent
        for each in (folder, folder.parent, self._array):
            fsync_directory(each)

    def close(self) -> None:
        """Close the open chunk."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = self._index = -1
