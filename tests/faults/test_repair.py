"""`repair` makes damaged stores usable, keeps all evidence, and says what was lost."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from replay import Store, log
from replay import repair as repairing
from replay.errors import CorruptStoreError, SchemaError, WriterLockedError
from replay.repair import repair
from replay.retention import Capacity, evict
from replay.sampler import UniformSampler
from replay.verify import Finding, verify
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


def lose_power(store: Store, stream: str) -> tuple[int, int]:
    """What a power loss at level interval commonly leaves: slots on the disk, the rows since the last flush as zeros.

    Returns the head that was flushed and the one that was committed."""
    with patch.object(log, "FLUSH_INTERVAL_S", 1e3), store.writer(stream, durability="interval") as writer:
        appended = formula.append_forever(writer)
        while writer.head < 90:
            next(appended)
        writer.sync()
        flushed = writer.head
        while writer.head < 120:
            next(appended)
        head = writer.head
        saved = {path: path.read_bytes() for path in (store.path / "streams" / stream).rglob("0") if path.is_file()}
    for path, data in saved.items():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    rows = np.memmap(store.path / "streams" / stream / "rows" / "c" / "0" / "0", np.float32, "r+").reshape(CHUNK, -1)
    rows[flushed:] = 0
    return flushed, head


def test_a_power_loss_costs_a_stream_its_block_and_nothing_else(store: Store) -> None:
    flushed, head = lose_power(store, "b")
    findings = [(each["kind"], each["first_row"], each["stop_row"]) for each in verify(store.path)["findings"]]
    assert findings == [("block", flushed, head)]
    done = repair(store.path)
    assert (done["sound"], done["lost_rows"]) == (True, head - flushed)
    assert store.reader().heads["b"] == flushed
    assert store.stream_names() == ["a", "b"]
    usable(store)


@pytest.mark.parametrize(
    "damage",
    [
        lambda stream: flip(stream / "commit" / "c" / "0" / "0", 24),
        lambda stream: flip(stream / "commit" / "c" / "0" / "0", 4096 + 24),
        lambda stream: flip(stream / "commit" / "c" / "0" / "0", 300),
    ],
    ids=["first slot", "second slot", "padding"],
)
def test_a_damaged_slot_beside_a_lost_block_costs_no_more_than_the_block(
    store: Store, damage: Callable[[Path], None]
) -> None:
    flushed, _ = lose_power(store, "b")
    damage(store.path / "streams" / "b")
    done = repair(store.path)
    assert done["sound"]
    assert store.reader().heads["b"] == flushed
    usable(store)


def test_rows_changed_below_a_lost_block_are_salvaged_without_it(store: Store) -> None:
    flushed, head = lose_power(store, "b")
    rows = np.memmap(store.path / "streams" / "b" / "rows" / "c" / "0" / "0", np.float32, "r+").reshape(CHUNK, -1)
    changed = int(np.flatnonzero(rows[:flushed, store.spec.offsets["first"]])[-2])
    rows[changed, store.spec.offsets["valid"]] = 0.5
    done = repair(store.path)
    assert done["sound"]
    assert store.stream_names() == ["a", "b-repaired"]
    kept = store.reader().heads["b-repaired"]
    assert done["lost_rows"] == head - kept
    assert head - flushed < done["lost_rows"] <= head - changed
    usable(store)


@pytest.mark.parametrize("chunk", [0, 3])
@pytest.mark.parametrize("array", ["rows", "meta"])
@pytest.mark.parametrize("cut", [Path.unlink, lambda file: file.write_bytes(file.read_bytes()[:40])])
def test_a_damaged_commit_beside_a_chunk_that_is_not_whole_is_repaired(
    store: Store, chunk: int, array: str, cut: Callable[[Path], object]
) -> None:
    both_slots(commit_file(store))
    cut(store.path / "streams" / "a" / array / "c" / str(chunk) / "0")
    assert repair(store.path)["sound"]
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


def test_no_writer_gets_in_while_a_store_is_repaired(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    lose_power(store, "b")
    both_slots(commit_file(store))
    (store.path / "streams" / "a" / "rows" / "c" / "1" / "0").unlink()
    tried = 0
    check = repairing._StreamRepair._check

    def beside(self: repairing._StreamRepair) -> list[Finding]:
        nonlocal tried
        with pytest.raises(WriterLockedError):
            store.writer(self._name)
        tried += 1
        return check(self)

    monkeypatch.setattr(repairing._StreamRepair, "_check", beside)
    assert repair(store.path)["sound"]
    assert tried >= 4


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
