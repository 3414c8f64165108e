"""Epochs: every row once, in a random order that is a function of its place, so that no permutation is stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replay.errors import SamplerStateError
from replay.reader import RowIndex
from replay.sampling.state import check_keys

ROUNDS = 8


def permute(places: NDArray[np.int64], size: int, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """A permutation of 0 .. size - 1 at the given places, chosen by the keys.

    A Feistel network (Luby and Rackoff 1988) over the least power of two that holds `size`, walked until the value
    lies below `size` (Black and Rogaway 2002).
    """
    bits = max(2, (size - 1).bit_length())
    low_bits = np.uint64((bits + 1) // 2)
    low_mask = np.uint64((1 << int(low_bits)) - 1)
    high_mask = np.uint64((1 << (bits // 2)) - 1)
    values = places.astype(np.uint64)
    walking = np.arange(len(values))
    while len(walking):
        high, low = values[walking] >> low_bits, values[walking] & low_mask
        for number, key in enumerate(keys):
            if number % 2:
                low = low ^ (_mix(high ^ key) & low_mask)
            else:
                high = high ^ (_mix(low ^ key) & high_mask)
        values[walking] = (high << low_bits) | low
        walking = walking[values[walking] >= size]
    return values.astype(np.int64)


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The output function of SplitMix64 (Steele, Lea and Flood 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


class Epochs:
    """Every sampleable row once an epoch, epoch after epoch; a batch may end one and begin the next.

    An epoch has the rows that were there when it began; later ones come with the next. Rows that were evicted
    meanwhile are passed over.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self.epoch = -1
        """Number of the epoch that was drawn from last; -1 before the first draw."""
        self._place = 0
        self._size = 0
        self._bounds: dict[str, tuple[int, int]] = {}
        self._keys = np.zeros(ROUNDS, np.uint64)

    def draw(self, index: RowIndex, count: int) -> NDArray[np.int64]:
        """Candidates [count]: the next ones."""
        out = np.empty(count, np.int64)
        filled = 0
        while filled < count:
            if self._place == self._size:
                self._begin(index)
            stop = min(self._place + count - filled, self._size)
            found = self._present(index, permute(np.arange(self._place, stop), self._size, self._keys))
            self._place = stop
            out[filled : filled + len(found)] = found
            filled += len(found)
        return out

    def redraw(self, index: RowIndex, rejected: NDArray[np.int64]) -> NDArray[np.int64]:
        """The next ones; what cannot be sampled is passed over."""
        return self.draw(index, len(rejected))

    def _begin(self, index: RowIndex) -> None:
        self.epoch += 1
        self._place, self._size = 0, index.size
        self._bounds = {key: (span.row, span.count) for key, span in index.spans.items()}
        self._keys = self._rng.integers(0, 1 << 63, ROUNDS, np.uint64)

    def _present(self, index: RowIndex, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """From the numbers that candidates had when the epoch began to those they have now."""
        starts = np.cumsum([0, *(count for _, count in self._bounds.values())])[:-1]
        stream = starts.searchsorted(numbers, side="right") - 1
        shifts, lows = np.zeros(len(starts), np.int64), np.full(len(starts), np.iinfo(np.int64).max)
        for s, (key, (row, _)) in enumerate(self._bounds.items()):
            if key in index.spans:
                span = index.spans[key]
                shifts[s] = row - span.row + span.start - starts[s]
                lows[s] = span.start
        present = numbers + shifts[stream]
        return present[present >= lows[stream]]

    def state_dict(self) -> dict[str, Any]:
        """Epoch, place in it, its key, and the rows of each stream that it has."""
        return {
            "epoch": self.epoch,
            "place": self._place,
            "keys": [int(key) for key in self._keys],
            "rows": {key: list(bounds) for key, bounds in self._bounds.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on in the middle of the saved epoch.

        Raises:
            SamplerStateError: the state is not one of epochs.
        """
        check_keys(state, ("epoch", "place", "keys", "rows"), "epochs")
        bounds = {key: (int(row), int(count)) for key, (row, count) in state["rows"].items()}
        size = sum(count for _, count in bounds.values())
        if len(state["keys"]) != ROUNDS or not 0 <= state["place"] <= size:
            raise SamplerStateError(
                f"the saved epoch is at {state['place']} of {size} rows with {len(state['keys'])} keys, "
                f"expected {ROUNDS} keys and a place within: take an intact state"
            )
        self.epoch, self._place, self._size = int(state["epoch"]), int(state["place"]), size
        self._bounds, self._keys = bounds, np.array(state["keys"], np.uint64)
