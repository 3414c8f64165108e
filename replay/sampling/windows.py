"""Windows: a row with the rows before and after it in its stream, and which of them belong to its episode."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from replay.reader import RowIndex, StoreReader


def gather(
    reader: StoreReader,
    index: RowIndex,
    candidates: NDArray[np.int64],
    before: int,
    after: int,
    rows: NDArray[np.float32],
) -> NDArray[np.bool_]:
    """Gather the rows around candidates [n], from `before` steps earlier to `after` steps on, after >= 1.

    Rows that the stream does not have become copies of its nearest one, and are masked out.

    Args:
        rows: [n, before + after + 1, W], C-contiguous, filled.

    Returns:
        mask [n, before + after]: which rows are steps of the candidate's episode with a committed successor, without
        a gap. Where the candidate itself cannot be sampled its whole line is False.
    """
    spans = list(index.spans.values())
    starts = np.array([span.start for span in spans], np.int64)
    ends = starts + [span.count for span in spans]
    stream = starts.searchsorted(candidates, side="right") - 1
    wanted = candidates[:, None] + np.arange(-before, after)
    low, high = starts[stream, None], ends[stream, None] - 1
    numbers = np.clip(wanted, low, high)
    pairs = np.empty(2 * numbers.size, np.int64)
    index.pairs(numbers.ravel(), pairs)
    pairs = pairs.reshape(*numbers.shape, 2)
    physical = np.concatenate([pairs[..., 0], pairs[:, -1:, 1]], axis=1)
    # A stream's newest row is no candidate, only the successor of the last one.
    np.copyto(physical[:, 1:-1], pairs[:, :-1, 1], where=wanted[:, 1:] > high)
    reader.take(physical.ravel(), rows.reshape(-1, reader.spec.row_width))
    valid, first = reader.spec.offsets["valid"], reader.spec.offsets["first"]
    steps = (rows[:, :-1, valid] > 0) & (rows[:, 1:, first] == 0) & (numbers == wanted)
    forward = np.logical_and.accumulate(steps[:, before:], axis=1)
    backward = np.logical_and.accumulate(steps[:, :before][:, ::-1], axis=1)[:, ::-1] & forward[:, :1]
    return np.concatenate([backward, forward], axis=1)
