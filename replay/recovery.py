"""Taking hold of a stream: create it complete or lock an existing one, and find out which of its rows exist.

Recovery takes the newest valid slot whose block checksum holds. Where a power loss took the blocks of both slots, the
rows below the larger block_start are on the disk: the stream ends there, and its counters are rebuilt from the rows.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from replay import commit, layout
from replay.chunks import ChunkFiles, pieces
from replay.errors import CorruptStoreError, StorageError, WriterLockedError
from replay.schema import META_COLUMNS, StoreSpec

META_ROW_BYTES = 8 * len(META_COLUMNS)
LOCK_ATTEMPTS = 5


def claim(store: Path, name: str, spec: StoreSpec, chunk_rows: int, locked: int | None = None) -> int:
    """Lock a stream for writing, creating it first where it does not exist; returns the commit file, open.

    Where `locked` is that file, open and locked already, the result is another descriptor of it under the same lock.

    Raises:
        WriterLockedError: another writer holds it.
        CorruptStoreError: the stream has no commit file.
        SchemaError: its rows have other columns than the store.
        OSError: the operating system refuses.
    """
    folder = store / layout.STREAMS / layout.check_stream_name(name)
    if not folder.exists():
        staging = store / f".creating-{name}-{os.getpid()}-{threading.get_ident()}"
        fd = _create(staging, spec, chunk_rows)
        try:
            staging.rename(folder)
            layout.fsync_directory(folder.parent)
            return fd
        except OSError as error:
            os.close(fd)
            shutil.rmtree(staging, ignore_errors=True)
            if not folder.exists():  # else another process was faster: go on to find its lock
                raise StorageError(f"cannot create stream {folder}: {error.strerror}") from error
    path = folder / layout.COMMIT_FILE
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC) if locked is None else os.dup(locked)
    except FileNotFoundError:
        raise CorruptStoreError(f"{path} is missing: {layout.repair_advice(path)}") from None
    try:
        lock(fd, folder)  # granted at once where it is held already: the lock belongs to what was opened
        layout.check_stream_document(folder, spec)
        layout.mend_stream_documents(folder, spec, chunk_rows)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _create(staging: Path, spec: StoreSpec, chunk_rows: int) -> int:
    """Build the stream beside its place, locked, so that the rename shows it complete and already owned."""
    shutil.rmtree(staging, ignore_errors=True)  # of a process of the same id that was killed here
    file = staging / layout.COMMIT_FILE
    file.parent.mkdir(parents=True)
    fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        lock(fd, staging)
        os.posix_fallocate(fd, 0, commit.COMMIT_BYTES)
        os.pwrite(fd, commit.encode((0,) * 14), 0)
        os.fsync(fd)
        layout.fsync_directory(file.parent)
        layout.fsync_directory(file.parent.parent)  # the folders above follow with each document
        for array in (layout.ROWS, layout.META):
            (staging / array).mkdir()
        layout.mend_stream_documents(staging, spec, chunk_rows)
    except BaseException:
        os.close(fd)
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return fd


def lock(fd: int, folder: Path) -> None:
    """Lock an open commit file, or raise WriterLockedError."""
    for _ in range(LOCK_ATTEMPTS):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(0.002)  # a `Store.sync` that looks whether there is a writer holds it for microseconds
    slot = commit.newest(commit.read_raw(fd))
    holder = f"process {slot.process}" if slot and slot.process else "another process"
    raise WriterLockedError(
        f"stream {folder} already has a writer ({holder}): stop it, or write to a stream of another name"
    )


def recover(fd: int, folder: Path, rows: ChunkFiles, meta: ChunkFiles, spec: StoreSpec, chunk_rows: int) -> commit.Slot:
    """Where the stream ends: the commit to go on from, its sequence not below any that was written.

    Raises:
        CorruptStoreError: both slots are corrupt, or a chunk file is missing or truncated.
    """
    raw = commit.read_raw(fd)
    latest = commit.newest(raw)
    if latest is None:
        raise commit.both_corrupt(folder / layout.COMMIT_FILE)
    chunks = range(latest.tail // chunk_rows, -(-latest.head // chunk_rows))
    rows.check(chunks)
    meta.check(chunks)
    return whole(raw, rows, meta, spec, chunk_rows)


def first_look(raw: tuple[bytes, bytes], folder: Path, spec: StoreSpec, chunk_rows: int) -> commit.Slot:
    """Where a stream ends for a reader that has not seen it before: a power loss may have left a slot without its rows,
    and no writer may have recovered the stream since. Beside a live writer this is the newest slot.

    Raises:
        CorruptStoreError: a chunk file of the newest rows is missing or truncated.
    """
    rows = ChunkFiles(folder / layout.ROWS, chunk_rows * 4 * spec.row_width)
    meta = ChunkFiles(folder / layout.META, chunk_rows * META_ROW_BYTES)
    return whole(raw, rows, meta, spec, chunk_rows)


def whole(
    raw: tuple[bytes, bytes], rows: ChunkFiles, meta: ChunkFiles, spec: StoreSpec, chunk_rows: int
) -> commit.Slot:
    """The newest commit whose rows are all there, its sequence that of the newest slot. `raw` holds a valid slot."""
    slots = [slot for slot in map(commit.decode, raw) if slot is not None]
    slots.sort(key=lambda slot: slot.sequence, reverse=True)
    latest, certain = slots[0], max(slot.block_start for slot in slots)
    for slot in slots:
        if slot.head < certain:
            continue  # left in its place by a power loss, though the rows below `certain` have been promised since
        chunks = range(max(slot.block_start, latest.tail) // chunk_rows, -(-slot.head // chunk_rows))
        rows.check(chunks)
        meta.check(chunks)
        if block_crc(slot, rows, meta, spec, chunk_rows) == slot.block_crc:
            return replace(
                slot,
                sequence=latest.sequence,
                epoch=latest.epoch,
                tail=latest.tail,
                evicted_steps=latest.evicted_steps,
                evicted_broken=latest.evicted_broken,
                evicted_episodes=latest.evicted_episodes,
            )
    return recounted(replace(latest, head=certain, block_start=certain, block_crc=0), rows, spec, chunk_rows)


def block_crc(slot: commit.Slot, rows: ChunkFiles, meta: ChunkFiles, spec: StoreSpec, chunk_rows: int) -> int:
    """Checksum of the rows and meta rows [block_start, head) as they are in the files."""
    crcs = []
    for files, width in ((rows, 4 * spec.row_width), (meta, META_ROW_BYTES)):
        crc = 0
        for chunk, within, count in pieces(slot.block_start, slot.head, chunk_rows):
            crc = google_crc32c.extend(crc, files.read(chunk, within * width, count * width))
        crcs.append(crc)
    return crcs[0] | crcs[1] << 32


def recounted(slot: commit.Slot, rows: ChunkFiles, spec: StoreSpec, chunk_rows: int) -> commit.Slot:
    """The slot with its counters rebuilt from the flags of rows [tail, head)."""
    valid, first = read_flags(rows, slot.tail, slot.head, spec, chunk_rows)
    return replace(
        slot,
        steps=slot.evicted_steps + int(valid.sum()),
        broken=slot.evicted_broken + int((valid[:-1] & first[1:]).sum()),
        episodes=slot.evicted_episodes + int(first.sum()),
        open=int(valid[-1]) if len(valid) else 0,
    )


def read_flags(
    rows: ChunkFiles, start: int, stop: int, spec: StoreSpec, chunk_rows: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The columns `valid` and `first` of rows [start, stop), from the files."""
    columns = [spec.offsets["valid"], spec.offsets["first"]]
    parts = [np.empty((0, 2), np.bool_)]
    for chunk, within, count in pieces(start, stop, chunk_rows):
        data = rows.read(chunk, within * 4 * spec.row_width, count * 4 * spec.row_width)
        parts.append(np.frombuffer(data, np.float32).reshape(count, spec.row_width)[:, columns] > 0)
    valid, first = np.concatenate(parts).T
    return valid, first
