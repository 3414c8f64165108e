"""What all samplers have in common: a reader, a selection, a generator, and a state that resumes them exactly."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from replay.errors import EmptyReplayError, SchemaError
from replay.reader import RowIndex, StoreReader
from replay.sampling.batch import Batch, Reused, SequenceBatch, check_block
from replay.sampling.selection import Selection, sampleable
from replay.sampling.state import check_keys, check_same, generator_state, load_generator

ROUNDS_BEFORE_COUNTING = 16
B = TypeVar("B", Batch, SequenceBatch)


class Sampler(ABC, Generic[B]):
    """Draws steps of a reader by a selection; what of them makes a batch is the subclass's.

    A candidate is a row with a committed successor; where it is not a step, or its successor begins another episode,
    the place is drawn again. Batches are a function of the saved state and the reader's heads alone. The sampler never
    refreshes the reader: its owner does, between batches.
    """

    def __init__(self, reader: StoreReader, batch_size: int, selection: Selection, *, rng: np.random.Generator) -> None:
        """Use the subclasses. `rng` must be the selection's generator too; SchemaError for a size below 1."""
        if batch_size < 1:
            raise SchemaError(f"batch_size is {batch_size}: it must be at least 1")
        self.reader: StoreReader = reader
        self.spec = reader.spec
        self.batch_size = batch_size
        self.selection = selection
        self._rng = rng
        self._heads = dict(reader.heads)
        self._counted: weakref.ref[RowIndex] | None = None  # an index that is held keeps evicted chunks mapped
        self._batch: Reused[B] = Reused(self._around)
        self._block: Reused[tuple[B, list[B]]] = Reused(self._around_block)

    @property
    @abstractmethod
    def _shape(self) -> tuple[int, ...]:
        """Of a batch's packed array."""

    @abstractmethod
    def _around(self, packed: NDArray[np.float32]) -> B:
        """The batch, or block of batches, that views this array."""

    @abstractmethod
    def fill(self, batch: B) -> None:
        """Draw into a batch that this sampler, or the mixture it is part of, made."""

    def _around_block(self, packed: NDArray[np.float32]) -> tuple[B, list[B]]:
        block = self._around(packed)
        return block, [block[k] for k in range(len(packed))]

    def next(self, out: NDArray[np.float32] | None = None) -> B:
        """Draw a batch.

        Args:
            out: float32, C-contiguous, of the shape of the batch's `packed` but for its first length, which may differ
                from batch_size; filled and viewed by the result. None: a buffer that the next call reuses.

        Raises:
            EmptyReplayError: nothing can be sampled.
            SchemaError: `out` does not fit.
        """
        batch = self._batch.get(self._shape, out, any_axis=0)
        self.fill(batch)
        return batch

    def next_block(
        self, count: int, out: NDArray[np.float32] | None = None, *, after: Callable[[], object] = lambda: None
    ) -> B:
        """Draw `count` batches at once, equal to that many calls of `next`.

        Args:
            count: K, number of batches.
            out: as for `next`, with K in front; None: a buffer that the next block of K reuses.
            after: called behind each batch, when `state_dict` goes on with the next.

        Returns:
            One batch whose arrays begin with K; `block[k]` is the k-th batch.

        Raises:
            EmptyReplayError: nothing can be sampled.
            SchemaError: `count` is less than 1, or `out` does not fit.
        """
        check_block(count)
        block, parts = self._block.get((count, *self._shape), out, any_axis=1)
        for part in parts:
            self.fill(part)
            after()
        return block

    def _index(self) -> RowIndex:
        index = self.reader.index
        if index.size == 0:
            raise self._empty()
        return index

    def _draw_again(self, index: RowIndex, rejected: NDArray[np.int64]) -> NDArray[np.int64]:
        """Candidates that are steps, in the place of those that are not."""
        candidates, places, rounds = rejected.copy(), np.arange(len(rejected)), 0
        while len(places):
            rounds += 1
            if rounds == ROUNDS_BEFORE_COUNTING and (self._counted is None or self._counted() is not index):
                if self.reader.count_sampleable() == 0:
                    raise self._empty()
                self._counted = weakref.ref(index)
            candidates[places] = drawn = self.selection.redraw(index, candidates[places])
            places = places[~sampleable(self.reader, index, drawn)]
        return candidates

    def _empty(self) -> EmptyReplayError:
        return EmptyReplayError(
            f"nothing to sample among {self.reader.num_rows} rows of {self.reader.description}: a step can be sampled "
            "once the step after it, or its episode's final observation, is committed; add data and refresh the reader"
        )

    def state_dict(self) -> dict[str, Any]:
        """The state of generator and selection, and the heads of the last draw, JSON-able."""
        return {
            "generator": generator_state(self._rng),
            "heads": dict(self._heads),
            "kind": type(self.selection).__name__,
            "selection": self.selection.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where the state was taken: pins the reader to the saved heads until its next refresh.

        Raises:
            SamplerStateError: another kind of generator or selection, or heads ahead of the store.
        """
        check_keys(state, ("generator", "heads", "kind", "selection"), "a sampler")
        check_same(state["kind"], type(self.selection).__name__, "the selection")
        self.reader.refresh(state["heads"])
        load_generator(self._rng, state["generator"])
        self.selection.load_state_dict(state["selection"])
        self._heads = dict(state["heads"])
