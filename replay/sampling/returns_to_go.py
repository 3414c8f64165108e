"""What followed each step in the data: discounted returns to the end of the episode, found as episodes end.

n candidates, T steps of an episode.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from replay.episodes import EpisodeIndex
from replay.errors import SchemaError
from replay.reader import RowIndex, StoreReader


@dataclass
class _Stream:
    """The ended episodes of one stream so far, in the order of rows: their first row, steps, and returns one by one."""

    starts: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    returns: list[NDArray[np.float32]] = field(default_factory=list)

    def drop_below(self, row: int) -> None:
        """Forget the episodes that begin before `row`: they have been evicted."""
        gone = bisect_left(self.starts, row)
        del self.starts[:gone], self.lengths[:gone], self.returns[:gone]


class ReturnsToGo:
    """G_t = r_t + gamma r_{t+1} + ... of rewards scale·r + shift, in episodes that terminated or were truncated.

    A terminated episode ends there. After a truncated one the last reward is taken to go on for ever, r / (1 - gamma):
    a cost per step would else look the smaller, the nearer the time limit. Nakamoto et al. (2023) do so for failed and
    endless tasks. Interrupted episodes, the running one and those that lost their head have no known return: NaN.
    """

    def __init__(self, reader: StoreReader, gamma: float, *, scale: float = 1.0, shift: float = 0.0) -> None:
        """SchemaError unless 0 <= gamma < 1."""
        if not 0.0 <= gamma < 1.0:
            raise SchemaError(f"gamma is {gamma}: returns to go need one in [0, 1)")
        self._reader, self._gamma, self._scale, self._shift = reader, gamma, scale, shift
        self._episodes = EpisodeIndex(reader)
        self._streams: dict[str, _Stream] = {}
        self._index: RowIndex | None = None

    def over(self, reader: StoreReader) -> ReturnsToGo:
        """The same returns of another reader's rows."""
        return ReturnsToGo(reader, self._gamma, scale=self._scale, shift=self._shift)

    def of(self, index: RowIndex, candidates: NDArray[np.int64]) -> NDArray[np.float32]:
        """Returns [n] of candidates [n] of an index of the reader."""
        self._follow(index)
        which = self._candidate.searchsorted(candidates, side="right") - 1
        step = candidates - self._candidate[which]
        known = (which >= 0) & (step < self._length[which])
        place = np.where(known, self._place[which] + step, 0)
        out: NDArray[np.float32] = np.where(known, self._values[place], np.float32(math.nan))
        return out

    def _follow(self, index: RowIndex) -> None:
        if index is self._index:
            return
        for key, lines in self._episodes.lines(index):
            stream = self._streams.setdefault(key, _Stream())
            seen = stream.starts[-1] if stream.starts else -1
            new = (lines["terminated"] | lines["truncated"]) & (lines["start"] > seen)
            if new.any():
                self._read(key, stream, lines["start"][new], lines["length"][new], lines["terminated"][new])
        candidate, length, values = [np.array([-1], np.int64)], [np.zeros(1, np.int64)], [np.zeros(1, np.float32)]
        for key, span in index.spans.items():
            stream = self._streams.get(key, _Stream())
            stream.drop_below(span.row)
            starts, lengths = np.array(stream.starts, np.int64), np.array(stream.lengths, np.int64)
            # An index of the past, as of a resumed sampler, must not know how its running episode will end.
            within = (starts >= span.row) & (starts + lengths < index.heads[key])
            candidate.append(starts[within] - span.row + span.start)
            length.append(lengths[within])
            values += [stream.returns[i] for i in np.flatnonzero(within)]
        self._candidate, self._length = np.concatenate(candidate), np.concatenate(length)
        self._values = np.concatenate(values)
        self._place = 1 + np.cumsum(self._length) - self._length
        self._index = index

    def _read(
        self, key: str, stream: _Stream, starts: NDArray[np.int64], lengths: NDArray[np.int64], ended: NDArray[np.bool_]
    ) -> None:
        """Take in new episodes [E] of one stream, which lie in the order of rows."""
        first, stop = int(starts[0]), int(starts[-1] + lengths[-1])
        at = self._reader.spec.offsets["reward"]
        raw = np.empty(stop - first, np.float64)
        for _, begin, rows in self._reader.blocks(key):
            low, high = max(first, begin), min(stop, begin + len(rows))
            if low < high:
                raw[low - first : high - first] = rows[low - begin : high - begin, at]
        rewards = self._scale * raw + self._shift
        for start, length, terminated in zip(starts.tolist(), lengths.tolist(), ended.tolist(), strict=True):
            stream.starts.append(start)
            stream.lengths.append(length)
            stream.returns.append(self._discounted(rewards[start - first : start - first + length], terminated))

    def _discounted(self, rewards_T: NDArray[np.float64], terminated: bool) -> NDArray[np.float32]:
        following = 0.0 if terminated else float(rewards_T[-1]) / (1.0 - self._gamma)
        out = []
        for reward in reversed(rewards_T.tolist()):
            following = reward + self._gamma * following
            out.append(following)
        return np.array(out[::-1], np.float32)
