"""Flagged rows: draws from the steps that a flag marks, alone or in one pool with all rows of another reader."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replay.errors import EmptyReplayError, EvictedError
from replay.reader import RowIndex, StoreReader
from replay.sampling.batch import Batch
from replay.sampling.state import check_keys
from replay.sampling.transitions import TransitionSampler

SCAN_ROWS = 65536


class Flagged:
    """Every sampleable step whose flag is set, equally often, with replacement. Each row is looked at once."""

    def __init__(self, reader: StoreReader, rng: np.random.Generator, flag: str) -> None:
        """`flag`: a flag or info column of the rows, e.g. `intervention`."""
        self._reader, self._rng = reader, rng
        self._flag = reader.spec.offsets[flag]
        self._name = flag
        self._found: dict[str, tuple[int, list[NDArray[np.int64]]]] = {}
        self._index: RowIndex | None = None
        self._candidates = np.zeros(0, np.int64)

    def count(self, index: RowIndex) -> int:
        """How many there are."""
        if index is not self._index:
            parts = [self._within(index, key) for key in index.spans]
            self._candidates = np.concatenate(parts) if parts else np.zeros(0, np.int64)
            self._index = index
        return len(self._candidates)

    def draw(self, index: RowIndex, count: int) -> NDArray[np.int64]:
        """Candidates [count]; EmptyReplayError where no step is flagged."""
        if self.count(index) == 0:
            raise EmptyReplayError(
                f"no step of {self._reader.description} is marked {self._name}: add some and refresh the reader"
            )
        return self._candidates[self._rng.integers(0, len(self._candidates), count)]

    def redraw(self, index: RowIndex, rejected: NDArray[np.int64]) -> NDArray[np.int64]:
        """Candidates [len(rejected)]."""
        return self.draw(index, len(rejected))

    def _within(self, index: RowIndex, key: str) -> NDArray[np.int64]:
        """Candidates of one stream, among rows that are in the index now."""
        span = index.spans[key]
        stop = span.row + span.count
        at, found = self._found.get(key, (span.row, []))
        at = max(at, span.row)
        valid, first = self._reader.spec.offsets["valid"], self._reader.spec.offsets["first"]
        while at < stop:
            end = min(stop, at + SCAN_ROWS)
            try:
                rows = self._reader.rows(key, at, end + 1)  # and the successor of the last
            except EvictedError:  # since the last refresh, which leaves these rows out of the next index
                at = end
                continue
            good = (rows[:-1, self._flag] > 0) & (rows[:-1, valid] > rows[1:, first])
            if good.any():
                found.append(at + np.flatnonzero(good))
            at = end
        self._found[key] = (at, found)
        if not found:
            return np.zeros(0, np.int64)
        marked = np.concatenate(found)
        found[:] = [marked]
        # A pinned reader shows less than was looked at before, an evicting one begins later.
        marked = marked[(marked >= span.row) & (marked < stop)]
        return marked - span.row + span.start

    def state_dict(self) -> dict[str, Any]:
        """Nothing beside the generator: what is flagged is in the rows."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Check that there is nothing."""
        check_keys(state, (), "a selection of flagged rows")


class PooledSampler(TransitionSampler):
    """All rows of one sampler and the flagged rows of another reader as one pool: each row equally often.

    So corrections by a human, which stand among the online rows, count as demonstrations too.
    """

    def __init__(self, base: TransitionSampler, reader: StoreReader, flag: str) -> None:
        """Draws with `base`'s generator and selection; `reader` gives the rows whose `flag` is set."""
        known = base.returns_to_go
        super().__init__(
            base.reader,
            base.batch_size,
            base.selection,
            rng=base._rng,
            n_step=base.n_step,
            gamma=base.gamma,
            returns_to_go=known,
        )
        self._flagged = Flagged(reader, self._rng, flag)
        self._extra = TransitionSampler(
            reader,
            base.batch_size,
            self._flagged,
            rng=self._rng,
            n_step=base.n_step,
            gamma=base.gamma,
            returns_to_go=None if known is None else known.over(reader),
        )

    def fill(self, batch: Batch) -> None:
        """Draw into a batch that this sampler, or the mixture it is part of, made."""
        flagged = self._flagged.count(self._extra.reader.index)
        number = int(self._rng.binomial(len(batch), flagged / (flagged + self.reader.index.size))) if flagged else 0
        if number < len(batch):
            super().fill(batch[number:])
        if number:
            self._extra.fill(batch[:number])

    def state_dict(self) -> dict[str, Any]:
        """Both samplers' states, JSON-able."""
        return {"all": super().state_dict(), "flagged": self._extra.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where the state was taken.

        Raises:
            SamplerStateError: the state of another kind of sampler, or heads ahead of the store.
        """
        check_keys(state, ("all", "flagged"), "a pooled sampler")
        super().load_state_dict(state["all"])
        self._extra.load_state_dict(state["flagged"])
