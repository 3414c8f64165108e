"""Recency windows and weights: draws from ranges of candidates, by stream or by the source recorded with the rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replay.errors import EmptyReplayError, EvictedError, SchemaError
from replay.reader import RowIndex, StoreReader
from replay.sampling.selection import sampleable
from replay.sampling.state import check_keys
from replay.schema import META_COLUMNS

SCAN_ROWS = 65536
Weights = Mapping[str, float] | Mapping[int, float]


class Ranges:
    """Uniform within groups of rows, each group drawn with its weight.

    A weight is a share of the draws, whatever the group's size: a place whose row cannot be sampled is drawn again
    within its group. Groups without a sampleable row are left out until they have one, and so are streams and sources
    that no weight names.
    """

    def __init__(
        self,
        reader: StoreReader,
        rng: np.random.Generator,
        *,
        recent: int | None = None,
        streams: Mapping[str, float] | None = None,
        sources: Mapping[int, float] | None = None,
    ) -> None:
        """Draw from the last `recent` rows of each stream, or all; by weights of stream names or of source ids.

        Raises:
            SchemaError: a window of no rows, or weights that are no shares.
        """
        if recent is not None and recent < 1:
            raise SchemaError(f"recent is {recent}: the window needs at least 1 row")
        if streams is not None and sources is not None:
            raise SchemaError("weights of streams and of sources exclude each other: pass one of them")
        weights: Weights | None = streams if streams is not None else sources
        if weights is not None:
            values = np.array(list(weights.values()), np.float64)
            if not len(values) or not np.isfinite(values).all() or (values < 0).any() or not values.any():
                raise SchemaError(f"weights {dict(weights)} must be finite, at least 0 and not all 0")
        self._reader, self._rng = reader, rng
        self._recent, self._streams, self._sources = recent, streams, sources
        self._runs: dict[str, tuple[int, list[int], list[int | None]]] = {}
        self._index: RowIndex | None = None

    def draw(self, index: RowIndex, count: int) -> NDArray[np.int64]:
        """Candidates [count]; EmptyReplayError where no group has a sampleable row."""
        self._follow(index)
        if len(self._size) == 1:
            return self._candidates(self._rng.integers(0, self._size[0], count))
        group = self._cumulative.searchsorted(self._rng.random(count), side="right")
        return self._within(np.minimum(group, len(self._size) - 1))

    def redraw(self, index: RowIndex, rejected: NDArray[np.int64]) -> NDArray[np.int64]:
        """Candidates of the same groups, so that the weights hold whatever the groups reject."""
        self._follow(index)
        part = self._order[self._sorted.searchsorted(rejected, side="right") - 1]
        return self._within(self._group[part])

    def _within(self, group: NDArray[np.int64]) -> NDArray[np.int64]:
        return self._candidates(self._offset[group] + self._rng.integers(0, self._size[group]))

    def _candidates(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        part = self._begin.searchsorted(places, side="right") - 1
        return places + (self._start - self._begin)[part]

    def _follow(self, index: RowIndex) -> None:
        if index is self._index:
            return
        groups: dict[str | int | None, list[tuple[int, int]]] = {}
        for key, span in index.spans.items():
            row, stop = span.row, span.row + span.count
            if self._recent is not None:
                row = max(row, stop - self._recent)
            for low, high, group in self._split(key, span.row, row, stop):
                groups.setdefault(group, []).append((low - span.row + span.start, high - low))
        weights: Weights = self._streams or self._sources or {0: 1.0}
        named: list[tuple[float, list[tuple[int, int]]]] = []
        for name, weight in weights.items():
            ranges = groups.get(name, [])
            if weight > 0 and self._any_sampleable(index, ranges):
                named.append((float(weight), ranges))
        if not named:
            raise EmptyReplayError(
                f"nothing to sample in the chosen streams, sources or window of {self._reader.description}: it has the "
                f"streams {sorted(index.heads)}; add data and refresh the reader, or choose others"
            )
        parts = [(start, count, g) for g, (_, ranges) in enumerate(named) for start, count in ranges]
        self._start, counts, self._group = (np.array(column, np.int64) for column in zip(*parts, strict=True))
        self._begin = np.cumsum(counts) - counts
        self._size = np.bincount(self._group, counts).astype(np.int64)
        self._offset = np.cumsum(self._size) - self._size
        shares = np.array([weight for weight, _ in named])
        self._cumulative = np.cumsum(shares / shares.sum())
        self._order = np.argsort(self._start)
        self._sorted = self._start[self._order]
        self._index = index

    def _split(self, key: str, tail: int, row: int, stop: int) -> list[tuple[int, int, str | int | None]]:
        """Rows [row, stop) of a stream that begins at `tail` as (first, end, group)."""
        if self._sources is None:
            return [(row, stop, key if self._streams is not None else 0)]
        firsts, sources = self._source_runs(key, tail, stop)
        ends = [*firsts[1:], stop]
        clipped = [(max(a, row), min(b, stop), s) for a, b, s in zip(firsts, ends, sources, strict=True)]
        return [each for each in clipped if each[0] < each[1]]

    def _source_runs(self, key: str, row: int, stop: int) -> tuple[list[int], list[int | None]]:
        """First row and source of each run of equal sources from `row` on or before; meta rows are read once."""
        at, firsts, sources = self._runs.get(key, (row, [], []))
        at = max(at, row)
        column = META_COLUMNS.index("source_id")
        while at < stop:
            end = min(stop, at + SCAN_ROWS)
            try:
                block = self._reader.meta(key, at, end)[:, column]
            except EvictedError:  # since the last refresh: leave them out until the next one does
                firsts.append(at)
                sources.append(None)
                at = end
                continue
            for change in np.flatnonzero(np.diff(block, prepend=block[0] - 1)).tolist():
                if not sources or sources[-1] != block[change]:
                    firsts.append(at + change)
                    sources.append(int(block[change]))
            at += len(block)
        self._runs[key] = (at, firsts, sources)
        return firsts, sources

    def _any_sampleable(self, index: RowIndex, ranges: list[tuple[int, int]]) -> bool:
        for start, count in ranges:
            for low in range(start, start + count, 1024):
                candidates = np.arange(low, min(low + 1024, start + count))
                if sampleable(self._reader, index, candidates).any():
                    return True
        return False

    def state_dict(self) -> dict[str, Any]:
        """Nothing beside the generator."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Check that there is nothing."""
        check_keys(state, (), "a selection of ranges")
