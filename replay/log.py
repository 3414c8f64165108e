"""StreamLog: one append-only stream on disk under an exclusive lock, with its commit protocol and recovery.

Ordering invariant. A slot that says head = h is written only after every byte of the rows below h has been given to
the kernel (and, at level block, has reached the disk). So whoever sees the slot may read the rows. One commit is

    reserve chunks  ->  pwrite rows  ->  pwrite meta  ->  [block: fdatasync]  ->  pwrite the other slot  ->  [fdatasync]

where the chunk that comes next was reserved ahead, in the background. A flush (levels interval and process: background
thread, `sync`, `close`) is

    note head h, start a second checksum at h  ->  fdatasync the chunks written  ->  seals of the chunks filled below h
    ->  slot with block_start = h  ->  fdatasync the slot  ->  now and then: republish `shape` = h

The checksum in a slot covers [block_start, head), all that may not be on the disk yet. After a power loss a slot whose
block does not hold is passed over; rows below any slot's block_start are on the disk.
"""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Literal

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from replay import commit, layout
from replay.chunks import ChunkFiles, pieces
from replay.errors import ReplayError, StorageError
from replay.recovery import META_ROW_BYTES, claim, read_flags, recover
from replay.schema import StoreSpec
from replay.seals import ChunkSealer, Seal

Durability = Literal["process", "interval", "block"]
DURABILITIES: tuple[Durability, ...] = ("process", "interval", "block")
FLUSH_INTERVAL_S = 0.25
PUBLISH_INTERVAL_S = 1.0
NEVER = 1 << 62  # a head that no stream reaches


