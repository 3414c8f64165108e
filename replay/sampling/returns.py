"""Draws by return: steps of episodes with a higher return more often, or of the best episodes alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replay.episodes import EpisodeIndex
from replay.errors import EmptyReplayError, SchemaError
from replay.reader import RowIndex, StoreReader
from replay.sampling.state import check_keys


class ReturnWeighted:
    """A step of an episode with return G is drawn with a weight of exp(z / temperature), z = (G - min) / (max - min).

    The return-weighted trajectories of Hong et al. (2023), with the weight given to each step: a large temperature
    draws uniformly, a small one from the best episodes alone. Only episodes that ended by themselves or by a limit
    count; the running one, interrupted ones and those that lost their head by eviction have no known return.
    """

    def __init__(self, reader: StoreReader, rng: np.random.Generator, temperature: float) -> None:
        """SchemaError where the temperature is no positive number."""
        if not (math.isfinite(temperature) and temperature > 0):
            raise SchemaError(f"return_temperature is {temperature}: it must be a finite number above 0")
        self._reader, self._rng, self._temperature = reader, rng, temperature
        self._episodes = EpisodeIndex(reader)
        self._index: RowIndex | None = None

    def draw(self, index: RowIndex, count: int) -> NDArray[np.int64]:
        """Candidates [count]; EmptyReplayError where no episode has ended."""
        self._follow(index)
        chosen = self._cumulative.searchsorted(self._rng.random(count) * self._cumulative[-1], side="right")
        episode = np.minimum(chosen, len(self._length) - 1)
        drawn: NDArray[np.int64] = self._start[episode] + self._rng.integers(0, self._length[episode])
        return drawn

    def redraw(self, index: RowIndex, rejected: NDArray[np.int64]) -> NDArray[np.int64]:
        """As `draw`."""
        return self.draw(index, len(rejected))

    def _follow(self, index: RowIndex) -> None:
        if index is self._index:
            return
        self._start, self._length, every = _whole_episodes(self._reader, self._episodes, index)
        z = (every - every.max()) / (float(np.ptp(every)) or 1.0)
        self._cumulative = np.cumsum(self._length * np.exp(z / self._temperature))
        self._index = index

    def state_dict(self) -> dict[str, Any]:
        """Nothing beside the generator."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Check that there is nothing."""
        check_keys(state, (), "a return-weighted selection")


class BestEpisodes:
    """Steps of the best episodes, each equally often: as few of these as hold `fraction` of all steps.

    The percentile behaviour cloning of Chen et al. (2021, arXiv:2106.01345) learns from such steps. The best have the
    highest return; of equal ones those with fewer steps come first (where each episode ends at its goal with a return
    of 1, the quickest), then those that were written first. As for `ReturnWeighted` only episodes that ended by
    themselves or by a limit count, among all steps too.
    """

    def __init__(self, reader: StoreReader, rng: np.random.Generator, fraction: float) -> None:
        """SchemaError where the fraction is not in (0, 1]."""
        if not 0.0 < fraction <= 1.0:
            raise SchemaError(f"top_fraction is {fraction}: it must lie in (0, 1]")
        self._reader, self._rng, self._fraction = reader, rng, fraction
        self._episodes = EpisodeIndex(reader)
        self._index: RowIndex | None = None

    def draw(self, index: RowIndex, count: int) -> NDArray[np.int64]:
        """Candidates [count]; EmptyReplayError where no episode has ended."""
        if index is not self._index:
            start, length, every = _whole_episodes(self._reader, self._episodes, index)
            best = np.lexsort((length, -every))
            kept = int(np.cumsum(length[best]).searchsorted(self._fraction * int(length.sum()))) + 1
            self._start, self._ends = start[best[:kept]], np.cumsum(length[best[:kept]])
            self._begins = self._ends - length[best[:kept]]
            self._index = index
        place = (self._rng.random(count) * self._ends[-1]).astype(np.int64)
        episode = self._ends.searchsorted(place, side="right")
        drawn: NDArray[np.int64] = self._start[episode] + place - self._begins[episode]
        return drawn

    def redraw(self, index: RowIndex, rejected: NDArray[np.int64]) -> NDArray[np.int64]:
        """As `draw`."""
        return self.draw(index, len(rejected))

    def state_dict(self) -> dict[str, Any]:
        """Nothing beside the generator."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Check that there is nothing."""
        check_keys(state, (), "a selection of the best episodes")


def _whole_episodes(
    reader: StoreReader, episodes: EpisodeIndex, index: RowIndex
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """First candidate, steps and return of each episode [E] that ended; EmptyReplayError where none has."""
    starts, lengths, returns = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0)]
    for stream, lines in episodes.lines(index):
        whole = lines["terminated"] | lines["truncated"]
        span = index.spans[stream]
        starts.append(lines["start"][whole] + (span.start - span.row))
        lengths.append(lines["length"][whole])
        returns.append(lines["returns"][whole])
    start = np.concatenate(starts)
    if not len(start):
        raise EmptyReplayError(
            f"no episode of {reader.description} has ended, terminated or truncated: returns are not known "
            "yet; add episodes and refresh the reader, or sample uniformly"
        )
    return start, np.concatenate(lengths), np.concatenate(returns)
