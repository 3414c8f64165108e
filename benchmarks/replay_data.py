"""Stores and rows for the replay benchmarks: 17 observations + 6 actions, episodes of 1,000 steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from replay.schema import META_COLUMNS, StoreSpec
from replay.store import Store

OBS, ACT, STEPS = 17, 6, 1_000


def make_spec() -> StoreSpec:
    """17 observations, 6 actions in [-1, 1]."""
    terms = [{"name": "x", "offset": 0, "length": OBS, "dtype": "float32"}]
    return StoreSpec.from_terms(terms, low=[-1.0] * ACT, high=[1.0] * ACT)


def make_block(spec: StoreSpec, rows: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Packed rows and meta of whole episodes (1,000 steps and a final row), the last one perhaps running."""
    rng, at = np.random.default_rng(0), spec.offsets
    block = np.zeros((rows, spec.row_width), np.float32)
    block[:, : OBS + ACT] = rng.uniform(-1, 1, (rows, OBS + ACT))
    block[:, at["reward"]] = rng.normal(size=rows)
    place = np.arange(rows) % (STEPS + 1)
    block[:, at["first"]], block[:, at["valid"]] = place == 0, place < STEPS
    block[:, at["truncated"]] = place == STEPS - 1
    return block, np.zeros((rows, len(META_COLUMNS)), np.int64)


def fill(store: Store, rows: int, *, stream: str = "a") -> None:
    """Append at least `rows` rows to one stream, and wait until the disk has them."""
    block, meta = make_block(store.spec, 64 * (STEPS + 1))
    with store.writer(stream, durability="process") as writer:
        while writer.head < rows:
            count = min(len(block), -(-(rows - writer.head) // (STEPS + 1)) * (STEPS + 1))
            writer.append_block(block[:count], meta[:count])
        writer.sync()


def make_store(folder: Path, rows: int) -> Store:
    """A store of `rows` rows in one stream, made once a folder."""
    path = folder / f"{rows}.zarr"
    if path.exists():
        return Store.open(path)
    store = Store.create(path, make_spec())
    fill(store, rows)
    return store
