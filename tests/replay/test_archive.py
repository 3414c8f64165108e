"""Archives: compressed, sharded, named; opened by plain Zarr; equal after the round trip; trained from by a cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr

from replay import Store
from replay.archive import compact, unpack
from replay.errors import CorruptStoreError, StoreExistsError, WriterLockedError, WriterStateError
from replay.retention import Capacity, evict
from replay.sampler import UniformSampler
from replay.verify import verify
from tests.faults.test_verify import CHUNK, fill
from tests.replay import formula


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = Store.create(tmp_path / "s.zarr", formula.spec(), chunk_rows=CHUNK)
    fill(store, "a", 3 * CHUNK + 40)
    fill(store, "b", 50)
    yield store


def packed(store: Store, stream: str) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    reader = store.reader()
    tail = next(start for _, start, _ in reader.blocks(stream))
    return reader.rows(stream, tail, reader.heads[stream]), reader.meta(stream, tail, reader.heads[stream])


@pytest.mark.parametrize("evicted", [False, True])
def test_an_archive_comes_back_equal_row_by_row(store: Store, tmp_path: Path, evicted: bool) -> None:
    if evicted:
        evict(store, Capacity(steps=CHUNK), streams=["a"])
    done = compact(store, tmp_path / "a.zarr")
    assert done["rows"] == store.num_rows
    back = Store.open(tmp_path / "a.zarr")
    assert back.spec == store.spec
    for stream in ("a", "b"):
        for one, other in zip(packed(store, stream), packed(back, stream), strict=True):
            np.testing.assert_array_equal(one, other)
    assert (back.num_steps, back.num_rows) == (store.num_steps, store.num_rows)
    assert back.reader().count_sampleable() == back.num_steps
    assert verify(back.path)["sound"]
    first, second = (
        UniformSampler(each.reader(), 64, rng=np.random.default_rng(0)).next().packed for each in (store, back)
    )
    np.testing.assert_array_equal(first, second)


def test_plain_zarr_reads_named_arrays_and_episodes(store: Store, tmp_path: Path) -> None:
    compact(store, tmp_path / "a.zarr")
    group = zarr.open_group(tmp_path / "a.zarr", mode="r", use_consolidated=False)
    rows, meta = packed(store, "a")
    at = store.spec.fields
    for name in ("observation", "action"):
        np.testing.assert_array_equal(group[f"a/{name}"][:], rows[:, at[name]])
    for name in ("reward", "first", "terminated", "truncated", "valid"):
        np.testing.assert_array_equal(group[f"a/{name}"][:], rows[:, at[name]][:, 0])
    np.testing.assert_array_equal(group["a/episode_id"][:], meta[:, 4])
    array = group["a/observation"]
    assert isinstance(array, zarr.Array)
    assert array.shards is not None
    assert array.compressors
    episodes = [each for each in store.episodes() if each.stream == "a"]
    np.testing.assert_array_equal(group["a/episodes/length"][:], [len(each.rewards) for each in episodes])
    starts = group["a/episodes/start"][:]
    np.testing.assert_array_equal(array[:][starts], [each.observations[0] for each in episodes])


def test_an_archive_is_unpacked_once_and_not_written_to(store: Store, tmp_path: Path) -> None:
    compact(store, tmp_path / "a.zarr")
    first = Store.open(tmp_path / "a.zarr")
    assert first.path.is_relative_to(tmp_path / "cache" / "slipway" / "archives")
    changed = {path: path.stat().st_mtime_ns for path in first.path.rglob("*")}
    assert Store.open(tmp_path / "a.zarr").path == first.path
    assert {path: path.stat().st_mtime_ns for path in first.path.rglob("*")} == changed
    with pytest.raises(WriterStateError, match="archive"):
        first.writer("a")


def test_a_damaged_archive_leaves_no_cache(store: Store, tmp_path: Path) -> None:
    compact(store, tmp_path / "a.zarr")
    file = next((tmp_path / "a.zarr" / "a" / "reward" / "c").rglob("0"))
    data = bytearray(file.read_bytes())
    data[len(data) // 4] ^= 1
    file.write_bytes(data)
    with pytest.raises(CorruptStoreError, match="restore"):
        unpack(tmp_path / "a.zarr", cache=tmp_path / "other")
    assert list((tmp_path / "other").iterdir()) == []


def test_compaction_is_whole_or_not_at_all(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with store.writer("a"), pytest.raises(WriterLockedError, match="closed"):
        compact(store, tmp_path / "a.zarr")
    (tmp_path / "there").mkdir()
    with pytest.raises(StoreExistsError):
        compact(store, tmp_path / "there")
    rows = np.memmap(store.path / "streams" / "b" / "rows" / "c" / "0" / "0", np.float32, "r+").reshape(CHUNK, -1)
    rows[3, store.spec.offsets["valid"]] = 0.5
    with pytest.raises(CorruptStoreError, match="stream 'b'"):
        compact(store, tmp_path / "a.zarr")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.zarr", "there"]
