"""Selections: which candidates of a RowIndex a sampler draws. The uniform one, and what all have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from replay.reader import RowIndex, StoreReader
from replay.sampling.state import check_keys


class Selection(Protocol):
    """Draws candidates by the passed generator. A candidate that turns out no step is handed back to `redraw`."""

    def draw(self, index: RowIndex, count: int) -> NDArray[np.int64]:
        """Candidates [count]; `index.size` is at least 1.

        Raises:
            EmptyReplayError: this selection has nothing to draw from.
        """

    def redraw(self, index: RowIndex, rejected: NDArray[np.int64]) -> NDArray[np.int64]:
        """As many candidates in the place of those that cannot be sampled."""

    def state_dict(self) -> dict[str, Any]:
        """What is needed beside the generator and the heads, JSON-able."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the state was taken; the reader is pinned to its heads already.

        Raises:
            SamplerStateError: the state does not fit.
        """


class Uniform:
    """Every candidate equally often, with replacement."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def draw(self, index: RowIndex, count: int) -> NDArray[np.int64]:
        """Candidates [count]."""
        # Half the time of rng.integers; a candidate's share is off by less than index.size / 2^53 of itself.
        return (self._rng.random(count) * index.size).astype(np.int64)

    def redraw(self, index: RowIndex, rejected: NDArray[np.int64]) -> NDArray[np.int64]:
        """Candidates [len(rejected)]."""
        return self.draw(index, len(rejected))

    def state_dict(self) -> dict[str, Any]:
        """Nothing beside the generator."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Check that there is nothing."""
        check_keys(state, (), "a uniform selection")


def sampleable(reader: StoreReader, index: RowIndex, candidates: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which candidates [n] are steps followed by a row of their own episode, by reading them."""
    pairs = np.empty(2 * len(candidates), np.int64)
    index.pairs(candidates, pairs)
    rows = np.empty((len(pairs), reader.spec.row_width), np.float32)
    reader.take(pairs, rows)
    return rows[::2, reader.spec.offsets["valid"]] > rows[1::2, reader.spec.offsets["first"]]
