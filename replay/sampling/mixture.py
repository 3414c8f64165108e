"""Mixtures: exact counts from several samplers in every batch, fixed or annealed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replay.errors import SamplerStateError, SchemaError
from replay.sampling.batch import Batch, Reused, check_block
from replay.sampling.state import check_keys
from replay.sampling.transitions import TransitionSampler


class _Parted:
    """A batch with the parts that its samplers fill; cut anew when the counts change."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.counts: list[int] = []
        self.parts: list[Batch] = []

    def cut(self, counts: list[int]) -> list[Batch]:
        if counts != self.counts:
            ends = np.cumsum(counts).tolist()
            self.parts = [self.batch[end - count : end] for end, count in zip(ends, counts, strict=True)]
            self.counts = counts
        return self.parts


class MixedSampler:
    """Exact counts from several samplers in every batch, e.g. 128 offline and 128 online rows."""

    def __init__(
        self,
        parts: Sequence[tuple[TransitionSampler, int]],
        *,
        until: Sequence[int] | None = None,
        steps: int | None = None,
    ) -> None:
        """Parts fill the batch in their order; a count of 0 leaves a part out.

        Args:
            parts: samplers with their counts in the first batch.
            until: their counts from batch number `steps` on, with the same sum; in between the counts are linear in
                the batch's number, rounded so that every batch is full.
            steps: number of batches that the counts take from the first to the last.

        Raises:
            SchemaError: the parts' rows differ, or the counts make no batch.
        """
        counts = [count for _, count in parts]
        if not parts or min(counts) < 0 or sum(counts) < 1:
            raise SchemaError("a mixture needs parts with counts of at least 0 and a sum of at least 1")
        if (until is None) != (steps is None) or (steps is not None and steps < 1):
            raise SchemaError("an annealed mixture needs both `until`, the last counts, and `steps` of at least 1")
        last = counts if until is None else list(until)
        if len(last) != len(counts) or min(last) < 0 or sum(last) != sum(counts):
            raise SchemaError(f"a mixture cannot go from counts {counts} to {last}: both need the same number and sum")
        head = parts[0][0]
        self.spec = head.spec
        for sampler, _ in parts[1:]:
            if (sampler.spec.layout_fingerprint, sampler.spec.info) != (self.spec.layout_fingerprint, self.spec.info):
                raise SchemaError(
                    f"a mixture needs equal observation terms, action bounds and info columns: "
                    f"{sampler.reader.description} differs from {head.reader.description}"
                )
            if (sampler.n_step, sampler.gamma) != (head.n_step, head.gamma):
                raise SchemaError(
                    f"a mixture needs one n_step and gamma: {(sampler.n_step, sampler.gamma)} differs from "
                    f"{(head.n_step, head.gamma)}"
                )
        self.parts = tuple(parts)
        self.batch_size = sum(counts)
        self._first, self._until, self._steps = np.array(counts), np.array(last), steps
        self._drawn = 0
        self._batch = Reused(lambda packed: _Parted(self._around(packed)))
        self._block = Reused(self._around_block)

    def _around(self, packed: NDArray[np.float32]) -> Batch:
        return Batch.around(
            packed,
            self.spec,
            discounts=self.parts[0][0].gamma is not None,
            priorities=any(sampler.prioritised for sampler, _ in self.parts),
            returns=any(sampler.returns_to_go is not None for sampler, _ in self.parts),
        )

    def _around_block(self, packed: NDArray[np.float32]) -> tuple[Batch, list[_Parted]]:
        block = self._around(packed)
        return block, [_Parted(block[k]) for k in range(len(packed))]

    @property
    def counts(self) -> list[int]:
        """Rows of each part in the next batch."""
        if self._steps is None or self._drawn >= self._steps:
            return [int(n) for n in self._until]
        # In whole numbers, so that equal states give equal counts everywhere: rounded by the largest remainder.
        scaled = self._first * (self._steps - self._drawn) + self._until * self._drawn
        counts, remainders = np.divmod(scaled, self._steps)
        counts[np.argsort(-remainders, kind="stable")[: self.batch_size - int(counts.sum())]] += 1
        return [int(n) for n in counts]

    def next(self, out: NDArray[np.float32] | None = None) -> Batch:
        """Draw a batch; `out` float32 [sum of counts, 2W] as for UniformSampler.

        Raises:
            EmptyReplayError: a part has nothing to sample.
            SchemaError: `out` does not fit.
        """
        batch = self._batch.get((self.batch_size, 2 * self.spec.row_width), out)
        self._fill(batch)
        return batch.batch

    def next_block(
        self, count: int, out: NDArray[np.float32] | None = None, *, after: Callable[[], object] = lambda: None
    ) -> Batch:
        """Draw `count` batches at once, equal to that many calls of `next`; `out` float32 [count, B, 2W].

        `after` is called behind each of them: `state_dict` then goes on with the next.

        Raises:
            EmptyReplayError: a part has nothing to sample.
            SchemaError: `count` is less than 1, or `out` does not fit.
        """
        check_block(count)
        block, parts = self._block.get((count, self.batch_size, 2 * self.spec.row_width), out)
        for part in parts:
            self._fill(part)
            after()
        return block

    def _fill(self, batch: _Parted) -> None:
        for (sampler, _), part in zip(self.parts, batch.cut(self.counts), strict=True):
            if len(part):
                sampler.fill(part)
        self._drawn += 1

    def state_dict(self) -> dict[str, Any]:
        """The parts' states and the number of batches drawn, JSON-able. Parts that share a generator each save it."""
        return {"parts": [sampler.state_dict() for sampler, _ in self.parts], "drawn": self._drawn}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where the state was taken.

        Raises:
            SamplerStateError: another number of parts, or a part's state does not fit.
        """
        check_keys(state, ("parts", "drawn"), "a mixture")
        if len(state["parts"]) != len(self.parts):
            raise SamplerStateError(f"the saved state has {len(state['parts'])} parts, the mixture {len(self.parts)}")
        for (sampler, _), part in zip(self.parts, state["parts"], strict=True):
            sampler.load_state_dict(part)
        self._drawn = int(state["drawn"])
