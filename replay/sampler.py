"""Samplers: batches of transitions from a StoreReader, drawn with a passed generator, resumable exactly.

B batch, W row width, O observation, A action. A packed batch is float32 [B, 2W]: each line a row and the row after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replay.errors import EmptyReplayError, SamplerStateError, SchemaError
from replay.reader import RowIndex, StoreReader
from replay.schema import StoreSpec

ROUNDS_BEFORE_COUNTING = 16


class Batch:
    """Transitions as views of one packed array; valid until its sampler fills the array again."""

    def __init__(self, packed: NDArray[np.float32], spec: StoreSpec) -> None:
        o, a, w, at = spec.observation_size, spec.action_size, spec.row_width, spec.offsets
        self.packed = packed
        """[B, 2W]: rows, then their successors; C-contiguous."""
        self.observations = packed[:, :o]
        """[B, O]"""
        self.actions = packed[:, o : o + a]
        """[B, A], environment units."""
        self.rewards = packed[:, at["reward"]]
        """[B], raw."""
        self.terminated = packed[:, at["terminated"]]
        """[B], 0 or 1: no value beyond this step."""
        self.truncated = packed[:, at["truncated"]]
        """[B], 0 or 1: ended from outside; bootstrap from next_observations."""
        self.intervention = packed[:, at["intervention"]]
        """[B], 0 or 1: a human acted."""
        self.synthetic = packed[:, at["synthetic"]]
        """[B], 0 or 1: not from the environment."""
        self.next_observations = packed[:, w : w + o]
        """[B, O]"""
        self.info = {name: packed[:, at[name]] for name in spec.info}
        """[B] for each info column."""

    def __len__(self) -> int:
        return len(self.packed)


class UniformSampler:
    """Transitions drawn uniformly, with replacement, over all sampleable rows of a reader.

    Rows are drawn among those with a committed successor; where the row is not a step, or its successor begins another
    episode, the place is drawn again. Batches are a function of the generator's state and the reader's heads alone. The
    sampler never refreshes the reader: its owner does, between batches.
    """

    def __init__(self, reader: StoreReader, batch_size: int, *, rng: np.random.Generator) -> None:
        if batch_size < 1:
            raise SchemaError(f"batch_size is {batch_size}: it must be at least 1")
        self.reader = reader
        self.spec = reader.spec
        self.batch_size = batch_size
        self._rng = rng
        self._batch = Batch(np.zeros((batch_size, 2 * self.spec.row_width), np.float32), self.spec)
        self._last = self._batch
        self._pairs = np.empty(2 * batch_size, np.int64)
        self._heads = dict(reader.heads)
        self._counted: RowIndex | None = None

    def next(self, out: NDArray[np.float32] | None = None) -> Batch:
        """Draw a batch.

        Args:
            out: float32 [n, 2W], C-contiguous, filled and viewed by the result; None: a buffer that the next call
                reuses, with n = batch_size.

        Raises:
            EmptyReplayError: nothing can be sampled.
            SchemaError: `out` does not fit.
        """
        batch = self._batch
        if out is not None:
            if out is not self._last.packed:
                self._last = Batch(self._check(out), self.spec)
            batch = self._last
        packed = batch.packed
        index = self.reader.index
        if index.size == 0:
            raise self._empty()
        pairs = self._pairs
        if len(pairs) != 2 * len(packed):
            pairs = np.empty(2 * len(packed), np.int64)
        width = self.spec.row_width
        valid, first = self.spec.offsets["valid"], width + self.spec.offsets["first"]
        index.pairs(self._rng.integers(0, index.size, len(packed)), pairs)
        self.reader.take(pairs, packed.reshape(-1, width))
        sampleable = packed[:, valid] > packed[:, first]
        if not sampleable.all():
            self._draw_again(index, packed, np.flatnonzero(~sampleable), valid, first)
        self._heads = index.heads
        return batch

    def _draw_again(
        self, index: RowIndex, packed: NDArray[np.float32], places: NDArray[np.int64], valid: int, first: int
    ) -> None:
        rounds = 0
        while len(places):
            rounds += 1
            if rounds == ROUNDS_BEFORE_COUNTING and self._counted is not index:
                if self.reader.count_sampleable() == 0:
                    raise self._empty()
                self._counted = index
            pairs = np.empty(2 * len(places), np.int64)
            index.pairs(self._rng.integers(0, index.size, len(places)), pairs)
            drawn = np.empty((len(places), packed.shape[1]), np.float32)
            self.reader.take(pairs, drawn.reshape(-1, self.spec.row_width))
            sampleable = drawn[:, valid] > drawn[:, first]
            packed[places[sampleable]] = drawn[sampleable]
            places = places[~sampleable]

    def _empty(self) -> EmptyReplayError:
        return EmptyReplayError(
            f"nothing to sample among {self.reader.num_rows} rows of {self.reader.description}: a step can be sampled "
            "once the step after it, or its episode's final observation, is committed; add data and refresh the reader"
        )

    def _check(self, out: NDArray[np.float32]) -> NDArray[np.float32]:
        width = 2 * self.spec.row_width
        if (
            out.ndim != 2
            or out.shape[1] != width
            or out.dtype != np.float32
            or not out.flags.c_contiguous
            or not len(out)
        ):
            raise SchemaError(
                f"out must be a C-contiguous float32 array [n, {width}], got {out.dtype} {list(out.shape)}"
            )
        return out

    def state_dict(self) -> dict[str, Any]:
        """The generator's state and the heads of the last draw, JSON-able."""
        return {"generator": _plain(self._rng.bit_generator.state), "heads": dict(self._heads)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where the state was taken: pins the reader to the saved heads until its next refresh.

        Raises:
            SamplerStateError: another kind of generator, or heads ahead of the store.
        """
        kind, saved = self._rng.bit_generator.state["bit_generator"], state["generator"]["bit_generator"]
        if kind != saved:
            raise SamplerStateError(
                f"the saved state is of a {saved} generator, the sampler has {kind}: pass a {saved}"
            )
        self.reader.refresh(state["heads"])
        self._rng.bit_generator.state = _arrays(state["generator"])
        self._heads = dict(state["heads"])


class MixedSampler:
    """Exact counts from several samplers in every batch, e.g. 128 offline and 128 online rows."""

    def __init__(self, parts: Sequence[tuple[UniformSampler, int]]) -> None:
        """Parts fill the batch in their order; a count of 0 leaves a part out.

        Raises:
            SchemaError: the parts' rows differ, or the counts make no batch.
        """
        if not parts or min(count for _, count in parts) < 0 or sum(count for _, count in parts) < 1:
            raise SchemaError("a mixture needs parts with counts of at least 0 and a sum of at least 1")
        self.spec = parts[0][0].spec
        for sampler, _ in parts[1:]:
            if (sampler.spec.layout_fingerprint, sampler.spec.info) != (self.spec.layout_fingerprint, self.spec.info):
                raise SchemaError(
                    f"a mixture needs equal observation terms, action bounds and info columns: "
                    f"{sampler.reader.description} differs from {parts[0][0].reader.description}"
                )
        self.parts = tuple(parts)
        self.batch_size = sum(count for _, count in parts)
        self._batch = self._split(np.zeros((self.batch_size, 2 * self.spec.row_width), np.float32))
        self._last = self._batch

    def _split(self, packed: NDArray[np.float32]) -> tuple[Batch, list[NDArray[np.float32]]]:
        ends = np.cumsum([count for _, count in self.parts])
        slices = [packed[end - count : end] for end, (_, count) in zip(ends, self.parts, strict=True)]
        return Batch(packed, self.spec), slices

    def next(self, out: NDArray[np.float32] | None = None) -> Batch:
        """Draw a batch; `out` [sum of counts, 2W] as for UniformSampler.

        Raises:
            EmptyReplayError: a part has nothing to sample.
            SchemaError: `out` does not fit.
        """
        batch = self._batch
        if out is not None:
            if out is not self._last[0].packed:
                if out.shape != self._batch[0].packed.shape:
                    raise SchemaError(f"out must have shape {list(self._batch[0].packed.shape)}, got {list(out.shape)}")
                self._last = self._split(out)
            batch = self._last
        for (sampler, count), part in zip(self.parts, batch[1], strict=True):
            if count:
                sampler.next(part)
        return batch[0]

    def state_dict(self) -> dict[str, Any]:
        """The parts' states, JSON-able. Parts that share a generator each save it."""
        return {"parts": [sampler.state_dict() for sampler, _ in self.parts]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where the state was taken.

        Raises:
            SamplerStateError: another number of parts, or a part's state does not fit.
        """
        if len(state["parts"]) != len(self.parts):
            raise SamplerStateError(f"the saved state has {len(state['parts'])} parts, the mixture {len(self.parts)}")
        for (sampler, _), part in zip(self.parts, state["parts"], strict=True):
            sampler.load_state_dict(part)


def _plain(value: Any) -> Any:
    """Generator state with arrays as lists."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, np.ndarray):
        return {"array": value.tolist(), "dtype": str(value.dtype)}
    return value


def _arrays(value: Any) -> Any:
    """The inverse of `_plain`."""
    if isinstance(value, Mapping):
        if set(value) == {"array", "dtype"}:
            return np.array(value["array"], value["dtype"])
        return {key: _arrays(each) for key, each in value.items()}
    return value
