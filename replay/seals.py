"""Seals: checksums of a stream's chunks, by which `slipway replay verify` finds a byte that changed since.

`seals` is a Zarr v3 uint64 array [chunks, 4] beside `rows` and `meta`; row i holds four words about chunk i: rows
sealed, crc32c of the bytes of those rows, crc32c of the bytes of their meta rows, crc32c of the three words before.
A chunk is sealed when it is full; the last, partial chunk when its writer closes. Checksums are extended from what was
appended, never read back from a file that may have been damaged meanwhile. Seals are advice: neither recovery nor
readers need them, and chunks without one (a store of an older Slipway, a killed writer) are merely unchecked.
"""

from __future__ import annotations

import os
import struct
import threading
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from replay import layout
from replay.chunks import ChunkFiles
from replay.errors import StorageError

SEAL_BYTES = 32
_READ_ROWS = 4096  # rows read at once to resume: bounds memory
_WORDS = struct.Struct("<3Q")
_CHECK = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Seal:
    """What the first `rows` rows of a chunk were when they were appended."""

    chunk: int
    rows: int
    rows_crc: int
    """crc32c of the bytes of these rows."""
    meta_crc: int
    """crc32c of the bytes of their meta rows."""

    def encode(self) -> bytes:
        """The four words on disk."""
        words = _WORDS.pack(self.rows, self.rows_crc, self.meta_crc)
        return words + _CHECK.pack(google_crc32c.value(words))


