"""Two independent Zarr readers, zarr-python and tensorstore, see the same rows of a store that is being written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from replay import Store
from tests.replay import formula

tensorstore = pytest.importorskip("tensorstore")


def by_tensorstore(path: Path) -> Any:
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}
    return tensorstore.open(spec, open=True, read=True).result().read().result()


def test_zarr_python_and_tensorstore_read_the_same_rows_of_a_live_store(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s.zarr", formula.spec(), chunk_rows=formula.CHUNK_ROWS)
    with store.writer("live", durability="interval") as writer:
        rows_seen = 0
        for head in formula.append_forever(writer):
            if head < rows_seen + 200:
                continue
            writer.sync()
            reader = store.reader()
            for array, held in (("rows", reader.rows("live", 0, head)), ("meta", reader.meta("live", 0, head))):
                folder = store.path / "streams" / "live" / array
                one = zarr.open_array(folder, mode="r")[:]
                other = by_tensorstore(folder)
                assert other.shape == held.shape
                np.testing.assert_array_equal(one, other)
                np.testing.assert_array_equal(other, held)
            rows_seen = head
            if head > 900:
                break
    for array in ("commit", "seals"):
        folder = store.path / "streams" / "live" / array
        np.testing.assert_array_equal(zarr.open_array(folder, mode="r")[:], by_tensorstore(folder))