class StreamLog:
    """Commit rows to one stream and make them durable. Thread-safe; the lock file keeps other processes out."""

    def __init__(
        self,
        store: Path,
        name: str,
        spec: StoreSpec,
        chunk_rows: int,
        durability: Durability,
        *,
        locked: int | None = None,
    ) -> None:
        """Create the stream, or recover it and go on where it ended.

        Args:
            store: the store's folder.
            name: the stream's.
            spec: what its rows mean.
            chunk_rows: rows in a chunk file.
            durability: what survives, see `Store.writer`.
            locked: its commit file, where the caller has it open for writing and holds its lock, and goes on to.

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
        self._reserver: threading.Thread | None = None
        self._failure: str | None = None  # why only recovery can tell what the disk has
        self._committing = False  # stays true where a commit is broken off: only recovery can tell what came of it
        self._keep: tuple[int | None, int | None] = (None, None)
        self._evict_at = NEVER
        try:
            self._fd = claim(store, name, spec, chunk_rows, locked)
        except OSError as error:
            raise StorageError(f"cannot open stream {self._folder} for writing: {error.strerror}") from error
        try:
            fill = durability == "block"
            # Rows and meta lie in files of their own: synchronised side by side, they wait for the disk once.
            self._beside = ThreadPoolExecutor(1, "slipway-sync") if fill else None
            self._rows = ChunkFiles(self._folder / layout.ROWS, chunk_rows * self._row_bytes, fill=fill)
            self._meta = ChunkFiles(self._folder / layout.META, chunk_rows * META_ROW_BYTES, fill=fill)
            self._seals = ChunkSealer(self._folder, chunk_rows, self._rows, self._meta, self._row_bytes, META_ROW_BYTES)
            self._recover()
            if durability != "process":
                self.flush()
        except BaseException:
            os.close(self._fd)
            raise

    def _recover(self) -> None:
        slot = recover(self._fd, self._folder, self._rows, self._meta, self._spec, self._chunk_rows)
        self.tail, self.head = slot.tail, slot.head
        self._evicted = slot.evicted_steps, slot.evicted_broken, slot.evicted_episodes
        self.steps, self.broken, self.episodes, self.open = slot.steps, slot.broken, slot.episodes, slot.open
        self._sequence, self._epoch, self._pid = slot.sequence, slot.epoch + 1, os.getpid()
        if self._durability == "interval":
            self._pid |= commit.GROWING
        self.durable = 0
        self._reserve_at = slot.head - slot.head % self._chunk_rows + self._chunk_rows // 2
        for files in (self._rows, self._meta):
            files.adopt(-(-slot.head // self._chunk_rows))
        self._seals.resume(slot.head, max(slot.tail, slot.block_start))
        # Not yet durable where the writer before was killed: only the flush that follows may say so.
        self._block_start, self._crc = slot.block_start, (slot.block_crc & 0xFFFFFFFF, slot.block_crc >> 32)
        self._pending: tuple[int, int] | None = None
        self._published, self._published_seals = -1, 0
        self._published_at = time.monotonic()
        self._put_slot()
        self._drop_evicted()  # what a writer that was killed while evicting left

    # Committing

    def commit(
        self, rows: NDArray[np.float32], meta: NDArray[np.int64], *, steps: int, broken: int, episodes: int, open_: bool
    ) -> None:
        """Append rows [n, W] with meta [n, 5] in one commit; the other arguments change the stream's counters.

        Raises:
            StorageError: the disk is full or failed; nothing was committed.
        """
        with self._lock:
            self._check()
            self._put_rows(rows, meta)
            self._committing = True
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
            self._committing = False
            # The rows are committed, whatever comes: a later commit, `sync` or `close` tries these again.
            if self._durability != "interval":
                with suppress(StorageError):
                    self._seal(self._seals.take_full())
            if self._durability == "block" and time.monotonic() - self._published_at > PUBLISH_INTERVAL_S:
                with suppress(StorageError):
                    self._publish()
        if self.head >= self._reserve_at:
            self._reserve_ahead()
        if self._flusher is None and self._durability == "interval":
            self._flusher = threading.Thread(target=self._flush_often, name="slipway-flush", daemon=True)
            self._flusher.start()
        if self.head >= self._evict_at:
            with suppress(StorageError):
                self.evict(*self._keep)
            self._evict_at = (self.head // self._chunk_rows + 1) * self._chunk_rows

    def commit_block(self, rows: NDArray[np.float32], meta: NDArray[np.int64]) -> None:
        """Append rows [n, W], n ≥ 1, with meta [n, 5] in one commit, counted by their flags.

        Raises:
            StorageError: the disk is full or failed; nothing was committed.
        """
        first, valid = (rows[:, self._spec.offsets[flag]] > 0 for flag in ("first", "valid"))
        waiting = np.concatenate([[bool(self.open)], valid[:-1]])
        self.commit(
            rows,
            meta,
            steps=int(valid.sum()),
            broken=int((waiting & first).sum()),
            episodes=int(first.sum()),
            open_=bool(valid[-1]),
        )

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
            self._seals.reserve(needed, durable=durable)
        done = 0
        for index, within, n in pieces(self.head, self.head + count, self._chunk_rows):
            self._rows.write(index, within * self._row_bytes, rows[done : done + n])
            self._meta.write(index, within * META_ROW_BYTES, meta[done : done + n])
            done += n

    def _reserve_ahead(self) -> None:
        """Reserve the next chunk in the background, once this one is half full: no append waits for it."""
        if self._reserver is not None and self._reserver.is_alive():
            return
        index = -(-self.head // self._chunk_rows)
        self._reserve_at = index * self._chunk_rows + self._chunk_rows // 2
        self._reserver = threading.Thread(target=self._reserve, args=(index,), name="slipway-reserve", daemon=True)
        self._reserver.start()

    def _reserve(self, index: int) -> None:
        with suppress(ReplayError):  # the append that needs the chunk tries again, and says so
            for files in (self._rows, self._meta):
                files.reserve(index, durable=self._durability != "process")

    def _extend_checksum(self, rows: NDArray[np.float32], meta: NDArray[np.int64]) -> None:
        self._seals.extend(self.head, rows, meta)
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
                self.tail,
                self.head,
                self._block_start,
                rows_crc | meta_crc << 32,
                self._epoch,
                self.steps,
                self.broken,
                self.episodes,
                self.open,
                self._pid,
                *self._evicted,
            )
        )
        try:
            os.pwrite(self._fd, data, (sequence & 1) * commit.SLOT_BYTES)
        except OSError as error:
            # Whether the disk has the slot is unknown, and the counters have moved on: only recovery can tell.
            self._fail(error, "writing the commit slot of")

    # Retention

    def retain(self, steps: int | None, size: int | None) -> None:
        """Evict now, and from now on whenever a chunk has been filled; arguments as for `evict`."""
        self._keep = (steps, size)
        self._evict_at = 0

    def evict(self, steps: int | None, size: int | None) -> int:
        """Drop the oldest chunks that the capacity does not ask for; returns how many rows went.

        Ordering invariant. The rows before the new tail are counted, then both slots say the new tail and are on the
        disk, and only then are chunk files removed. So no slot that can survive a kill or a power loss promises a
        chunk that is gone, and what a kill leaves behind is removed when the stream is opened next.

        Args:
            steps: the newest steps that must stay; None: no such limit.
            size: most bytes of chunk files, those being written and reserved ahead included; None: no such limit.

        Raises:
            StorageError: the disk failed, or files could not be removed.
        """
        self.flush()
        with self._flush_lock, self._lock:
            self._check()
            # Rows that a recovery may have to check, [block_start, head), and the newest row always stay.
            limit = min(self._block_start, self.head - 1) // self._chunk_rows
            before, (counted, broken, episodes) = self.tail, self._evicted
            chunk_bytes = self._chunk_rows * (self._row_bytes + META_ROW_BYTES)
            written = self.head // self._chunk_rows + 1
            if self._evict_at < NEVER or self._reserver is not None:
                written += 1  # the next chunk is there before the next chance to evict
            tail = before
            while tail // self._chunk_rows < limit:
                kept = written - tail // self._chunk_rows
                stop = tail + self._chunk_rows
                valid, first = read_flags(self._rows, tail, stop + 1, self._spec, self._chunk_rows)
                going = int(valid[:-1].sum())
                too_many = steps is not None and self.steps - counted - going >= steps
                too_large = size is not None and kept * chunk_bytes > size
                if not (too_many or too_large):
                    break
                tail = stop
                counted += going
                broken += int((valid[:-1] & first[1:]).sum())
                episodes += int(first[:-1].sum())
            if tail == before:
                return 0
            self.tail, self._evicted = tail, (counted, broken, episodes)
            for _ in range(2):
                self._put_slot()
                self._synchronise_slot()
            self._drop_evicted()
            return tail - before

    def _drop_evicted(self) -> None:
        for files in (self._rows, self._meta):
            files.drop_below(self.tail // self._chunk_rows)

    # Durability

    def flush(self) -> None:
        """Make every row committed so far durable.

        Raises:
            StorageError: the disk failed; the stream takes no more rows.
        """
        with self._flush_lock:
            with self._lock:
                self._check()
                head = self.head
                if self.durable == head and self._block_start == head:
                    return
                rows, meta, filled = self._rows.take_dirty(), self._meta.take_dirty(), self._seals.take_full()
                self._pending = (0, 0)
            self._synchronise(rows, meta)
            self._seal(filled)  # before the slot: a chunk that a kill left without its seal lies in the slot's block
            with self._lock:
                if self._durability == "interval" or self.head == head:
                    self._block_start = head
                    self._crc = self._pending
                self._pending = None
                self._put_slot()
                self.durable = head
            self._synchronise_slot()

    def _seal(self, seals: list[Seal]) -> None:
        if seals:
            self._seals.write(seals)
            if self._durability != "process":
                self._seals.synchronise()

    def _synchronise(self, rows: dict[int, bool], meta: dict[int, bool]) -> None:
        try:
            if self._beside is None:
                self._rows.synchronise(rows)
                self._meta.synchronise(meta)
                return
            other = self._beside.submit(self._meta.synchronise, meta)
            try:
                self._rows.synchronise(rows)
            finally:
                other.result()
        except OSError as error:
            self._fail(error)
        except BaseException:  # a signal's: what was to be synchronised is forgotten
            self._failure = f"synchronising stream {self._folder} was broken off: open the stream again"
            raise

    def _synchronise_slot(self) -> None:
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            self._fail(error)

    def _check(self) -> None:
        """StorageError where memory and disk may differ: the next writer recovers the stream."""
        if self._failure is not None or self._committing:
            raise StorageError(
                self._failure or f"a commit to stream {self._folder} was broken off: open the stream again"
            )

    def _fail(self, error: OSError, doing: str = "synchronising") -> None:
        """After a failed fsync the kernel may have dropped the pages: nothing written later may claim otherwise.

        The error names no cause: one for which there was no space would pass for a full disk, that a caller waits on.
        """
        self._failure = (
            f"{doing} stream {self._folder} failed ({error.strerror}): check the disk, then open the stream again"
        )
        raise StorageError(self._failure) from None

    def publish(self) -> None:
        """Republish `shape` in the arrays' zarr.json, never beyond the durable head."""
        with self._flush_lock, self._lock:
            self._publish()

    def _publish(self) -> None:
        self._published_at = time.monotonic()
        try:
            if self._published_seals != self._seals.count:
                self._seals.publish()
                self._published_seals = self._seals.count
            if self._published == self.durable:
                return
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
        if self._reserver is not None:
            self._reserver.join()
        try:
            for files in (self._rows, self._meta):
                files.discard_from(-(-self.head // self._chunk_rows))
            self.flush()
            self._seal(self._seals.partial(self.head))
            self.publish()
        finally:
            self._seals.close()
            self._rows.close()
            self._meta.close()
            if self._beside is not None:
                self._beside.shutdown()
            with suppress(OSError):
                os.close(self._fd)
            self._fd = -1
