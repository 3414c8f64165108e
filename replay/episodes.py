"""Episodes of a store, found from the flags of its rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replay.errors import EvictedError
from replay.reader import RowIndex, StoreReader

BLOCK_ROWS = 65536
COLUMNS = ("start", "length", "returns", "terminated", "truncated", "interrupted")


@dataclass(frozen=True, kw_only=True)
class Episode:
    """T steps with the T + 1 observations around them. Arrays are copies."""

    observations: NDArray[np.float32]
    """[T + 1, O]"""
    actions: NDArray[np.float32]
    """[T, A], environment units."""
    rewards: NDArray[np.float32]
    """[T], raw."""
    terminated: bool
    """Ended in the task's sense."""
    truncated: bool
    """Ended from outside, by a limit."""
    interrupted: bool
    """Cut by a fault or shutdown, lost its writer, or is still running."""
    info: dict[str, NDArray[np.float32]]
    """[T] for each info column."""
    policy_version: NDArray[np.int64]
    """[T], version of the policy that acted."""
    intervention: NDArray[np.bool_]
    """[T], a human acted."""
    synthetic: NDArray[np.bool_]
    """[T], not from the environment."""
    stream: str
    """Stream that holds the episode."""
    episode_id: int
    """Number within the stream."""


@dataclass(frozen=True, kw_only=True)
class EpisodeTable:
    """One line an episode, E lines, in the order of streams and rows; only those with a sampleable step."""

    stream: tuple[str, ...]
    """[E]"""
    start: NDArray[np.int64]
    """[E], first row in the stream."""
    length: NDArray[np.int64]
    """[E], steps T >= 1; the episode occupies T + 1 rows."""
    returns: NDArray[np.float64]
    """[E], sum of raw rewards."""
    terminated: NDArray[np.bool_]
    """[E]"""
    truncated: NDArray[np.bool_]
    """[E]"""
    interrupted: NDArray[np.bool_]
    """[E], cut, abandoned by a dead writer, or still running."""


Lines = dict[str, NDArray[Any]]  # column of an EpisodeTable to [E]


class _StreamScan:
    """The ended episodes of one stream below row `scanned`, and where the running one began."""

    def __init__(self, row: int) -> None:
        self.scanned = row
        self.open_at: int | None = None
        self.ended: list[Lines] = []
        self.running: Lines | None = None

    def follow(self, reader: StoreReader, stream: str, head: int) -> None:
        """Read the rows from the running episode's first one to `head`; what it sums does not depend on the calls."""
        at = reader.spec.offsets
        columns = [at["first"], at["valid"], at["terminated"], at["truncated"], at["interrupted"]]
        begin = self.scanned if self.open_at is None else self.open_at
        rewards, flags, origin = np.empty(0), np.empty((0, 5), np.bool_), begin
        for _, start, rows in reader.blocks(stream):
            stop = min(len(rows), head - start)
            for low in range(max(0, begin - start), stop, BLOCK_ROWS):
                block = rows[low : min(low + BLOCK_ROWS, stop)]
                if start + low != origin + len(flags):  # an eviction overtook us: that episode has lost its head
                    rewards, flags, origin = rewards[:0], flags[:0], start + low
                rewards = np.concatenate([rewards, block[:, at["reward"]].astype(np.float64)])
                flags = np.concatenate([flags, block[:, columns] > 0])
                starts = np.flatnonzero(flags[:, 0])
                if len(starts) > 1:
                    last = int(starts[-1])
                    self.ended.append(_lines(rewards[:last], flags[:last], starts[:-1], origin))
                drop = int(starts[-1]) if len(starts) else len(flags)  # rows of an episode without its head count not
                rewards, flags, origin = rewards[drop:], flags[drop:], origin + drop
        self.scanned, self.open_at, self.running = head, None, None
        if len(flags):
            line = _lines(rewards, flags, np.zeros(1, np.int64), origin)
            if flags[-1, 1]:
                self.open_at, self.running = origin, line
            else:
                self.ended.append(line)
        self.ended = [_joined(self.ended)] if self.ended else []


