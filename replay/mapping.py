"""Committed rows as memory: chunk files mapped side by side into one reserved range of addresses.

Slot k of a `RowSpace` holds one chunk file; row r of the chunk has the physical index k * chunk_rows + r. One `take`
then gathers rows of any stream and chunk at the speed of an array in RAM. Where the platform refuses the range, or
chunks are no whole number of pages, `ChunkTable` gathers chunk by chunk: slower, equal results.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import time
from pathlib import Path
from resource import RUSAGE_THREAD, getrusage
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from replay.chunks import check_chunk, unreadable
from replay.errors import CorruptStoreError, ReplayError
from replay.layout import repair_advice

LARGEST_RANGE = 1 << 40  # bytes of address space, not of memory
SMALLEST_RANGE = 1 << 32
COLD_S_PER_ROW = 5e-6
"""A gather slower than this met the disk: a warm row takes 0.05 microseconds, one first touched up to 1."""
COLD_GATHERS = 64
"""How many gathers are announced to the kernel before one shows whether the rows are in memory by now."""
JUDGED_ROWS = 64
"""Shorter gathers say more about the scheduler than about the disk."""
_MAP_FIXED = 0x10
_MAP_FAILED = ctypes.c_void_p(-1).value


class RowSpace(Protocol):
    """Rows of many chunk files under one physical index."""

    def add(self, path: Path) -> int:
        """Map a chunk file; returns its slot."""

    def drop(self, slot: int) -> None:
        """Unmap a chunk: its rows read as zeros until a later `add` takes the slot."""

    def chunk(self, slot: int) -> NDArray[np.float32]:
        """Rows [chunk_rows, W] of one chunk, a read-only view."""

    def take(self, indices: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        """Copy rows to out [n, W], C-contiguous."""


class AddressRange:
    """A RowSpace in one address range. Memory stays mapped until the last array that views it is gone."""

    def __init__(self, chunk_rows: int, width: int) -> None:
        """Reserve the range.

        Raises:
            OSError: the platform refuses, or a chunk is not a whole number of pages.
        """
        self._chunk_rows = chunk_rows
        self._chunk_bytes = chunk_rows * width * 4
        if self._chunk_bytes % mmap.PAGESIZE:
            raise OSError(f"chunks of {self._chunk_bytes} bytes do not fill pages of {mmap.PAGESIZE}")
        libc = ctypes.CDLL(None, use_errno=True)
        self._mmap = libc.mmap
        self._mmap.restype = ctypes.c_void_p
        self._mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
        self._madvise = libc.madvise
        self._madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        self._mincore = libc.mincore
        self._mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
        self._announced = 0  # gathers still to announce
        self._faults = getrusage(RUSAGE_THREAD).ru_majflt
        self._fresh = True  # nothing gathered yet
        self._random = False  # the kernel was told not to read ahead
        size = LARGEST_RANGE
        while True:
            try:
                # Read-only zeros where nothing is mapped yet: a stray index can never be a SIGSEGV.
                reserved = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ)
                break
            except (OSError, ValueError, OverflowError) as error:
                size //= 2
                if size < SMALLEST_RANGE:
                    raise OSError("no address range to map chunks into") from error
        self._slots = size // self._chunk_bytes
        self._used = 0
        self._free: list[int] = []
        # The array keeps `reserved` alive, and every view keeps the array alive.
        self._rows = np.frombuffer(reserved, np.float32, self._slots * chunk_rows * width).reshape(-1, width)
        self._address = self._rows.ctypes.data

    def add(self, path: Path) -> int:
        """Map a chunk file read-only into the next slot.

        Raises:
            CorruptStoreError: the file is missing, unreadable or of another size.
            ReplayError: the range is full or the mapping was refused.
        """
        check_chunk(path, self._chunk_bytes)
        slot = self._free[-1] if self._free else self._used
        if slot >= self._slots:
            raise ReplayError(f"no address space left to map {path}: raise `ulimit -v` and open the store again")
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:  # it was there a moment ago: a live writer evicts
            raise unreadable(path, error) from error
        try:
            at = self._address + slot * self._chunk_bytes
            got = self._mmap(at, self._chunk_bytes, mmap.PROT_READ, mmap.MAP_SHARED | _MAP_FIXED, fd, 0)
        finally:
            os.close(fd)
        if got == _MAP_FAILED or got is None:
            reason = os.strerror(ctypes.get_errno())
            raise ReplayError(f"cannot map {path} ({reason}): raise the limit vm.max_map_count or `ulimit -v`")
        if self._free:
            return self._free.pop()
        self._used += 1
        return slot

    def drop(self, slot: int) -> None:
        """Map read-only zeros over a chunk, never PROT_NONE: a stray index reads no step instead of faulting.

        Raises:
            ReplayError: the mapping was refused.
        """
        at = self._address + slot * self._chunk_bytes
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED
        got = self._mmap(at, self._chunk_bytes, mmap.PROT_READ, flags, -1, 0)
        if got == _MAP_FAILED or got is None:
            reason = os.strerror(ctypes.get_errno())
            raise ReplayError(f"cannot unmap an evicted chunk ({reason}): raise the limit vm.max_map_count")
        self._free.append(slot)

    def chunk(self, slot: int) -> NDArray[np.float32]:
        """Rows [chunk_rows, W] of one chunk, a read-only view."""
        if self._random:
            self._madvise(self._address + slot * self._chunk_bytes, self._chunk_bytes, mmap.MADV_WILLNEED)
        return self._rows[slot * self._chunk_rows : (slot + 1) * self._chunk_rows]

    def take(self, indices: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        """Copy rows to out [n, W]. Where a gather meets the disk, the next ones have their rows read all at once."""
        if self._fresh:
            self._fresh = False
            if not self._resident(indices[:: max(1, len(indices) // 16)]):
                self._begin_announcing()
        if self._announced:
            self._announced -= 1
            self._announce(indices)
        began = time.perf_counter()
        # mode="clip": with "raise" NumPy gathers into a temporary first.
        self._rows.take(indices, axis=0, out=out, mode="clip")
        seconds, count = time.perf_counter() - began, len(indices)
        if not self._announced and count >= JUDGED_ROWS and seconds > COLD_S_PER_ROW * count:
            # A busy machine makes gathers slow too: only the disk makes major faults.
            before, self._faults = self._faults, getrusage(RUSAGE_THREAD).ru_majflt
            if self._faults > before:
                self._begin_announcing()

    def _begin_announcing(self) -> None:
        self._announced, self._random = COLD_GATHERS, True
        # Read-ahead around every fault would read the disk many times over.
        self._madvise(self._address, self._used * self._chunk_bytes, mmap.MADV_RANDOM)

    def _resident(self, indices: NDArray[np.int64]) -> bool:
        """Whether the first pages of these rows are in memory; True where the kernel does not tell."""
        row_bytes, page, found = self._chunk_bytes // self._chunk_rows, mmap.PAGESIZE, ctypes.create_string_buffer(1)
        for at in (indices * row_bytes // page * page).tolist():
            if self._mincore(self._address + at, page, found) == 0 and not found.raw[0] & 1:
                return False
        return True

    def _announce(self, indices: NDArray[np.int64]) -> None:
        """Have the pages of these rows read at the same time, not fault by fault. Advice: what fails costs speed."""
        row_bytes, page = self._chunk_bytes // self._chunk_rows, mmap.PAGESIZE
        starts = np.unique(indices) * row_bytes
        low, high = starts // page, (starts + row_bytes - 1) // page + 1
        begins = np.concatenate([[True], low[1:] > high[:-1]])
        ends = np.concatenate([begins[1:], [True]])
        for first, last in zip((low[begins] * page).tolist(), (high[ends] * page).tolist(), strict=True):
            self._madvise(self._address + first, last - first, mmap.MADV_WILLNEED)


class ChunkTable:
    """A RowSpace of separately mapped files."""

    def __init__(self, chunk_rows: int, width: int) -> None:
        self._shape = (chunk_rows, width)
        self._chunks: list[NDArray[np.float32]] = []
        self._free: list[int] = []

    def add(self, path: Path) -> int:
        """Map a chunk file; CorruptStoreError where it is missing, unreadable or of another size."""
        check_chunk(path, 4 * self._shape[0] * self._shape[1])
        try:
            chunk = np.memmap(path, np.dtype("<f4"), "r", shape=self._shape)
        except OSError as error:
            raise unreadable(path, error) from error
        if self._free:
            self._chunks[self._free[-1]] = chunk
            return self._free.pop()
        self._chunks.append(chunk)
        return len(self._chunks) - 1

    def drop(self, slot: int) -> None:
        """Put zeros in a chunk's place."""
        self._chunks[slot] = np.broadcast_to(np.float32(0.0), self._shape)
        self._free.append(slot)

    def chunk(self, slot: int) -> NDArray[np.float32]:
        """Rows [chunk_rows, W] of one chunk, a read-only view."""
        return self._chunks[slot]

    def take(self, indices: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        """Copy rows to out [n, W]."""
        slots, rows = np.divmod(indices, self._shape[0])
        for slot in np.unique(slots):
            places = np.flatnonzero(slots == slot)
            out[places] = self._chunks[slot][rows[places]]


def row_space(chunk_rows: int, width: int) -> RowSpace:
    """The fastest RowSpace that the platform grants."""
    with contextlib.suppress(OSError):
        return AddressRange(chunk_rows, width)
    return ChunkTable(chunk_rows, width)


def read_meta(path: Path, start: int, count: int, columns: int) -> NDArray[np.int64]:
    """Read meta rows [start, start + count) of one chunk file; a copy, int64 [count, columns]."""
    try:
        data = np.fromfile(path, np.dtype("<i8"), count * columns, offset=start * columns * 8)
    except OSError as error:
        raise unreadable(path, error) from error
    if data.size != count * columns:
        raise CorruptStoreError(f"chunk file {path} is truncated: {repair_advice(path)}")
    return data.reshape(count, columns)
