"""Samplers of transitions, of one step or n steps, over any selection.

B batch, K batches a block, W row width. A packed batch is float32 [B, 2W]: each line a row and the row after it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from replay.errors import SchemaError
from replay.reader import RowIndex, StoreReader
from replay.sampling.base import Sampler
from replay.sampling.batch import Batch
from replay.sampling.priorities import Prioritised
from replay.sampling.returns_to_go import ReturnsToGo
from replay.sampling.selection import Selection, Uniform
from replay.sampling.windows import gather


class TransitionSampler(Sampler[Batch]):
    """Transitions of a reader, drawn by a selection.

    Over n steps (Sutton and Barto 2018, section 7.1) the reward is sum over k < m of gamma^k r_k, the discount gamma^m
    and the next observation that of m steps on, where m = n, or less where the episode or the committed rows end
    earlier. The discount is 0 where the last of the m steps terminated; truncation and interruption keep gamma^m.
    """

    def __init__(
        self,
        reader: StoreReader,
        batch_size: int,
        selection: Selection,
        *,
        rng: np.random.Generator,
        n_step: int = 1,
        gamma: float | None = None,
        returns_to_go: ReturnsToGo | None = None,
    ) -> None:
        """Make a sampler; `rng` must be the selection's generator too. `returns_to_go` fills `batch.returns_to_go`.

        Raises:
            SchemaError: sizes or a gamma that make no sense.
        """
        super().__init__(reader, batch_size, selection, rng=rng)
        if n_step < 1:
            raise SchemaError(f"n_step is {n_step}: it must be at least 1")
        if gamma is None and n_step > 1:
            raise SchemaError(f"n_step is {n_step} without a gamma: rewards of several steps need a discount")
        if gamma is not None and not 0.0 <= gamma <= 1.0:
            raise SchemaError(f"gamma is {gamma}: it must lie in [0, 1]")
        self.n_step = n_step
        self.gamma = gamma
        self.returns_to_go = returns_to_go
        self.prioritised = isinstance(selection, Prioritised)
        self._pairs = np.empty(2 * batch_size, np.int64)

    @property
    def _shape(self) -> tuple[int, int]:
        return self.batch_size, 2 * self.spec.row_width

    def _around(self, packed: NDArray[np.float32]) -> Batch:
        return Batch.around(
            packed,
            self.spec,
            discounts=self.gamma is not None,
            priorities=self.prioritised,
            returns=self.returns_to_go is not None,
        )

    def fill(self, batch: Batch) -> None:
        """Draw into a batch that this sampler, or the mixture it is part of, made."""
        index = self._index()
        candidates = self.selection.draw(index, len(batch))
        fill = self._fill_steps if self.gamma is None else self._fill_n_steps
        candidates = fill(batch, index, candidates)
        batch.forget()
        if self.returns_to_go is not None and batch.returns_to_go is not None:
            batch.returns_to_go[:] = self.returns_to_go.of(index, candidates)
        if isinstance(self.selection, Prioritised):
            self.selection.annotate(batch)
        self._heads = index.heads

    def _fill_steps(self, batch: Batch, index: RowIndex, candidates: NDArray[np.int64]) -> NDArray[np.int64]:
        """Fill from these candidates, or others where they are no steps; which they were in the end."""
        packed, width, pairs = batch.packed, self.spec.row_width, self._pairs
        if len(pairs) != 2 * len(packed):
            pairs = np.empty(2 * len(packed), np.int64)
        valid, first = self.spec.offsets["valid"], width + self.spec.offsets["first"]
        index.pairs(candidates, pairs)
        self.reader.take(pairs, packed.reshape(-1, width))
        good = packed[:, valid] > packed[:, first]
        if np.count_nonzero(good) != len(good):  # a fraction of good.all()'s time
            places = np.flatnonzero(~good)
            # Once in place, with the rows that are read anyway: with long episodes that is all there is to do.
            again = self.selection.redraw(index, candidates[places])
            drawn = self._gather_steps(index, again)
            bad = drawn[:, valid] <= drawn[:, first]
            if bad.any():
                again[bad] = self._draw_again(index, again[bad])
                drawn = self._gather_steps(index, again)
            packed[places] = drawn
            candidates = candidates.copy()
            candidates[places] = again
        return candidates

    def _gather_steps(self, index: RowIndex, candidates: NDArray[np.int64]) -> NDArray[np.float32]:
        pairs = np.empty(2 * len(candidates), np.int64)
        index.pairs(candidates, pairs)
        packed = np.empty((len(candidates), 2 * self.spec.row_width), np.float32)
        self.reader.take(pairs, packed.reshape(len(pairs), -1))
        return packed

    def _fill_n_steps(self, batch: Batch, index: RowIndex, candidates: NDArray[np.int64]) -> NDArray[np.int64]:
        """As `_fill_steps`."""
        assert self.gamma is not None and batch.discounts is not None and batch.steps is not None
        n, width, at = self.n_step, self.spec.row_width, self.spec.offsets
        rows = np.empty((len(batch), n + 1, width), np.float32)
        mask = gather(self.reader, index, candidates, 0, n, rows)
        if not mask[:, 0].all():
            places = np.flatnonzero(~mask[:, 0])
            again = np.empty((len(places), n + 1, width), np.float32)
            candidates = candidates.copy()
            candidates[places] = self._draw_again(index, candidates[places])
            mask[places] = gather(self.reader, index, candidates[places], 0, n, again)
            rows[places] = again
        taken = mask.sum(axis=1)
        batch.steps[:] = taken
        lines = np.arange(len(batch))
        packed = batch.packed
        packed[:, :width] = rows[:, 0]
        packed[:, width:] = rows[lines, taken]
        powers = self.gamma ** np.arange(n + 1, dtype=np.float64)
        packed[:, at["reward"]] = np.where(mask, rows[:, :n, at["reward"]], 0.0) @ powers[:n]
        for flag in ("terminated", "truncated"):
            packed[:, at[flag]] = rows[lines, taken - 1, at[flag]]
        np.multiply(powers[taken], 1.0 - packed[:, at["terminated"]], out=batch.discounts, casting="same_kind")
        return candidates


class PrioritisedSampler(TransitionSampler):
    """Transitions drawn by priorities that the learner gives back."""

    selection: Prioritised

    def update_priorities(self, rows: NDArray[np.int64], priorities: NDArray[np.floating[Any]]) -> None:
        """Give drawn rows new priorities, e.g. absolute TD errors.

        Args:
            rows: int64 [n], `batch.rows`; -1 is passed over. Of rows that occur twice the last priority stays.
            priorities: [n], finite, at least 0.

        Raises:
            SchemaError: shapes differ, a row is none of this sampler's, or a priority is negative or not finite.
        """
        self.selection.update(rows, priorities)

    def priorities(self) -> NDArray[np.float64]:
        """The state that `state_dict` leaves out, to be saved beside it: an array of 8 bytes a row."""
        return self.selection.priorities()

    def load_priorities(self, priorities: NDArray[np.float64]) -> None:
        """Go on with saved priorities, after `load_state_dict`; without this every row has the highest.

        Raises:
            SamplerStateError: they do not belong to the loaded state.
        """
        self.selection.load_priorities(priorities)


class UniformSampler(TransitionSampler):
    """Transitions of one step drawn uniformly, with replacement, over all sampleable rows of a reader."""

    def __init__(
        self,
        reader: StoreReader,
        batch_size: int,
        *,
        rng: np.random.Generator,
        returns_to_go: ReturnsToGo | None = None,
    ) -> None:
        super().__init__(reader, batch_size, Uniform(rng), rng=rng, returns_to_go=returns_to_go)
