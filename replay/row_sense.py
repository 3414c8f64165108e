"""Whether rows make sense: finite values, flags of 0 and 1, and the order of an episode's rows.

    first step, steps ..., step with terminated or truncated, final row        or  ... step, cut row (interrupted)

A row that a dead writer left without a successor is followed by a `first` row.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from replay.schema import FLAGS, StoreSpec

_EPISODE_ID = 4


class RowSense:
    """Checks consecutive rows of one stream, chunk by chunk, and counts them as commits do."""

    def __init__(self, spec: StoreSpec) -> None:
        self._spec = spec
        self._last: NDArray[np.bool_] | None = None  # flags of the row before
        self._last_id = 0
        self.complete = True
        """Whether every row so far was seen."""
        self.steps = 0
        """Rows with `valid`."""
        self.broken = 0
        """Valid rows whose successor begins another episode."""

    def lose_track(self) -> None:
        """Rows follow that cannot be read."""
        self._last, self.complete = None, False

    def check(self, start: int, rows: NDArray[np.float32], meta: NDArray[np.int64]) -> list[tuple[str, int, int]]:
        """Check rows [n, W] with meta [n, 5] that begin at row `start`; returns (what is wrong, first row, stop)."""
        at, spec = self._spec.offsets, self._spec
        values = rows[:, [at[name] for name in FLAGS]]
        flags = values > 0
        head = np.zeros((1, len(FLAGS)), np.bool_) if self._last is None else self._last[None]
        before = np.concatenate([head, flags[:-1]])
        first, terminated, truncated, interrupted, _, _, valid = flags.T
        was_valid, had_ended = before[:, 6], before[:, 1] | before[:, 2]
        ids = meta[:, _EPISODE_ID]
        ids_before = np.concatenate([[self._last_id], ids[:-1]])
        continued = valid & ~first & ~(was_valid & ~had_ended)
        orphaned = ~valid & ~was_valid
        unclosed = valid & was_valid & had_ended
        misplaced = ~valid & (interrupted == had_ended) & was_valid
        misnumbered = ids != ids_before + first
        if self._last is None:  # after eviction or a loss the first row may be any
            for unknown in (continued, orphaned, unclosed, misplaced, misnumbered):
                unknown[:1] = False
        used = at["valid"] + 1 + len(spec.info)
        found = [
            ("a value is not finite", ~np.isfinite(rows).all(axis=1)),
            ("a flag is neither 0 nor 1", ((values != 0) & (values != 1)).any(axis=1)),
            ("the padding is not zero", (rows[:, used:] != 0).any(axis=1)),
            ("a row that is no step has a flag of one", ~valid & (first | terminated | truncated)),
            ("a step counts as interrupted", valid & interrupted),
            ("a step continues an episode that has ended", continued),
            ("a final or cut row follows no step", orphaned),
            ("an ended episode has no final row", unclosed),
            ("a cut row follows an end, or a final row none", misplaced),
            ("the episode id does not follow the one before", misnumbered),
        ]
        self.steps += int(valid.sum())
        joined = before[1:] if self._last is None else before
        self.broken += int((joined[:, 6] & first[len(first) - len(joined) :]).sum())
        if len(flags):
            self._last, self._last_id = flags[-1], int(ids[-1])
        return [
            (what, start + int(low), start + int(high) + 1)
            for what, wrong in found
            for low, high in _runs(np.flatnonzero(wrong))
        ]


def _runs(places: NDArray[np.int64]) -> list[tuple[int, int]]:
    """First and last of each run of consecutive numbers."""
    if not len(places):
        return []
    cuts = np.flatnonzero(np.diff(places) > 1)
    return list(
        zip(places[np.append(0, cuts + 1)].tolist(), places[np.append(cuts, len(places) - 1)].tolist(), strict=True)
    )
