"""Sequences of steps with burn-in and masks, for recurrent learners.

B batch, L learned steps, U burn-in steps, T = U + L, W row width.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from replay.errors import SchemaError
from replay.reader import StoreReader
from replay.sampling.base import Sampler
from replay.sampling.batch import Reused, check_block
from replay.sampling.selection import Selection
from replay.sampling.windows import gather
from replay.schema import StoreSpec


class SequenceBatch:
    """Sequences as views of one packed array; valid until its sampler fills the array again.

    Steps outside the episode, where `mask` is 0, are zeros; but for the observation after the last step, which is
    that step's next observation. A block of K batches is one SequenceBatch too: shapes then begin with K.
    """

    def __init__(self, packed: NDArray[np.float32], mask: NDArray[np.float32], spec: StoreSpec, burn_in: int) -> None:
        o, a, at = spec.observation_size, spec.action_size, spec.offsets
        steps = packed[..., :-1, :]
        self.spec = spec
        self.burn_in = burn_in
        self.packed = packed
        """[B, T + 1, W], rows of the store in order; C-contiguous."""
        self.mask = mask
        """[B, T], 1: a step of the episode."""
        self.learn_mask = mask[..., burn_in:]
        """[B, L], the mask of the steps to learn from, behind the burn-in; always 1 in the first column."""
        self.observations = packed[..., :o]
        """[B, T + 1, O]; [:, t + 1] is the next observation of step t."""
        self.actions = steps[..., o : o + a]
        """[B, T, A], environment units."""
        self.rewards = steps[..., at["reward"]]
        """[B, T], raw."""
        self.first = steps[..., at["first"]]
        """[B, T], 1: the step begins its episode; a recurrent state starts anew here, and where the mask begins."""
        self.terminated = steps[..., at["terminated"]]
        """[B, T], 1: no value beyond this step."""
        self.truncated = steps[..., at["truncated"]]
        """[B, T], 1: ended from outside; bootstrap from the next observation."""
        self.intervention = steps[..., at["intervention"]]
        """[B, T], 1: a human acted."""
        self.info = {name: steps[..., at[name]] for name in spec.info}
        """[B, T] for each info column."""

    def __len__(self) -> int:
        return len(self.packed)

    def __getitem__(self, places: slice | int) -> SequenceBatch:
        """The same views of a part of the batch, or of one batch of a block."""
        return SequenceBatch(self.packed[places], self.mask[places], self.spec, self.burn_in)


class SequenceSampler(Sampler):
    """Windows of L steps behind U steps of burn-in (Kapturowski et al. 2019), drawn by their first learned step.

    Every step that the selection draws is equally often the first learned one. Windows end with their episode; burn-in
    is cut where the episode begins. No window crosses episodes.
    """

    def __init__(
        self,
        reader: StoreReader,
        batch_size: int,
        selection: Selection,
        *,
        rng: np.random.Generator,
        length: int,
        burn_in: int = 0,
    ) -> None:
        """Make a sampler of `length` = L and `burn_in` = U; `rng` must be the selection's generator too.

        Raises:
            SchemaError: sizes that make no sense.
        """
        super().__init__(reader, batch_size, selection, rng=rng)
        if length < 1 or burn_in < 0:
            raise SchemaError(f"length {length} must be at least 1 and burn_in {burn_in} at least 0")
        self.length = length
        self.burn_in = burn_in
        self._batch = Reused(self._around)
        self._block = Reused(self._around_block)

    def _around(self, packed: NDArray[np.float32]) -> SequenceBatch:
        shape = (*packed.shape[:-2], packed.shape[-2] - 1)
        return SequenceBatch(packed, np.zeros(shape, np.float32), self.spec, self.burn_in)

    def _around_block(self, packed: NDArray[np.float32]) -> tuple[SequenceBatch, list[SequenceBatch]]:
        block = self._around(packed)
        return block, [block[k] for k in range(len(packed))]

    @property
    def _shape(self) -> tuple[int, int, int]:
        return self.batch_size, self.burn_in + self.length + 1, self.spec.row_width

    def next(self, out: NDArray[np.float32] | None = None) -> SequenceBatch:
        """Draw a batch.

        Args:
            out: float32 [n, T + 1, W], C-contiguous, filled and viewed by the result; None: a buffer that the next
                call reuses, with n = batch_size.

        Raises:
            EmptyReplayError: nothing can be sampled.
            SchemaError: `out` does not fit.
        """
        batch = self._batch.get(self._shape, out, any_axis=0)
        self._fill(batch)
        return batch

    def next_block(self, count: int, out: NDArray[np.float32] | None = None) -> SequenceBatch:
        """Draw `count` batches at once, equal to that many calls of `next`; `out` float32 [count, n, T + 1, W].

        Raises:
            EmptyReplayError: nothing can be sampled.
            SchemaError: `count` is less than 1, or `out` does not fit.
        """
        check_block(count)
        block, parts = self._block.get((count, *self._shape), out, any_axis=1)
        for part in parts:
            self._fill(part)
        return block

    def _fill(self, batch: SequenceBatch) -> None:
        index = self._index()
        candidates = self.selection.draw(index, len(batch))
        mask = gather(self.reader, index, candidates, self.burn_in, self.length, batch.packed)
        bad = ~mask[:, self.burn_in]
        if bad.any():
            again = self._draw_again(index, candidates[bad])
            rows = np.empty((len(again), *batch.packed.shape[1:]), np.float32)
            mask[bad] = gather(self.reader, index, again, self.burn_in, self.length, rows)
            batch.packed[bad] = rows
        batch.mask[:] = mask
        # Row t + 1 of a step t stays for its observation; all else outside the episode is zeros.
        outside = np.ones(batch.packed.shape[:2], np.bool_)
        outside[:, :-1] = ~mask
        after = outside.copy()
        after[:, 1:] &= mask
        after[:, 0] = False
        batch.packed[outside & ~after] = 0.0
        lines, steps = np.nonzero(after)
        batch.packed[lines, steps, self.spec.observation_size :] = 0.0
        self._heads = index.heads