def read_seals(stream_folder: Path) -> dict[int, Seal]:
    """The seals of a stream by chunk; damaged and missing entries are left out.

    Raises:
        StorageError: the operating system refuses to read them.
    """
    seals = {}
    for path in (stream_folder / layout.SEALS / "c").glob("[0-9]*/0"):
        try:
            data = path.read_bytes()
        except OSError as error:
            raise StorageError(f"{path} cannot be read ({error.strerror}): check its permissions") from error
        for i in range(len(data) // SEAL_BYTES):
            words = data[SEAL_BYTES * i : SEAL_BYTES * (i + 1) - _CHECK.size]
            rows, rows_crc, meta_crc = _WORDS.unpack(words)
            check = _CHECK.unpack_from(data, SEAL_BYTES * i + _WORDS.size)[0]
            if rows and check == google_crc32c.value(words):
                chunk = int(path.parent.name) * layout.SEALS_A_FILE + i
                seals[chunk] = Seal(chunk, rows, rows_crc, meta_crc)
    return seals


class ChunkSealer:
    """The seals of one stream, as its writer extends and writes them. Not thread-safe; see the calls."""

    def __init__(
        self, folder: Path, chunk_rows: int, rows: ChunkFiles, meta: ChunkFiles, row_bytes: int, meta_bytes: int
    ) -> None:
        """Use `resume` before anything else."""
        self._folder = folder
        self._chunk_rows = chunk_rows
        self._rows, self._meta = rows, meta
        self._row_bytes, self._meta_bytes = row_bytes, meta_bytes
        self._files = ChunkFiles(folder / layout.SEALS, layout.SEALS_A_FILE * SEAL_BYTES)
        self._creating = threading.Lock()
        self._full: list[Seal] = []
        self._rows_crc = self._meta_crc = 0
        self._written = Seal(-1, 0, 0, 0)
        self.count = 0

    def resume(self, head: int, block_start: int) -> None:
        """Go on at row `head`, where the last block of the writer before began at `block_start`.

        Seals of rows that recovery gave up are erased, a truncated file is filled up with none. A chunk that was filled
        but, because of a kill, not sealed lies in the last block, and is sealed from its file.

        Raises:
            StorageError: the operating system refuses.
        """
        seals = read_seals(self._folder)
        size = layout.SEALS_A_FILE * SEAL_BYTES
        for path in (self._folder / layout.SEALS / "c").glob("[0-9]*/0"):
            if path.stat().st_size < size:
                with path.open("r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, size)
        lost = [chunk for chunk, seal in seals.items() if chunk * self._chunk_rows + seal.rows > head]
        for chunk in lost:
            del seals[chunk]
            self._put(chunk, bytes(SEAL_BYTES))
        if lost:
            self.synchronise()
        self.count = max(seals, default=-1) + 1
        index, within = divmod(head, self._chunk_rows)
        for chunk in range(min(block_start, head) // self._chunk_rows, index):
            seal = seals.get(chunk, Seal(chunk, 0, 0, 0))
            if seal.rows < self._chunk_rows:
                self._full.append(self._completed(seal, self._chunk_rows))
        self._written = seals.get(index, Seal(index, 0, 0, 0))
        seal = self._completed(self._written, within)
        self._rows_crc, self._meta_crc = seal.rows_crc, seal.meta_crc

    def _completed(self, seal: Seal, rows: int) -> Seal:
        """The seal extended to `rows` rows by what the files hold."""
        rows_crc, meta_crc, done = seal.rows_crc, seal.meta_crc, seal.rows
        while done < rows:
            n = min(_READ_ROWS, rows - done)
            data = self._rows.read(seal.chunk, done * self._row_bytes, n * self._row_bytes)
            rows_crc = google_crc32c.extend(rows_crc, data)
            data = self._meta.read(seal.chunk, done * self._meta_bytes, n * self._meta_bytes)
            meta_crc = google_crc32c.extend(meta_crc, data)
            done += n
        return Seal(seal.chunk, rows, rows_crc, meta_crc)

    def reserve(self, chunk: int, *, durable: bool) -> None:
        """Make sure that the seal of this chunk can be written.

        Raises:
            StorageError: no space.
        """
        document = self._folder / layout.SEALS / layout.GROUP
        with self._creating:
            try:
                if not document.exists():
                    document.parent.mkdir(exist_ok=True)
                    layout.write_atomic(document, layout.seals_document(self.count))
            except OSError as error:
                raise StorageError(f"cannot write {document} ({error.strerror}): free some space and go on") from error
        self._files.reserve(chunk // layout.SEALS_A_FILE, durable=durable)

    def extend(self, head: int, rows: NDArray[np.float32], meta: NDArray[np.int64]) -> None:
        """Account for rows [n, W] with meta [n, 5] that are appended at row `head`."""
        within = head % self._chunk_rows
        if within + len(rows) < self._chunk_rows:
            self._rows_crc = google_crc32c.extend(self._rows_crc, rows)
            self._meta_crc = google_crc32c.extend(self._meta_crc, meta)
            return
        done = 0
        while done < len(rows):
            chunk, within = divmod(head + done, self._chunk_rows)
            end = done + min(self._chunk_rows - within, len(rows) - done)
            if end > done:
                self._rows_crc = google_crc32c.extend(self._rows_crc, rows[done:end])
                self._meta_crc = google_crc32c.extend(self._meta_crc, meta[done:end])
            if within + end - done == self._chunk_rows:
                self._full.append(Seal(chunk, self._chunk_rows, self._rows_crc, self._meta_crc))
                self._rows_crc = self._meta_crc = 0
            done = end

    def take_full(self) -> list[Seal]:
        """Seals of the chunks that were filled since the last call, for `write`."""
        full, self._full = self._full, []
        return full

    def partial(self, head: int) -> list[Seal]:
        """The seal of the last, partial chunk, unless there is none or the file has it."""
        chunk, within = divmod(head, self._chunk_rows)
        seal = Seal(chunk, within, self._rows_crc, self._meta_crc)
        return [seal] if within and seal != self._written else []

    def write(self, seals: list[Seal]) -> None:
        """Write these seals; their rows are committed, and durable where the level promises it.

        Raises:
            StorageError: the operating system refuses; `take_full` gives them again.
        """
        try:
            for seal in seals:
                self._put(seal.chunk, seal.encode())
                self._written = seal
                self.count = max(self.count, seal.chunk + 1)
        except StorageError:
            self._full[:0] = seals
            raise

    def _put(self, chunk: int, data: bytes) -> None:
        index, at = divmod(chunk, layout.SEALS_A_FILE)
        self.reserve(chunk, durable=True)
        self._files.write(index, at * SEAL_BYTES, np.frombuffer(data, np.uint8))

    def synchronise(self) -> None:
        """Make what was written durable.

        Raises:
            StorageError: the disk failed.
        """
        try:
            self._files.synchronise(self._files.take_dirty())
        except OSError as error:
            raise StorageError(f"synchronising the seals of {self._folder} failed ({error.strerror})") from error

    def publish(self) -> None:
        """Republish `shape` in the array's zarr.json."""
        layout.write_atomic(self._folder / layout.SEALS / layout.GROUP, layout.seals_document(self.count))

    def close(self) -> None:
        """Close the open file."""
        self._files.close()
