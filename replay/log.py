"""StreamLog: one append-only stream on disk under an exclusive lock, with its commit protocol and recovery.

Ordering invariant. A slot that says head = h is written only after every byte of the rows below h has been given to
the kernel (and, at level block, has reached the disk). So whoever sees the slot may read the rows. One commit is

    reserve chunks  ->  pwrite rows  ->  pwrite meta  ->  [block: fdatasync]  ->  pwrite the other slot  ->  [fdatasync]

and a flush (levels interval and process: background thread, `sync`, `close`) is

    note head h, start a second checksum at h  ->  fdatasync the chunks written  ->  slot with block_start = h
    ->  fdatasync the slot  ->  now and then: republish `shape` = h

The checksum in a slot covers [block_start, head), all that may not be on the disk yet. After a power loss a slot whose
block does not hold is passed over; rows below any slot's block_start are on the disk.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Literal

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from replay import commit, layout
from replay.chunks import ChunkFiles
from replay.errors import CorruptStoreError, ReplayError, StorageError, WriterLockedError
from replay.schema import META_COLUMNS, StoreSpec

Durability = Literal["process", "interval", "block"]
DURABILITIES: tuple[Durability, ...] = ("process", "interval", "block")
FLUSH_INTERVAL_S = 0.25
PUBLISH_INTERVAL_S = 1.0
META_ROW_BYTES = 8 * len(META_COLUMNS)


class StreamLog:
    """Commit rows to one stream and make them durable. Thread-safe; the lock file keeps other processes out."""

    def __init__(self, store: Path, name: str, spec: StoreSpec, chunk_rows: int, durability: Durability) -> None:
        """Create the stream, or recover it and go on where it ended.

        Raises:
            WriterLockedError: another writer holds the stream.
            CorruptStoreError: files are missing, truncated or damaged beyond what recovery can tell.
            StorageError: no space, or no permission.
        """
        self._spec = spec
        self._chunk_rows = chunk_rows
        self._durability = durability
        self._row_bytes = 4 * spec.row_width
        self._folder = store / layout.STREAMS / layout.check_stream_name(name)
        self._lock = threading.Lock()
        self._flush_lock = threading.Lock()
        self._stop = threading.Event()
        self._flusher: threading.Thread | None = None
        self._failure: StorageError | None = None
        try:
            self._fd = self._acquire(store, name)
        except OSError as error:
            raise StorageError(f"cannot open stream {self._folder} for writing: {error.strerror}") from error
        try:
            self._rows = ChunkFiles(self._folder / layout.ROWS, chunk_rows * self._row_bytes)
            self._meta = ChunkFiles(self._folder / layout.META, chunk_rows * META_ROW_BYTES)
            self._recover()
            if durability != "process":
                self.flush()
        except BaseException:
            os.close(self._fd)
            raise

    def _acquire(self, store: Path, name: str) -> int:
        if not self._folder.exists():
            staging = store / f".creating-{name}-{os.getpid()}-{threading.get_ident()}"
            fd = self._create(staging)
            try:
                staging.rename(self._folder)
                layout.fsync_directory(self._folder.parent)
                return fd
            except OSError as error:
                os.close(fd)
                shutil.rmtree(staging, ignore_errors=True)
                if not self._folder.exists():
                    raise StorageError(f"cannot create stream {self._folder}: {error.strerror}") from error
        path = self._folder / layout.COMMIT_FILE
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            raise CorruptStoreError(
                f"{path} is missing: restore it from a copy, or move the stream's folder out of the store"
            ) from None
        try:
            self._flock(fd)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _create(self, staging: Path) -> int:
        """Build the stream beside its place, locked, so that the rename shows it complete and already owned."""
        file = staging / layout.COMMIT_FILE
        file.parent.mkdir(parents=True)
        fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._flock(fd)
            os.posix_fallocate(fd, 0, commit.COMMIT_BYTES)
            os.pwrite(fd, commit.encode((0,) * 11), 0)
            os.fsync(fd)
            layout.fsync_directory(file.parent)
            for array, document in (
                (layout.ROWS, layout.rows_document(self._spec, self._chunk_rows, 0)),
                (layout.META, layout.meta_document(self._chunk_rows, 0)),
                ("commit", layout.commit_document()),
            ):
                (staging / array).mkdir(exist_ok=True)
                layout.write_atomic(staging / array / layout.GROUP, document)
            layout.write_atomic(staging / layout.GROUP, layout.group_document({}))
        except BaseException:
            os.close(fd)
            shutil.rmtree(staging, ignore_errors=True)
            raise
        return fd

    def _flock(self, fd: int) -> None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            slot = commit.newest(commit.read_raw(fd))
            holder = f"process {slot.writer}" if slot and slot.writer else "another process"
            raise WriterLockedError(
                f"stream {self._folder} already has a writer ({holder}): stop it, or write to a stream of another name"
            ) from None

    def _recover(self) -> None:
        path = self._folder / layout.COMMIT_FILE
        slots = [slot for slot in map(commit.decode, commit.read_raw(self._fd)) if slot is not None]
        slots.sort(key=lambda slot: slot.sequence, reverse=True)
        if not slots:
            raise CorruptStoreError(
                f"{path}: both commit slots are corrupt, so the number of rows is unknown; restore this file from a "
                "copy, or move the stream's folder out of the store"
            )
        self._tail = slots[0].tail
        self._sequence = slots[0].sequence
        chunks = range(self._tail // self._chunk_rows, -(-slots[0].head // self._chunk_rows))
        self._rows.check(chunks)
        self._meta.check(chunks)
        found = next((slot for slot in slots if self._block_holds(slot)), None)
        head = found.head if found else max(slot.block_start for slot in slots)
        if found:
            self.steps, self.broken, self.episodes, self.open = found.steps, found.broken, found.episodes, found.open
        else:
            self._recount(slots, head)
        self.head = head
        self.durable = 0
        self._block_start = head
        self._crc = (0, 0)
        self._pending: tuple[int, int] | None = None
        self._published = -1
        self._published_at = time.monotonic()
        self._epoch = slots[0].epoch + 1
        self._pid = os.getpid()
        self._put_slot()

    def _block_holds(self, slot: commit.Slot) -> bool:
        """Whether the rows that the slot's commit promised are the rows on the disk."""
        crcs = []
        for files, width in ((self._rows, self._row_bytes), (self._meta, META_ROW_BYTES)):
            crc, at = 0, slot.block_start
            while at < slot.head:
                index, within = divmod(at, self._chunk_rows)
                count = min(self._chunk_rows - within, slot.head - at)
                crc = google_crc32c.extend(crc, files.read(index, within * width, count * width))
                at += count
            crcs.append(crc)
        return crcs[0] | crcs[1] << 32 == slot.block_crc

    def _recount(self, slots: list[commit.Slot], head: int) -> None:
        """Rebuild the counters from the rows: needed only where a power loss took the rows of both slots."""
        valid, first = self._spec.offsets["valid"], self._spec.offsets["first"]
        flags = np.empty((head - self._tail, 2), np.bool_)
        for start in range(self._tail - self._tail % self._chunk_rows, head, self._chunk_rows):
            data = self._rows.read(start // self._chunk_rows, 0, self._chunk_rows * self._row_bytes)
            rows = np.frombuffer(data, np.float32).reshape(-1, self._spec.row_width)
            low, high = max(start, self._tail), min(start + self._chunk_rows, head)
            flags[low - self._tail : high - self._tail] = rows[low - start : high - start, [valid, first]] > 0
        self.steps = int(flags[:, 0].sum())
        self.broken = int((flags[:-1, 0] & flags[1:, 1]).sum())
        self.episodes = max(slot.episodes for slot in slots)
        self.open = int(flags[-1, 0]) if len(flags) else 0

    # Committing

    def commit(
        self, rows: NDArray[np.float32], meta: NDArray[np.int64], *, steps: int, broken: int, episodes: int, open_: bool
    ) -> None:
        """Append rows [n, W] with meta [n, 5] in one commit; the other arguments change the stream's counters.

        Raises:
            StorageError: the disk is full or failed; nothing was committed.
        """
        with self._lock:
            if self._failure is not None:
                raise self._failure
            self._put_rows(rows, meta)
            self._extend_checksum(rows, meta)
            if self._durability == "block":
                self._synchronise(self._rows.take_dirty(), self._meta.take_dirty())
            self.head += len(rows)
            self.steps += steps
            self.broken += broken
            self.episodes += episodes
            self.open = int(open_)
            self._put_slot()
            if self._durability == "block":
                self._synchronise_slot()
                self.durable = self.head
                if time.monotonic() - self._published_at > PUBLISH_INTERVAL_S:
                    self._publish()
        if self._flusher is None and self._durability == "interval":
            self._flusher = threading.Thread(target=self._flush_often, name="slipway-flush", daemon=True)
            self._flusher.start()

    def _put_rows(self, rows: NDArray[np.float32], meta: NDArray[np.int64]) -> None:
        count = len(rows)
        index, within = divmod(self.head, self._chunk_rows)
        if within and within + count <= self._chunk_rows:
            self._rows.write(index, within * self._row_bytes, rows)
            self._meta.write(index, within * META_ROW_BYTES, meta)
            return
        durable = self._durability != "process"
        for needed in range(index, (self.head + count - 1) // self._chunk_rows + 1):
            self._rows.reserve(needed, durable=durable)
            self._meta.reserve(needed, durable=durable)
        done = 0
        while done < count:
            index, within = divmod(self.head + done, self._chunk_rows)
            n = min(self._chunk_rows - within, count - done)
            self._rows.write(index, within * self._row_bytes, rows[done : done + n])
            self._meta.write(index, within * META_ROW_BYTES, meta[done : done + n])
            done += n

    def _extend_checksum(self, rows: NDArray[np.float32], meta: NDArray[np.int64]) -> None:
        if self._durability == "interval":
            a, b = self._crc
            self._crc = google_crc32c.extend(a, rows), google_crc32c.extend(b, meta)
            if self._pending is not None:
                a, b = self._pending
                self._pending = google_crc32c.extend(a, rows), google_crc32c.extend(b, meta)
        else:
            self._block_start = self.head
            self._crc = google_crc32c.value(rows), google_crc32c.value(meta)

    def _put_slot(self) -> None:
        self._sequence = sequence = self._sequence + 1
        rows_crc, meta_crc = self._crc
        data = commit.encode(
            (
                sequence,
                self._tail,
                self.head,
                self._block_start,
                rows_crc | meta_crc << 32,
                self._epoch,
                self.steps,
                self.broken,
                self.episodes,
                self.open,
                self._pid,
            )
        )
        os.pwrite(self._fd, data, (sequence & 1) * commit.SLOT_BYTES)

    # Durability

    def flush(self) -> None:
        """Make every row committed so far durable.

        Raises:
            StorageError: the disk failed; the stream takes no more rows.
        """
        with self._flush_lock:
            with self._lock:
                if self._failure is not None:
                    raise self._failure
                head = self.head
                if self.durable == head and self._block_start == head:
                    return
                rows, meta = self._rows.take_dirty(), self._meta.take_dirty()
                self._pending = (0, 0)
            self._synchronise(rows, meta)
            with self._lock:
                if self._durability == "interval" or self.head == head:
                    self._block_start = head
                    self._crc = self._pending
                self._pending = None
                self._put_slot()
                self.durable = head
            self._synchronise_slot()

    def _synchronise(self, rows: dict[int, bool], meta: dict[int, bool]) -> None:
        try:
            self._rows.synchronise(rows)
            self._meta.synchronise(meta)
        except OSError as error:
            self._fail(error)

    def _synchronise_slot(self) -> None:
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        """After a failed fsync the kernel may have dropped the pages: nothing written later may claim otherwise."""
        self._failure = StorageError(
            f"synchronising stream {self._folder} failed ({error.strerror}): check the disk, then open the stream again"
        )
        raise self._failure from error

    def publish(self) -> None:
        """Republish `shape` in the arrays' zarr.json, never beyond the durable head."""
        with self._flush_lock, self._lock:
            self._publish()

    def _publish(self) -> None:
        self._published_at = time.monotonic()
        if self._published == self.durable:
            return
        try:
            document = layout.rows_document(self._spec, self._chunk_rows, self.durable)
            layout.write_atomic(self._folder / layout.ROWS / layout.GROUP, document)
            document = layout.meta_document(self._chunk_rows, self.durable)
            layout.write_atomic(self._folder / layout.META / layout.GROUP, document)
        except OSError as error:
            raise StorageError(
                f"cannot republish the shape of {self._folder} ({error.strerror}): all committed rows are intact"
            ) from error
        self._published = self.durable

    def _flush_often(self) -> None:
        while not self._stop.wait(FLUSH_INTERVAL_S):
            try:
                self.flush()
                if time.monotonic() - self._published_at > PUBLISH_INTERVAL_S:
                    self.publish()
            except ReplayError:
                if self._failure is not None:
                    return

    def close(self) -> None:
        """Make everything durable, publish the shape, release the lock."""
        if self._fd < 0:
            return
        self._stop.set()
        if self._flusher is not None:
            self._flusher.join()
        try:
            self.flush()
            self.publish()
        finally:
            self._rows.close()
            self._meta.close()
            with suppress(OSError):
                os.close(self._fd)
            self._fd = -1
