"""Batches: transitions or sequences as named views of one packed array.

B batch, L learned steps, U burn-in steps, T = U + L, W row width, O observation, A action.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from replay.errors import SchemaError
from replay.schema import StoreSpec

T = TypeVar("T")


class Batch:
    """Transitions as views of one packed array; valid until its sampler fills the array again.

    A block of K batches is one Batch too: every shape below then begins with K.
    """

    def __init__(
        self,
        packed: NDArray[np.float32],
        spec: StoreSpec,
        *,
        discounts: NDArray[np.float32] | None = None,
        steps: NDArray[np.int64] | None = None,
        rows: NDArray[np.int64] | None = None,
        weights: NDArray[np.float32] | None = None,
        returns_to_go: NDArray[np.float32] | None = None,
    ) -> None:
        o, a, w, at = spec.observation_size, spec.action_size, spec.row_width, spec.offsets
        self.spec = spec
        self.packed = packed
        """[B, 2W]: rows, then their successors; C-contiguous."""
        self.observations = packed[..., :o]
        """[B, O]"""
        self.actions = packed[..., o : o + a]
        """[B, A], environment units."""
        self.rewards = packed[..., at["reward"]]
        """[B], raw; of n steps: their discounted sum."""
        self.terminated = packed[..., at["terminated"]]
        """[B], 0 or 1: no value beyond this step, or beyond the last of the n steps."""
        self.truncated = packed[..., at["truncated"]]
        """[B], 0 or 1: ended from outside; bootstrap from next_observations."""
        self.intervention = packed[..., at["intervention"]]
        """[B], 0 or 1: a human acted."""
        self.synthetic = packed[..., at["synthetic"]]
        """[B], 0 or 1: not from the environment."""
        self.next_observations = packed[..., w : w + o]
        """[B, O]; of n steps: that many steps on, or where the episode ended before."""
        self.next_actions = packed[..., w + o : w + o + a]
        """[B, A], environment units: what was done in next_observations, where `next_valid`."""
        self.next_valid = packed[..., w + at["valid"]]
        """[B], 0 or 1: the episode went on; 0 where next_observations are the last ones, in a final or cut row."""
        self.info = {name: packed[..., at[name]] for name in spec.info}
        """[B] for each info column."""
        self.discounts = discounts
        """[B], of a sampler with a gamma: gamma^m over the m steps taken, 0 if they end terminated. Else None."""
        self.steps = steps
        """[B], of a sampler with a gamma: m. Else None."""
        self.rows = rows
        """[B], of a prioritised sampler: what `update_priorities` takes; -1 where another part drew. Else None."""
        self.weights = weights
        """[B], of a prioritised sampler: importance weights, 1 where another part drew. Else None."""
        self.returns_to_go = returns_to_go
        """[B], of a sampler that knows returns: `ReturnsToGo`, NaN where it is not known. Else None."""

    def __len__(self) -> int:
        return len(self.packed)

    def __getitem__(self, places: slice | int) -> Batch:
        """The same views of a part of the batch, or of one batch of a block."""
        return Batch(
            self.packed[places],
            self.spec,
            discounts=None if self.discounts is None else self.discounts[places],
            steps=None if self.steps is None else self.steps[places],
            rows=None if self.rows is None else self.rows[places],
            weights=None if self.weights is None else self.weights[places],
            returns_to_go=None if self.returns_to_go is None else self.returns_to_go[places],
        )

    def forget(self) -> None:
        """Drop what only some samplers write: another one may have filled these places before."""
        if self.rows is not None and self.weights is not None:
            self.rows[...], self.weights[...] = -1, 1.0
        if self.returns_to_go is not None:
            self.returns_to_go[...] = np.nan

    @classmethod
    def around(
        cls, packed: NDArray[np.float32], spec: StoreSpec, *, discounts: bool, priorities: bool, returns: bool = False
    ) -> Batch:
        """A batch of this packed array, with new arrays for what else its sampler gives."""
        shape = packed.shape[:-1]
        return cls(
            packed,
            spec,
            discounts=np.zeros(shape, np.float32) if discounts else None,
            steps=np.zeros(shape, np.int64) if discounts else None,
            rows=np.full(shape, -1, np.int64) if priorities else None,
            weights=np.ones(shape, np.float32) if priorities else None,
            returns_to_go=np.full(shape, np.nan, np.float32) if returns else None,
        )


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


def check_packed(out: NDArray[np.float32], shape: tuple[int | None, ...]) -> NDArray[np.float32]:
    """`out` itself, if it is a C-contiguous float32 array of this shape; None stands for any length from 1.

    Raises:
        SchemaError: it is not.
    """
    fits = out.ndim == len(shape) and all(m in (None, n) for n, m in zip(out.shape, shape, strict=True))
    if not fits or out.dtype != np.float32 or not out.flags.c_contiguous or not out.size:
        wanted = ", ".join("n" if m is None else str(m) for m in shape)
        raise SchemaError(f"out must be a C-contiguous float32 array [{wanted}], got {out.dtype} {list(out.shape)}")
    return out


class Reused(Generic[T]):
    """What is made around a packed array, kept while the array stays the same: the own one, or the last one given."""

    def __init__(self, make: Callable[[NDArray[np.float32]], T]) -> None:
        self._make = make
        self._own: tuple[tuple[int, ...], T] | None = None
        self._given: tuple[NDArray[np.float32], T] | None = None

    def get(self, shape: tuple[int, ...], out: NDArray[np.float32] | None, *, any_axis: int | None = None) -> T:
        """What is around `out`, or around an array of this shape that is reused where `out` is None.

        Args:
            shape: of the own array, and of `out` but for `any_axis`, which may have any length from 1.

        Raises:
            SchemaError: `out` does not fit.
        """
        if out is None:
            if self._own is None or self._own[0] != shape:
                self._own = shape, self._make(np.zeros(shape, np.float32))
            return self._own[1]
        if self._given is None or self._given[0] is not out or (any_axis != 0 and len(out) != shape[0]):
            check_packed(out, tuple(None if axis == any_axis else n for axis, n in enumerate(shape)))
            self._given = out, self._make(out)
        return self._given[1]


def check_block(count: int) -> None:
    """Refuse a block of no batches with SchemaError."""
    if count < 1:
        raise SchemaError(f"a block of {count} batches was asked for: it needs at least 1")
