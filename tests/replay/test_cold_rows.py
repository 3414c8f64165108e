"""Rows that are on the disk only are read all at once, and equal those in memory; warm rows cost nothing more."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from replay.mapping import AddressRange, ChunkTable
from replay.reader import StoreReader
from replay.sampling.transitions import UniformSampler
from replay.schema import StoreSpec
from replay.store import Store

ROWS = 4_096


def make(path: Path) -> Store:
    terms = [{"name": "x", "offset": 0, "length": 17, "dtype": "float32"}]
    store = Store.create(path, StoreSpec.from_terms(terms, low=[-1.0], high=[1.0]), chunk_rows=1_024)
    numbers = np.arange(ROWS, dtype=np.float32)
    with store.writer("a") as writer:
        writer.append_episode(
            np.repeat(numbers[:, None], 17, 1), np.zeros((ROWS - 1, 1)), numbers[:-1], terminated=True, truncated=False
        )
        writer.sync()
    return store


def forget(store: Store) -> None:
    for path in sorted(store.path.glob("streams/a/rows/c/*/0")):
        fd = os.open(path, os.O_RDONLY)
        os.fdatasync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def counted(space: AddressRange, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    counts: list[int] = []
    announce = space._announce

    def counting(indices: np.ndarray) -> None:
        counts.append(len(indices))
        announce(indices)

    monkeypatch.setattr(space, "_announce", counting)
    return counts


def test_cold_rows_are_announced_and_equal_those_of_a_plain_mapping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make(tmp_path / "s")
    forget(store)
    space = AddressRange(store.chunk_rows, store.spec.row_width)
    counts = counted(space, monkeypatch)
    ours = UniformSampler(StoreReader([store], space=space), 128, rng=np.random.default_rng(0))
    first = ours.next().packed.copy()
    if not counts:
        pytest.skip("this file system keeps its pages, or does not tell which it has")
    plain_space = ChunkTable(store.chunk_rows, store.spec.row_width)
    plain = UniformSampler(StoreReader([store], space=plain_space), 128, rng=np.random.default_rng(0))
    assert counts[0] == 256
    assert np.array_equal(first, plain.next().packed)
    np.testing.assert_array_equal(first[:, 0] + 1, first[:, store.spec.row_width])


def test_warm_rows_are_not_announced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(tmp_path / "s")
    for path in store.path.glob("streams/a/rows/c/*/0"):
        path.read_bytes()
    space = AddressRange(store.chunk_rows, store.spec.row_width)
    counts = counted(space, monkeypatch)
    monkeypatch.setattr("replay.mapping.COLD_S_PER_ROW", 1.0)  # whatever else the machine does meanwhile
    sampler = UniformSampler(StoreReader([store], space=space), 128, rng=np.random.default_rng(0))
    for _ in range(50):
        sampler.next()
    assert counts == []


def test_a_gather_that_meets_the_disk_has_the_next_ones_announced_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make(tmp_path / "s")
    forget(store)
    space = AddressRange(store.chunk_rows, store.spec.row_width)
    counts = counted(space, monkeypatch)
    monkeypatch.setattr(space, "_fresh", False)
    monkeypatch.setattr("replay.mapping.COLD_S_PER_ROW", 0.0)  # however fast the disk
    sampler = UniformSampler(StoreReader([store], space=space), 128, rng=np.random.default_rng(0))
    sampler.next()
    assert counts == []
    if not space._announced:
        pytest.skip("this file system keeps its pages")
    monkeypatch.setattr("replay.mapping.COLD_S_PER_ROW", 1.0)
    for _ in range(200):
        sampler.next()
    assert len(counts) == 64
