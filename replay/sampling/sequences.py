"""Sequences of steps with burn-in and masks, for recurrent learners.

B batch, L learned steps, U burn-in steps, T = U + L, W row width.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from replay.errors import SchemaError
from replay.reader import StoreReader
from replay.sampling.base import Sampler
from replay.sampling.batch import SequenceBatch
from replay.sampling.selection import Selection
from replay.sampling.windows import gather


class SequenceSampler(Sampler[SequenceBatch]):
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

    def _around(self, packed: NDArray[np.float32]) -> SequenceBatch:
        shape = (*packed.shape[:-2], packed.shape[-2] - 1)
        return SequenceBatch(packed, np.zeros(shape, np.float32), self.spec, self.burn_in)

    @property
    def _shape(self) -> tuple[int, int, int]:
        return self.batch_size, self.burn_in + self.length + 1, self.spec.row_width

    def fill(self, batch: SequenceBatch) -> None:
        """Draw into a batch that this sampler made."""
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