def _lines(rewards: NDArray[np.float64], flags: NDArray[np.bool_], starts: NDArray[np.int64], origin: int) -> Lines:
    """Lines of the episodes that begin at `starts` [E] and fill the arrays; only those with a sampleable step."""
    lasts = np.append(starts[1:], len(flags)) - 1
    waiting = flags[lasts, 1]  # a last row that is a step never got its successor: its reward does not count
    rewards = rewards.copy()
    rewards[lasts[waiting]] = 0.0
    interrupted = waiting | flags[lasts, 4]
    keep = lasts > starts
    return {
        "start": (starts + origin)[keep],
        "length": (lasts - starts)[keep],
        "returns": np.add.reduceat(rewards, starts)[keep],
        "terminated": (flags[lasts - 1, 2] & ~interrupted)[keep],
        "truncated": (flags[lasts - 1, 3] & ~interrupted)[keep],
        "interrupted": interrupted[keep],
    }


def _joined(parts: list[Lines]) -> Lines:
    return {name: np.concatenate([part[name] for part in parts]) for name in COLUMNS}


def _kept(lines: Lines, row: int) -> Lines:
    """The episodes that begin at `row` or behind."""
    kept = lines["start"] >= row
    return lines if kept.all() else {name: column[kept] for name, column in lines.items()}


class EpisodeIndex:
    """The episodes that a reader sees, found once and followed as it grows.

    Memory is that of a line a kept episode, and of two columns of the rows from the running episode's first one on.
    """

    def __init__(self, reader: StoreReader) -> None:
        self._reader = reader
        self._scans: dict[str, _StreamScan] = {}

    def lines(self, index: RowIndex) -> Iterator[tuple[str, Lines]]:
        """Columns of the episodes below the heads of an index of the reader, by stream, in the order of rows.

        Episodes that lost their first row by eviction are left out.
        """
        for stream, span in index.spans.items():
            head = index.heads[stream]
            scan = self._scans.get(stream)
            if scan is None or scan.scanned > head or (scan.open_at is not None and scan.open_at < span.row):
                scan = self._scans[stream] = _StreamScan(span.row)
            if scan.scanned < head:
                scan.scanned = max(scan.scanned, span.row)
                scan.follow(self._reader, stream, head)
            scan.ended = [_kept(lines, span.row) for lines in scan.ended]  # evicted ones never come back
            for lines in [*scan.ended, *([scan.running] if scan.running is not None else [])]:
                yield stream, _kept(lines, span.row)


def episode_table(reader: StoreReader) -> EpisodeTable:
    """Find all episodes by their flags, as of the reader's last refresh, but for those that lost their first row."""
    empty = (*[np.empty(0, np.int64)] * 2, np.empty(0), *[np.empty(0, np.bool_)] * 3)
    names: list[str] = []
    parts: list[Lines] = [dict(zip(COLUMNS, empty, strict=True))]
    for stream, lines in EpisodeIndex(reader).lines(reader.index):
        names += [stream] * len(lines["start"])
        parts.append(lines)
    return EpisodeTable(stream=tuple(names), **_joined(parts))


def iterate_episodes(reader: StoreReader) -> Iterator[Episode]:
    """Read one episode after the other; those evicted meanwhile are passed over."""
    table = episode_table(reader)
    for e in range(len(table.stream)):
        try:
            yield read_episode(reader, table, e)
        except EvictedError:
            continue


def read_episode(reader: StoreReader, table: EpisodeTable, e: int) -> Episode:
    """Episode in line `e` of a table of the reader. Raises EvictedError where it has been evicted meanwhile."""
    spec, stream = reader.spec, table.stream[e]
    start, steps = int(table.start[e]), int(table.length[e])
    rows = reader.rows(stream, start, start + steps + 1)
    meta = reader.meta(stream, start, start + steps)
    scalar = {name: rows[:-1, at] for name, at in spec.offsets.items() if name not in ("observation", "action")}
    return Episode(
        observations=rows[:, spec.fields["observation"]].copy(),
        actions=rows[:-1, spec.fields["action"]].copy(),
        rewards=scalar["reward"].copy(),
        terminated=bool(table.terminated[e]),
        truncated=bool(table.truncated[e]),
        interrupted=bool(table.interrupted[e]),
        info={name: scalar[name].copy() for name in spec.info},
        policy_version=meta[:, 0].copy(),
        intervention=scalar["intervention"] > 0,
        synthetic=scalar["synthetic"] > 0,
        stream=stream,
        episode_id=int(meta[0, 4]),
    )
