"""StoreReader: every committed row of one store or several, mapped, and followed as it grows.

Ordering invariant. `refresh` reads the commit slots first and maps what they promise afterwards; rows below a slot's
head never change, though eviction may take the oldest away. The result is one immutable `RowIndex`, swapped in whole: a
sampler thread that took the old one goes on safely while another thread refreshes, because evicted chunks stay mapped
for as long as an index that was built before lives. Whoever uses physical indices holds on to their index.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from replay import commit, layout
from replay.chunks import chunk_path, pieces
from replay.errors import CorruptStoreError, EvictedError, SamplerStateError, SchemaError
from replay.mapping import RowSpace, read_meta, row_space
from replay.recovery import first_look
from replay.schema import META_COLUMNS

if TYPE_CHECKING:
    from replay.store import Store


@dataclass(frozen=True)
class Span:
    """The candidates of one stream: rows row .. row + count - 1 are candidates start .. start + count - 1."""

    row: int
    start: int
    count: int


@dataclass(frozen=True)
class RowIndex:
    """Where the candidates for sampling are: every committed row that has a committed successor in its stream.

    Candidates are numbered 0 .. size - 1, stream after stream (by store, then name), row after row. Segments of equal
    address arithmetic translate a number into a physical index of the RowSpace.
    """

    size: int
    """Number of candidates."""
    starts: NDArray[np.int64]
    """First candidate of each segment, [S]."""
    shift: NDArray[np.int64]
    """Physical index minus candidate number, [S]."""
    step: NDArray[np.int64]
    """Physical distance from a row to its successor, [S]: 1 except from the last row of a chunk to a slot elsewhere."""
    heads: dict[str, int]
    """Head of each stream that has rows."""
    spans: dict[str, Span]
    """Where the candidates of each stream that has any are, in the order of the candidates."""

    def pairs(self, candidates: NDArray[np.int64], out: NDArray[np.int64]) -> None:
        """Physical indices of rows and successors, interleaved: candidates [B] to out [2B]."""
        if len(self.starts) == 1:
            np.add(candidates, self.shift[0], out=out[::2])
            np.add(out[::2], self.step[0], out=out[1::2])
        else:
            segment = self.starts.searchsorted(candidates, side="right") - 1
            np.add(candidates, self.shift[segment], out=out[::2])
            np.add(out[::2], self.step[segment], out=out[1::2])


@dataclass
class _Stream:
    key: str
    order: tuple[int, str]
    folder: Path
    fd: int
    raw: tuple[bytes, bytes] = (b"", b"")
    slot: commit.Slot | None = None
    first_chunk: int = 0
    slots: list[int] = field(default_factory=list)  # of chunks first_chunk, first_chunk + 1, ...
    runs: list[tuple[int, int]] = field(default_factory=list)  # (first row, physical index minus row)
    head: int = 0
    tail: int = 0


class StoreReader:
    """Read committed rows of stores that share one layout. Any number of readers, in any process, without locks."""

    def __init__(self, stores: Sequence[Store], *, space: RowSpace | None = None) -> None:
        """Map everything committed so far.

        Raises:
            SchemaError: the stores' rows do not fit together.
            CorruptStoreError: a chunk or commit file is missing or damaged.
        """
        first = stores[0]
        for store in stores[1:]:
            same = (first.spec.layout_fingerprint, first.spec.info, first.chunk_rows)
            if same != (store.spec.layout_fingerprint, store.spec.info, store.chunk_rows):
                raise SchemaError(
                    f"{store.path} and {first.path} differ in layout, info columns or chunk rows: not mixable"
                )
        self.spec = first.spec
        self._stores = tuple(stores)
        self._chunk_rows = first.chunk_rows
        self._space = space if space is not None else row_space(first.chunk_rows, first.spec.row_width)
        self._streams: dict[str, _Stream] = {}
        self._listed: list[tuple[int, float]] = [(-1, 0.0)] * len(stores)
        self._fds: list[int] = []
        self._finalizer = weakref.finalize(self, _close_all, self._fds)
        self._evicted: list[tuple[list[int], list[weakref.ref[RowIndex]]]] = []
        self._indices: list[weakref.ref[RowIndex]] = []
        self.index = self._build_index()
        self.refresh()

    @property
    def description(self) -> str:
        """The stores' paths, for messages."""
        return ", ".join(str(store.path) for store in self._stores)

    @property
    def num_rows(self) -> int:
        """Committed rows seen at the last refresh."""
        return sum(stream.head - stream.tail for stream in self._streams.values())

    @property
    def num_steps(self) -> int:
        """Rows that could be sampled at the last refresh without pinned heads."""
        return sum(stream.slot.sampleable for stream in self._streams.values() if stream.slot is not None)

    @property
    def heads(self) -> dict[str, int]:
        """Rows committed a stream, as of the last refresh."""
        return self.index.heads

    def refresh(self, heads: Mapping[str, int] | None = None) -> bool:
        """See what has been committed since; about a microsecond a stream when nothing has.

        Args:
            heads: show exactly these heads instead of the newest (to replay a sampler's past).

        Returns:
            Whether anything changed.

        Raises:
            CorruptStoreError: a promised chunk is missing, or a commit file is damaged.
            SamplerStateError: a pinned head is ahead of the store.
        """
        changed = self._list_streams()
        for stream in self._streams.values():
            raw = commit.read_raw(stream.fd)
            if raw != stream.raw:
                path = stream.folder / layout.COMMIT_FILE
                slot = commit.newest(raw) or commit.read_newest(stream.fd, path)
                if stream.slot is None and commit.newest(raw) is not None:
                    try:
                        slot = first_look(raw, stream.folder, self.spec, self._chunk_rows)
                    except CorruptStoreError:
                        if commit.read_raw(stream.fd) == raw:
                            raise
                        # else a live writer went on, and may have evicted what we looked for
                if stream.slot is None or slot.sequence > stream.slot.sequence:
                    stream.slot = self._follow(stream, slot)
                stream.raw = raw
            if stream.slot is None:
                continue
            head = stream.slot.head if heads is None else heads.get(stream.key, 0)
            if head > stream.slot.head:
                raise SamplerStateError(
                    f"the saved state knows {head} rows of stream {stream.key!r}, {stream.folder} has "
                    f"{stream.slot.head}: use the store that belongs to the state"
                )
            tail = min(stream.slot.tail, head)
            if (head, tail) != (stream.head, stream.tail):
                stream.head, stream.tail = head, tail
                changed = True
        if heads is not None and (unknown := [k for k, head in heads.items() if head and k not in self._streams]):
            raise SamplerStateError(f"the saved state knows streams that the store lacks: {', '.join(sorted(unknown))}")
        if changed:
            self.index = self._build_index()
        if self._evicted:
            self._unmap()
        return changed

    def blocks(self, stream: str | None = None) -> Iterator[tuple[str, int, NDArray[np.float32]]]:
        """Iterate over (stream, first row, rows [n, W]) in row order up to the last refresh.

        The rows are views; of rows that are evicted later, until the next refresh.
        """
        for key in self._streams if stream is None else [stream]:
            each = self._streams[key]
            for chunk, within, count in pieces(each.tail, each.head, self._chunk_rows):
                rows = self._space.chunk(each.slots[chunk - each.first_chunk])[within : within + count]
                yield key, chunk * self._chunk_rows + within, rows

    def rows(self, stream: str, start: int, stop: int) -> NDArray[np.float32]:
        """Rows [stop - start, W] of one stream, a copy."""
        each = self._within(stream, start, stop)
        numbers = np.arange(start, stop)
        slots = np.asarray(each.slots, np.int64)[numbers // self._chunk_rows - each.first_chunk]
        out = np.empty((stop - start, self.spec.row_width), np.float32)
        self._space.take(slots * self._chunk_rows + numbers % self._chunk_rows, out)
        return out

    def meta(self, stream: str, start: int, stop: int) -> NDArray[np.int64]:
        """Meta rows [stop - start, 5] of one stream (columns: `replay.schema.META_COLUMNS`), a copy.

        Raises:
            EvictedError: they have been evicted since the last refresh.
        """
        each = self._within(stream, start, stop)
        parts = [np.empty((0, len(META_COLUMNS)), np.int64)]
        for chunk, within, count in pieces(start, stop, self._chunk_rows):
            try:
                parts.append(read_meta(chunk_path(each.folder / layout.META, chunk), within, count, len(META_COLUMNS)))
            except CorruptStoreError:
                tail = commit.read_newest(each.fd, each.folder / layout.COMMIT_FILE).tail
                if tail <= chunk * self._chunk_rows + within:
                    raise
                raise EvictedError(
                    f"rows {start} to {stop} of stream {stream!r} have been evicted since the last refresh: refresh"
                ) from None
        return np.concatenate(parts)

    def take(self, physical: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        """Gather rows by physical index (from `RowIndex.pairs`) into out [n, W], C-contiguous."""
        self._space.take(physical, out)

    def count_sampleable(self) -> int:
        """Count, by reading them, the rows that can be sampled at the present heads."""
        valid, first = self.spec.offsets["valid"], self.spec.offsets["first"]
        count, previous, was_waiting = 0, "", False
        for key, _, rows in self.blocks():
            starts, waiting = rows[:, first] > 0, rows[:, valid] > 0
            count += int((waiting[:-1] & ~starts[1:]).sum())
            count += int(was_waiting and previous == key and not starts[0])
            previous, was_waiting = key, bool(waiting[-1])
        return count

    def close(self) -> None:
        """Close the commit files. Mapped memory goes when its last view goes."""
        self._finalizer()

    def _within(self, stream: str, start: int, stop: int) -> _Stream:
        each = self._streams.get(stream)
        if each is None or not each.tail <= start <= stop <= each.head:
            present = "no such stream" if each is None else f"rows {each.tail} to {each.head}"
            raise IndexError(f"rows {start} to {stop} of stream {stream!r} asked for, the reader sees {present}")
        return each

    def _list_streams(self) -> bool:
        found = False
        for number, store in enumerate(self._stores):
            folder = store.path / layout.STREAMS
            try:
                changed_ns = folder.stat().st_mtime_ns
            except OSError as error:
                raise CorruptStoreError(
                    f"{folder} cannot be read ({error.strerror}): restore it from a copy of the store"
                ) from error
            listed_ns, listed_at = self._listed[number]
            # A folder changed within the clock's granularity of our last look may have changed after it.
            if changed_ns == listed_ns and listed_at - changed_ns / 1e9 > 0.1:
                continue
            self._listed[number] = (changed_ns, time.time())
            for name in store.stream_names():
                key = name if len(self._stores) == 1 else f"{number}/{name}"
                if key not in self._streams:
                    path = folder / name / layout.COMMIT_FILE
                    layout.check_stream_document(folder / name, self.spec)
                    try:
                        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                    except OSError as error:
                        raise CorruptStoreError(
                            f"{path} cannot be opened ({error.strerror}): {layout.repair_advice(path)}"
                        ) from error
                    self._fds.append(fd)
                    self._streams[key] = _Stream(key, (number, name), folder / name, fd)
                    found = True
        if found:
            self._streams = dict(sorted(self._streams.items(), key=lambda item: item[1].order))
        return found

    def _follow(self, stream: _Stream, slot: commit.Slot) -> commit.Slot:
        """Map what a commit promises; returns it, or a newer one where an eviction overtook us."""
        while True:
            try:
                self._map(stream, slot)
                return slot
            except CorruptStoreError:
                newer = commit.read_newest(stream.fd, stream.folder / layout.COMMIT_FILE)
                if newer.tail == slot.tail:
                    raise
                slot = newer

    def _map(self, stream: _Stream, slot: commit.Slot) -> None:
        first_chunk = slot.tail // self._chunk_rows
        if first_chunk > stream.first_chunk:
            gone = first_chunk - stream.first_chunk
            if stream.slots[:gone]:
                self._evicted.append((stream.slots[:gone], list(self._indices)))
            stream.first_chunk, stream.slots = first_chunk, stream.slots[gone:]
            stream.runs = []
            for chunk, number in enumerate(stream.slots, first_chunk):
                self._extend_runs(stream, chunk, number)
        mapped = stream.first_chunk + len(stream.slots)
        for chunk in range(mapped, -(-slot.head // self._chunk_rows)):
            number = self._space.add(chunk_path(stream.folder / layout.ROWS, chunk))
            stream.slots.append(number)
            self._extend_runs(stream, chunk, number)

    def _extend_runs(self, stream: _Stream, chunk: int, number: int) -> None:
        shift = (number - chunk) * self._chunk_rows
        if not stream.runs or stream.runs[-1][1] != shift:
            stream.runs.append((chunk * self._chunk_rows, shift))

    def _unmap(self) -> None:
        """Unmap evicted chunks that no index refers to any more: a sampler in another thread may still hold one."""
        kept = []
        for slots, indices in self._evicted:
            if any(index() is not None for index in indices):
                kept.append((slots, indices))
                continue
            for slot in slots:
                self._space.drop(slot)
        self._evicted = kept

    def _build_index(self) -> RowIndex:
        starts: list[int] = []
        shifts: list[int] = []
        steps: list[int] = []
        spans: dict[str, Span] = {}
        size = 0
        for stream in self._streams.values():
            last = stream.head - 1  # the newest row has no successor yet
            if last <= stream.tail:
                continue
            offset = size - stream.tail  # candidate number minus row
            for number, (row, shift) in enumerate(stream.runs):
                following = stream.runs[number + 1] if number + 1 < len(stream.runs) else None
                low = max(row, stream.tail)
                high = last if following is None else min(following[0] - 1, last)
                if low < high:
                    starts.append(low + offset)
                    shifts.append(shift - offset)
                    steps.append(1)
                if following is not None and stream.tail <= following[0] - 1 < last:
                    starts.append(following[0] - 1 + offset)
                    shifts.append(shift - offset)
                    steps.append(following[1] - shift + 1)
            spans[stream.key] = Span(stream.tail, size, last - stream.tail)
            size += last - stream.tail
        heads = {stream.key: stream.head for stream in self._streams.values() if stream.head}
        index = RowIndex(
            size, np.array(starts, np.int64), np.array(shifts, np.int64), np.array(steps, np.int64), heads, spans
        )
        self._indices = [*(each for each in self._indices if each() is not None), weakref.ref(index)]
        return index


def _close_all(fds: list[int]) -> None:
    while fds:
        os.close(fds.pop())
