"""`repair` makes damaged stores usable, keeps all evidence, and says what was lost."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from replay import Store
from replay.errors import CorruptStoreError, SchemaError, WriterLockedError
from replay.repair import repair
from replay.retention import Capacity, evict
from replay.sampler import UniformSampler
from replay.verify import verify
from tests.faults.test_verify import CHUNK, META_BYTES, ROW_BYTES, fill, flip
from tests.replay import formula
from tests.replay.test_retention import wrong_pairs


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.create(tmp_path / "s.zarr", formula.spec(), chunk_rows=CHUNK)
    fill(store, "a", 3 * CHUNK + 40)
    fill(store, "b", 50, "interval")
    return store


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def usable(store: Store) -> None:
    """Sound, sampled right, and open to writers."""
    assert verify(store.path)["findings"] == []
    reader = store.reader()
    assert reader.num_steps == reader.count_sampleable() > 0
    sampler = UniformSampler(reader, 256, rng=np.random.default_rng(0))
    assert sum(wrong_pairs(sampler) for _ in range(10)) == 0
    for name in store.stream_names():
        with store.writer(name, durability="process") as writer:
            head = writer.head
            assert head == reader.heads.get(name, 0)


def test_a_sound_store_is_left_as_it_is(store: Store) -> None:
    before = files(store.path)
    assert repair(store.path) == {
        "path": str(store.path), "sound": True, "actions": [], "lost_rows": 0, "evidence": None,
    }  # fmt: skip
    assert files(store.path) == before


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("{")], ids=["missing", "corrupt"])
@pytest.mark.parametrize("name", ["streams", "streams/a", "streams/a/rows", "streams/a/meta", "streams/a/commit"])
def test_documents_are_written_anew_and_nothing_is_lost(
    store: Store, name: str, damage: Callable[[Path], object]
) -> None:
    file = store.path / name / "zarr.json"
    text, rows = file.read_text(), store.num_rows
    damage(file)
    damaged = file.read_bytes() if file.exists() else None
    done = repair(store.path)
    assert (done["sound"], done["lost_rows"]) == (True, 0)
    assert file.read_text() == text
    if damaged is not None:
        assert (Path(done["evidence"]) / name / "zarr.json").read_bytes() == damaged
    assert store.num_rows == rows
    usable(store)


def commit_file(store: Store) -> Path:
    return store.path / "streams" / "a" / "commit" / "c" / "0" / "0"


def both_slots(file: Path) -> None:
    flip(file, 24)
    flip(file, 4096 + 24)


@pytest.mark.parametrize(
    "damage", [both_slots, Path.unlink, lambda file: flip(file, 24), lambda file: file.write_bytes(b"")]
)
@pytest.mark.parametrize("seals", [True, False], ids=["sealed", "unsealed"])
@pytest.mark.parametrize("evicted", [True, False], ids=["evicted", "whole"])
def test_a_commit_is_rebuilt_from_seals_and_rows(
    store: Store, seals: bool, evicted: bool, damage: Callable[[Path], object]
) -> None:
    if evicted:
        evict(store, Capacity(steps=2 * CHUNK), streams=["a"])
    if not seals:
        shutil.rmtree(store.path / "streams" / "a" / "seals")
    before = store.reader()
    held, steps = before.num_rows, before.num_steps
    damage(commit_file(store))
    damaged = commit_file(store).read_bytes() if commit_file(store).exists() else None
    done = repair(store.path)
    assert (done["sound"], done["lost_rows"]) == (True, 0)
    after = store.reader()
    assert (after.num_rows, after.num_steps, after.heads) == (held, steps, before.heads)
    if damaged is not None:
        assert (Path(done["evidence"]) / commit_file(store).relative_to(store.path)).read_bytes() == damaged
    usable(store)


@pytest.mark.parametrize("array", ["rows", "meta"])
@pytest.mark.parametrize(
    "damage",
    [lambda file: flip(file, 999), Path.unlink, lambda file: file.write_bytes(file.read_bytes()[:1000])],
    ids=["flipped", "missing", "truncated"],
)
def test_of_a_stream_with_a_damaged_chunk_the_sound_rows_are_kept(
    store: Store, array: str, damage: Callable[[Path], object]
) -> None:
    head = store.reader().heads["a"]
    damage(store.path / "streams" / "a" / array / "c" / "1" / "0")
    damaged = files(store.path / "streams" / "a")
    done = repair(store.path)
    assert done["sound"]
    assert files(Path(done["evidence"]) / "streams" / "a") == damaged
    assert store.stream_names() == ["a-repaired", "b"]
    kept = store.reader().heads["a-repaired"]
    # The chunk's rows, and those behind it up to the next first row: at most the longest episode.
    assert CHUNK <= done["lost_rows"] == head - kept <= CHUNK + 10
    assert str(done["lost_rows"]) in done["actions"][-1]
    usable(store)


def test_a_block_that_does_not_hold_is_dropped_and_kept_aside(store: Store) -> None:
    shutil.rmtree(store.path / "streams" / "a" / "seals")
    head = store.reader().heads["a"]
    with store.writer("a", durability="process") as writer:
        for start in formula.append_forever(writer):
            if start > head + 30:
                break
        saved = commit_file(store).read_bytes()  # the block is the last commit's, as a kill leaves it
    shutil.rmtree(store.path / "streams" / "a" / "seals")
    commit_file(store).write_bytes(saved)
    row = start - 1
    file = store.path / "streams" / "a" / "rows" / "c" / str(row // CHUNK) / "0"
    flip(file, row % CHUNK * ROW_BYTES + 3)
    damaged = file.read_bytes()
    done = repair(store.path)
    assert done["sound"]
    assert 1 <= done["lost_rows"] <= 10
    assert (Path(done["evidence"]) / file.relative_to(store.path)).read_bytes() == damaged
    usable(store)


def test_a_damaged_seal_is_erased(store: Store) -> None:
    flip(store.path / "streams" / "a" / "seals" / "c" / "0" / "0", 40)
    done = repair(store.path)
    assert (done["sound"], done["lost_rows"]) == (True, 0)
    assert "chunk 1" in done["actions"][0]
    usable(store)


def test_a_lost_spec_is_taken_from_a_like_store_only(store: Store, tmp_path: Path) -> None:
    text = (store.path / "zarr.json").read_text()
    (store.path / "zarr.json").write_text("{")
    with pytest.raises(CorruptStoreError):
        repair(store.path)
    other = Store.create(tmp_path / "other.zarr", formula.spec(observation=30), chunk_rows=CHUNK)
    with pytest.raises(SchemaError, match="another size"):
        repair(store.path, like=other.path)
    twin = Store.create(tmp_path / "twin.zarr", formula.spec(), chunk_rows=CHUNK)
    assert repair(store.path, like=twin.path)["sound"]
    assert (store.path / "zarr.json").read_text() == text
    usable(store)


def test_a_stream_in_use_is_not_repaired(store: Store) -> None:
    file = store.path / "streams" / "b" / "meta" / "zarr.json"
    file.unlink()
    with store.writer("a"), pytest.raises(WriterLockedError):
        repair(store.path)
    assert not file.exists(), "one stream in use: nothing is changed in any"


def test_several_damages_at_once(store: Store) -> None:
    rng = np.random.default_rng(0)
    both_slots(commit_file(store))
    flip(store.path / "streams" / "a" / "meta" / "c" / "0" / "0", int(rng.integers(CHUNK * META_BYTES)))
    (store.path / "streams" / "b" / "rows" / "zarr.json").unlink()
    (store.path / "streams" / "a" / "rows" / "c" / "2" / "0").unlink()
    done = repair(store.path)
    assert done["sound"]
    assert store.stream_names() == ["a-repaired", "b"]
    usable(store)
