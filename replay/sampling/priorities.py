"""Prioritised draws (Schaul et al. 2016): rows in proportion to priorities that the learner gives back."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replay.errors import EmptyReplayError, SamplerStateError, SchemaError
from replay.reader import RowIndex, StoreReader
from replay.sampling.batch import Batch
from replay.sampling.selection import sampleable
from replay.sampling.state import check_keys
from replay.sampling.sum_tree import SLAB, SumTree

LEAST = 1e-6  # added to priorities, so that no row is lost for ever
SCAN_ROWS = 16384


class Prioritised:
    """Rows with probability P(i) = p_i^alpha / sum, one from each of B equal parts of the sum (their section 3.3).

    New rows have the highest priority seen. Importance weights are (N P(i))^-beta over the largest of the batch; beta
    goes linearly to 1 over `beta_steps` batches. The memory is about 8.5 bytes a row.
    """

    def __init__(
        self,
        reader: StoreReader,
        rng: np.random.Generator,
        *,
        alpha: float = 0.6,
        beta: float = 0.4,
        beta_steps: int | None = None,
    ) -> None:
        """SchemaError for exponents outside [0, 1] or no steps."""
        if not (0.0 <= alpha <= 1.0 and 0.0 <= beta <= 1.0) or (beta_steps is not None and beta_steps < 1):
            raise SchemaError(
                f"alpha {alpha} and beta {beta} must lie in [0, 1], and beta_steps {beta_steps} be at least 1"
            )
        self._reader, self._rng = reader, rng
        self._alpha, self._beta, self._beta_steps = alpha, beta, beta_steps
        self._reset([], 1.0, 0)

    def _reset(self, slabs: list[tuple[str, int] | None], highest: float, drawn: int) -> None:
        self._tree = SumTree()
        self._tree.resize(len(slabs))
        self._slabs = slabs  # (stream, row // SLAB) that has each slab of the tree; None: free
        self._known: dict[str, tuple[int, int]] = {}  # rows of each stream that the tree has
        self._highest, self._drawn, self._count = highest, drawn, 0
        self._index: RowIndex | None = None
        self._leaves = np.zeros(0, np.int64)

    @property
    def beta(self) -> float:
        """The exponent of the next batch's weights."""
        if self._beta_steps is None:
            return self._beta
        return self._beta + (1.0 - self._beta) * min(1.0, self._drawn / self._beta_steps)

    def draw(self, index: RowIndex, count: int) -> NDArray[np.int64]:
        """Candidates [count], all of them sampleable."""
        self._follow(index)
        shares = (np.arange(count) + self._rng.random(count)) / count
        self._leaves = self._tree.draw(shares)
        drawn: NDArray[np.int64] = self._leaves + self._shifts[self._leaves // SLAB]
        return drawn

    def redraw(self, index: RowIndex, rejected: NDArray[np.int64]) -> NDArray[np.int64]:
        """Never called: what is drawn can be sampled."""
        raise AssertionError(f"{len(rejected)} prioritised rows cannot be sampled")

    def annotate(self, batch: Batch) -> None:
        """Write rows and importance weights of the last draw."""
        assert batch.rows is not None and batch.weights is not None
        batch.rows[:] = self._leaves
        masses = self._tree.leaves[self._leaves]
        batch.weights[:] = (masses / masses.min()) ** -self.beta
        self._drawn += 1

    def update(self, rows: NDArray[np.int64], priorities: NDArray[np.floating[Any]]) -> None:
        """See `PrioritisedSampler.update_priorities`."""
        leaves, values = np.asarray(rows), np.asarray(priorities, np.float64)
        if leaves.shape != values.shape or leaves.ndim != 1 or leaves.dtype.kind != "i":
            raise SchemaError(
                f"priorities {list(values.shape)} for rows {leaves.dtype} {list(leaves.shape)}: both must be [n], "
                "the rows those of a batch"
            )
        ours = leaves >= 0
        leaves, values = leaves[ours], values[ours]
        if not len(leaves):
            return
        if leaves.max() >= len(self._tree.leaves):
            raise SchemaError(f"row {leaves.max()} is none of this sampler's: pass the rows of its own batches")
        if not np.isfinite(values).all() or values.min() < 0:
            raise SchemaError("priorities must be finite and at least 0: pass absolute TD errors")
        self._highest = max(self._highest, float(values.max()) + LEAST)
        present = self._tree.leaves[leaves] > 0  # evicted rows have no mass, and get none
        self._tree.assign(leaves[present], self._mass(values[present] + LEAST))

    def _mass(self, priorities: Any) -> NDArray[np.float64]:
        return np.asarray(priorities, np.float64) ** self._alpha

    def _follow(self, index: RowIndex) -> None:
        if index is self._index:
            return
        new = float(self._mass(self._highest))
        for stream in [*self._known, *(key for key in index.spans if key not in self._known)]:
            span = index.spans.get(stream)
            low, high = (span.row, span.row + span.count) if span is not None else (0, 0)
            had_low, had_high = self._known.get(stream, (low, low))
            for row, stop in ((had_low, min(low, had_high)), (max(high, had_low), had_high)):
                for at, end in self._pieces(row, stop):
                    self._tree.assign_range(self._leaf(stream, at), np.zeros(end - at))
            for at, end in self._pieces(max(low, had_high), high):
                assert span is not None
                steps = sampleable(self._reader, index, np.arange(at, end) + (span.start - span.row))
                self._tree.assign_range(self._leaf(stream, at), np.where(steps, new, 0.0))
            self._known[stream] = (low, high)
        self._slabs = [
            slab if slab is not None and self._known.get(slab[0], (0, 0))[0] < (slab[1] + 1) * SLAB else None
            for slab in self._slabs
        ]
        self._shifts = np.zeros(len(self._slabs), np.int64)
        for number, slab in enumerate(self._slabs):
            if slab is not None and slab[0] in index.spans:
                span = index.spans[slab[0]]
                self._shifts[number] = span.start - span.row + (slab[1] - number) * SLAB
        if not self._tree.total > 0:
            raise EmptyReplayError(
                f"nothing to sample among {self._reader.num_rows} rows of {self._reader.description}: a step can be "
                "sampled once its successor is committed; add data and refresh the reader"
            )
        self._index = index

    def _pieces(self, row: int, stop: int) -> list[tuple[int, int]]:
        """Rows [row, stop) in pieces that lie in one slab and are small enough to read at once."""
        edges = [row, *range((row // SCAN_ROWS + 1) * SCAN_ROWS, stop, SCAN_ROWS), stop] if row < stop else []
        return list(pairwise(edges))

    def _leaf(self, stream: str, row: int) -> int:
        """The leaf of a row; its stream takes a free slab, or a new one, where it has none there."""
        slab = (stream, row // SLAB)
        if slab not in self._slabs:
            if None not in self._slabs:
                self._slabs.append(None)
                self._tree.resize(len(self._slabs))
            self._slabs[self._slabs.index(None)] = slab
        return self._slabs.index(slab) * SLAB + row % SLAB

    def state_dict(self) -> dict[str, Any]:
        """Highest priority, batches drawn, and which 65,536 rows each slab of the priorities has."""
        slabs = [None if slab is None else list(slab) for slab in self._slabs]
        return {"highest": self._highest, "drawn": self._drawn, "slabs": slabs}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the state was taken, every row with the highest priority until `load_priorities`."""
        check_keys(state, ("highest", "drawn", "slabs"), "a prioritised selection")
        slabs = [None if slab is None else (str(slab[0]), int(slab[1])) for slab in state["slabs"]]
        self._reset(slabs, float(state["highest"]), int(state["drawn"]))

    def priorities(self) -> NDArray[np.float64]:
        """Masses p^alpha of all leaves, a copy."""
        return self._tree.leaves.copy()

    def load_priorities(self, priorities: NDArray[np.float64]) -> None:
        """See `PrioritisedSampler.load_priorities`."""
        masses = np.asarray(priorities)
        if masses.shape != (len(self._slabs) * SLAB,) or masses.dtype != np.float64 or not (masses >= 0).all():
            raise SamplerStateError(
                f"saved priorities {masses.dtype} {list(masses.shape)} do not fit {len(self._slabs)} slabs of {SLAB} "
                "rows: load the state that was saved with them first"
            )
        self._follow(self._reader.index)
        present = self._tree.leaves > 0
        self._tree.assign_range(0, np.where(present & (masses > 0), masses, self._tree.leaves))
