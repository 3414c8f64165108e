"""Archives: compressed, sharded, named; opened by plain Zarr; equal after the round trip; trained from by a cache."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr

from replay import Store
from replay.archive import compact, unpack
from replay.errors import (
    CorruptStoreError,
    RetentionError,
    StorageError,
    StoreExistsError,
    WriterLockedError,
    WriterStateError,
)
from replay.repair import repair
from replay.retention import Capacity, evict
from replay.sampler import UniformSampler
from replay.verify import verify
from tests.faults.test_verify import CHUNK, fill, flip
from tests.replay import formula

ROOT = Path(__file__).parents[2]


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


def test_an_archive_is_verified_in_its_unpacked_copy_and_neither_evicted_from_nor_repaired(
    store: Store, tmp_path: Path
) -> None:
    path = tmp_path / "a.zarr"
    compact(store, path)
    copy = Store.open(path)
    assert verify(path)["findings"] == []
    assert verify(path)["rows"] == store.num_rows

    def contents() -> dict[Path, bytes]:
        return {file: file.read_bytes() for each in (path, copy.path) for file in each.rglob("*") if file.is_file()}

    before = contents()
    with pytest.raises(RetentionError, match="archive"):
        evict(copy, Capacity(steps=1))
    for place in (path, copy.path):
        with pytest.raises(WriterStateError, match="archive"):
            repair(place)
    assert contents() == before
    flip(copy.path / "streams" / "a" / "rows" / "c" / "0" / "0", 65)
    assert {each["kind"] for each in verify(path)["findings"]} == {"checksum"}
    for place, words in ((copy.path, "remove it"), (path, "remove its unpacked copy")):
        with pytest.raises(WriterStateError, match=words):
            repair(place)


def test_what_a_killed_unpacking_left_goes_with_the_next(store: Store, tmp_path: Path) -> None:
    compact(store, tmp_path / "a.zarr")
    script = (
        "import os, signal, sys; from replay import Store, archive\n"
        "archive.StreamLog.commit_block = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "Store.open(sys.argv[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "a.zarr")], cwd=ROOT, check=False)
    assert done.returncode == -9
    cache = tmp_path / "cache" / "slipway" / "archives"
    (left,) = cache.iterdir()
    assert ".partial-" in left.name
    living = cache / f"{left.name.rpartition('-')[0]}-{os.getppid()}"
    living.mkdir()
    place = Store.open(tmp_path / "a.zarr").path
    assert sorted(cache.iterdir()) == sorted([living, place])


def test_an_archive_that_cannot_be_unpacked_says_where_it_was_to_go(store: Store, tmp_path: Path) -> None:
    compact(store, tmp_path / "a.zarr")
    (tmp_path / "cache").write_text("a file, where a folder is needed")
    with pytest.raises(StorageError, match=r"cannot be unpacked into .*cache.*: set XDG_CACHE_HOME to a folder"):
        Store.open(tmp_path / "a.zarr")
