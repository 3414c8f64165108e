"""Verify a store: documents, commits, chunk files, checksums and the sense of every row. Changes nothing.

A byte that changed in a sealed chunk shows in the crc32c of its seal, one in the unsealed end of a stream in that of
the newest commit's block; a finding names the stream and the rows that the checksum covers.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from replay import commit, layout
from replay.chunks import ChunkFiles, check_chunk, chunk_path
from replay.errors import CorruptStoreError, StorageError
from replay.recovery import META_ROW_BYTES, block_crc
from replay.row_sense import RowSense
from replay.schema import StoreSpec
from replay.seals import SEAL_BYTES, read_seals
from replay.store import Store

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Finding:
    kind: str
    """document, commit, chunk, checksum, seal, block, row or counter."""
    message: str
    """What is wrong, where, what to do; one line."""
    file: str
    """The file concerned."""
    stream: str | None = None
    """Stream concerned; None: the store."""
    first_row: int | None = None
    """First row that cannot be trusted; None where no row is in doubt. Rows of a block that does not hold are named by
    its finding alone."""
    stop_row: int | None = None
    """One past the last of them."""


def verify(path: Path | str, *, progress: Progress | None = None) -> dict[str, Any]:
    """Check everything that a store's files say about themselves, beside live writers too.

    Returns:
        JSON-able: path, sound, findings (a list of `Finding` as dicts), rows, sealed_rows (under a seal),
        unsealed_rows (under no seal: those of a living or killed writer, or of a store older than seals), streams.

    Raises:
        StoreNotFoundError: there is no store.
        FormatVersionError: a newer Slipway wrote it.
    """
    path = Path(path)
    findings: list[Finding] = []
    counts = {"rows": 0, "sealed_rows": 0, "unsealed_rows": 0, "streams": 0}
    try:
        store = Store.open(path)
        names = store.stream_names()
    except CorruptStoreError as error:
        findings.append(Finding(kind="document", message=str(error), file=str(path / layout.GROUP)))
        names = []
    else:
        findings += check_document(store.path / layout.STREAMS / layout.GROUP, layout.group_document({}))
    checks = [StreamCheck(store, name) for name in names]
    total = sum(check.rows for check in checks)
    done = 0
    for check in checks:
        for rows in check.run():
            done += rows
            if progress is not None:
                progress(done, total)
        findings += check.findings
        counts["streams"] += 1
        counts["rows"] += check.rows
        counts["sealed_rows"] += check.sealed_rows
        counts["unsealed_rows"] += check.rows - check.sealed_rows
    return {
        "path": str(path),
        "sound": not findings,
        "findings": [asdict(finding) for finding in findings],
        **counts,
    }


def check_document(file: Path, expected: dict[str, Any], *, stream: str | None = None) -> list[Finding]:
    """Compare a zarr.json with what Slipway writes there; an array may have any length."""
    try:
        found = json.loads(file.read_bytes())
        shape = found.get("shape") if isinstance(found, dict) else None
        if "shape" in expected and isinstance(shape, list) and shape and isinstance(shape[0], int):
            expected = {**expected, "shape": [shape[0], *expected["shape"][1:]]}
        if found == expected:
            return []
        wrong = "says something else than Slipway writes"
    except FileNotFoundError:
        wrong = "is missing"
    except (OSError, ValueError) as error:
        wrong = f"cannot be read ({error})"
    message = f"{file} {wrong}: `slipway replay repair` writes it anew"
    return [Finding(kind="document", message=" ".join(message.split()), file=str(file), stream=stream)]


class StreamCheck:
    """The checks of one stream; `findings` fills while `run` goes on."""

    def __init__(self, store: Store, name: str) -> None:
        self.name = name
        self.folder = store.path / layout.STREAMS / name
        self.findings: list[Finding] = []
        self.sealed_rows = 0
        self._lost_from = sys.maxsize  # first row of a newest block that does not hold: the rows behind it go with it
        self._spec, self._chunk_rows = store.spec, store.chunk_rows
        self._row_files = ChunkFiles(self.folder / layout.ROWS, store.chunk_rows * 4 * store.spec.row_width)
        self._meta_files = ChunkFiles(self.folder / layout.META, store.chunk_rows * META_ROW_BYTES)
        self.slot = self._read_slot()

    @property
    def rows(self) -> int:
        """Committed rows that are kept."""
        return 0 if self.slot is None else self.slot.head - self.slot.tail

    def run(self) -> Iterator[int]:
        """Check; yields the rows done since the last yield."""
        self._check_documents()
        if self.slot is None:
            return
        seals = self._check_seals()
        self._check_block()
        sense = RowSense(self._spec)
        for chunk in range(self.slot.tail // self._chunk_rows, -(-self.slot.head // self._chunk_rows)):
            start = chunk * self._chunk_rows
            stop = min(start + self._chunk_rows, self.slot.head)
            if (arrays := self._read(chunk, start, stop)) is None:
                sense.lose_track()
            else:
                self._check_chunk(seals, sense, chunk, start, *arrays)
            yield stop - start
        self._check_counters(sense)

    def _add(self, kind: str, file: Path, message: str, rows: tuple[int, int] | None = None) -> None:
        first, stop = rows if rows is not None else (None, None)
        self.findings.append(
            Finding(kind=kind, message=message, file=str(file), stream=self.name, first_row=first, stop_row=stop)
        )

    def _check_documents(self) -> None:
        for array, expected in stream_documents(self._spec, self._chunk_rows, 0).items():
            if array == layout.SEALS and not (self.folder / array).exists():
                continue  # a store that is older than seals, or a stream without a full chunk
            self.findings += check_document(self.folder / array / layout.GROUP, expected, stream=self.name)

    def _read_slot(self) -> commit.Slot | None:
        path = self.folder / layout.COMMIT_FILE
        try:
            with path.open("rb") as file:
                slot = commit.read_newest(file.fileno(), path)
                data = path.read_bytes()
                # Beside a live writer a slot can be caught in motion: only one that stays wrong is damaged.
                wrong = {0, 1}
                for _ in range(10):
                    wrong &= {k for k, raw in enumerate(commit.read_raw(file.fileno())) if commit.decode(raw) is None}
        except (OSError, CorruptStoreError) as error:
            self._add("commit", path, f"{path}: no commit can be read ({error}): `slipway replay repair` rebuilds it")
            return None
        if len(data) != commit.COMMIT_BYTES:
            self._add("commit", path, f"{path} has {len(data)} bytes instead of {commit.COMMIT_BYTES}")
        for place in (0, 1):
            rest = data[place * commit.SLOT_BYTES + commit.USED_BYTES : (place + 1) * commit.SLOT_BYTES]
            never = slot.sequence == 0 and place == 1
            if (place in wrong and not never) or any(rest):
                self._add("commit", path, f"{path}: commit slot {place} is damaged; `slipway replay repair` renews it")
        return slot

    def _check_seals(self) -> dict[int, tuple[int, int, int]]:
        # Read raw first: what is there now must still be there when it is decoded, while a live writer adds more.
        written = [
            (file, int(file.parent.name) * layout.SEALS_A_FILE + at // SEAL_BYTES)
            for file in (self.folder / layout.SEALS / "c").glob("[0-9]*/0")
            for data in [file.read_bytes()]
            for at in range(0, len(data), SEAL_BYTES)
            if any(data[at : at + SEAL_BYTES])
        ]
        try:
            seals = read_seals(self.folder)
        except StorageError as error:
            self._add("seal", self.folder / layout.SEALS, str(error))
            return {}
        for file, chunk in written:
            if chunk not in seals:
                self._add("seal", file, f"{file}: the seal of chunk {chunk} is damaged: its rows go unchecked")
        return {chunk: (seal.rows, seal.rows_crc, seal.meta_crc) for chunk, seal in seals.items()}

    def _read(self, chunk: int, start: int, stop: int) -> tuple[NDArray[np.float32], NDArray[np.int64]] | None:
        """Rows and meta rows [start, stop) of a chunk; None, with a finding, where a file is not whole."""
        parts: list[bytes] = []
        for array, width in ((layout.ROWS, 4 * self._spec.row_width), (layout.META, META_ROW_BYTES)):
            file = chunk_path(self.folder / array, chunk)
            try:
                check_chunk(file, self._chunk_rows * width)
                with file.open("rb") as opened:
                    parts.append(opened.read((stop - start) * width))
            except (CorruptStoreError, OSError) as error:
                if not self._evicted(start):
                    self._add("chunk", file, f"rows {start} to {stop} of stream {self.name!r}: {error}", (start, stop))
                return None
        rows = np.frombuffer(parts[0], np.float32).reshape(stop - start, -1)
        return rows, np.frombuffer(parts[1], np.int64).reshape(stop - start, -1)

    def _evicted(self, row: int) -> bool:
        """Whether a live writer has evicted the row since the check began."""
        path = self.folder / layout.COMMIT_FILE
        with path.open("rb") as file:
            return commit.read_newest(file.fileno(), path).tail > row

    def _check_chunk(
        self,
        seals: dict[int, tuple[int, int, int]],
        sense: RowSense,
        chunk: int,
        start: int,
        rows: NDArray[np.float32],
        meta: NDArray[np.int64],
    ) -> None:
        sealed, *crcs = seals.get(chunk, (0, 0, 0))
        broken = False
        if 0 < sealed <= len(rows):
            self.sealed_rows += sealed
            for array, values, crc in ((layout.ROWS, rows, crcs[0]), (layout.META, meta, crcs[1])):
                if google_crc32c.value(np.ascontiguousarray(values[:sealed])) != crc and start < self._lost_from:
                    broken = True
                    file = chunk_path(self.folder / array, chunk)
                    message = f"{file}: rows {start} to {start + sealed} of stream {self.name!r} have changed since "
                    message += "they were written (crc32c): `slipway replay repair` saves the others"
                    self._add("checksum", file, message, (start, start + sealed))
        for what, first, end in sense.check(start, rows, meta):
            stop = min(end, self._lost_from)
            if first < stop and not broken:  # else the checksum has said so of the whole chunk
                file = chunk_path(self.folder / layout.ROWS, chunk)
                self._add("row", file, f"rows {first} to {stop} of stream {self.name!r}: {what}", (first, stop))

    def _check_block(self) -> None:
        slot, path = self.slot, self.folder / layout.COMMIT_FILE
        assert slot is not None
        try:
            crc = block_crc(slot, self._row_files, self._meta_files, self._spec, self._chunk_rows)
        except CorruptStoreError:
            return  # the chunk has its own finding
        if crc != slot.block_crc:
            self._lost_from = slot.block_start
            where = (slot.block_start, slot.head)
            message = f"rows {where[0]} to {where[1]} of stream {self.name!r} are not those that were committed "
            message += "(crc32c of the newest block): `slipway replay repair` drops them"
            self._add("block", path, message, where)

    def _check_counters(self, sense: RowSense) -> None:
        slot, path = self.slot, self.folder / layout.COMMIT_FILE
        assert slot is not None
        counted = (slot.steps - slot.evicted_steps, slot.broken - slot.evicted_broken)
        if sense.complete and self._lost_from > slot.head and counted != (sense.steps, sense.broken):
            message = f"{path}: counts {counted[0]} steps, {counted[1]} of them without a successor, the rows hold "
            self._add("counter", path, message + f"{sense.steps} and {sense.broken}: `slipway replay repair` recounts")


def stream_documents(spec: StoreSpec, chunk_rows: int, length: int) -> dict[str, dict[str, Any]]:
    """The zarr.json of a stream's group ("") and arrays, by folder; rows and meta `length` long."""
    return {
        "": layout.group_document({}),
        layout.ROWS: layout.rows_document(spec, chunk_rows, length),
        layout.META: layout.meta_document(chunk_rows, length),
        layout.COMMIT: layout.commit_document(),
        layout.SEALS: layout.seals_document(-(-length // chunk_rows)),
    }
