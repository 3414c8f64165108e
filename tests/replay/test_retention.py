"""Retention: the oldest chunks go, readers beside it see right rows only, and a kill in the middle leaves no harm."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from replay import Store
from replay.errors import EvictedError, RetentionError, SchemaError, StorageError, WriterLockedError
from replay.mapping import ChunkTable
from replay.reader import StoreReader
from replay.retention import Capacity, chunk_bytes, evict
from replay.sampler import UniformSampler
from tests.replay import formula

ROOT = Path(__file__).parents[2]
CHUNK = formula.CHUNK_ROWS


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "s.zarr", formula.spec(), chunk_rows=CHUNK)


def fill(store: Store, until: int, *, stream: str = "a", **options: int) -> None:
    with store.writer(stream, durability="process", **options) as writer:  # type: ignore[arg-type]
        for head in formula.append_forever(writer):
            if head >= until:
                break


def chunks(store: Store, array: str, stream: str = "a") -> list[int]:
    return sorted(int(path.name) for path in (store.path / "streams" / stream / array / "c").iterdir())


def wrong_pairs(sampler: UniformSampler) -> int:
    """Sampled transitions whose rows are not the formula's, or not neighbours."""
    batch = sampler.next()
    index = batch.observations[:, 0].astype(np.int64)
    good = np.ones(len(index), np.bool_)
    for offset, part in ((0, batch.observations), (1, batch.next_observations)):
        expected = np.stack([index + offset, *(((index + offset) * k) % 65521 for k in (7, 11, 13, 17))], axis=1)
        good &= (part == expected).all(axis=1)
    good &= batch.rewards == index % 1000
    good &= (batch.actions == np.stack([index % 101, index % 103], axis=1)).all(axis=1)
    return int((~good).sum())


def test_whole_oldest_chunks_go_and_the_counters_of_what_stays_agree(store: Store) -> None:
    fill(store, 5 * CHUNK + 40)
    before = store.info()
    with store.writer("a", durability="process") as writer:
        steps = writer.steps
        assert writer.evict(keep_steps=2 * CHUNK) > 0
        assert writer.tail % CHUNK == 0
        tail = writer.tail
    kept = store.reader()
    assert kept.num_rows == kept.heads["a"] - tail
    valid = kept.rows("a", tail, kept.heads["a"])[:, kept.spec.offsets["valid"]]
    assert valid.sum() >= 2 * CHUNK > valid[CHUNK:].sum()
    assert kept.num_steps == kept.count_sampleable()
    assert formula.wrong_rows(kept, "a") == []
    assert chunks(store, "rows") == chunks(store, "meta") == list(range(tail // CHUNK, 6))
    after = store.info()
    assert after["bytes"] < before["bytes"]
    assert after["episodes"] < before["episodes"]
    with store.writer("a", durability="process") as writer:
        assert (writer.tail, writer.steps) == (tail, steps), "steps ever taken do not shrink"


@pytest.mark.parametrize("capacity", [{"capacity_steps": 300}, {"capacity_bytes": 3 * 128 * (4 * 16 + 40)}])
def test_a_writer_with_a_capacity_keeps_to_it_by_itself(store: Store, capacity: dict[str, int]) -> None:
    fill(store, 20 * CHUNK + 50, **capacity)
    rows = len(chunks(store, "rows")) * CHUNK
    if "capacity_steps" in capacity:
        assert 300 <= store.num_steps <= 300 + 2 * CHUNK
    else:
        assert rows * (4 * store.spec.row_width + 40) <= capacity["capacity_bytes"]
    reader = store.reader()
    assert reader.num_steps == reader.count_sampleable()
    assert formula.wrong_rows(reader, "a") == []


@pytest.mark.parametrize("room", [3, 4])
def test_a_writer_with_a_capacity_in_bytes_never_has_more_chunk_files(store: Store, room: int) -> None:
    size = room * chunk_bytes(store.spec, CHUNK)
    fill(store, 6 * CHUNK)
    with store.writer("a", durability="process", capacity_bytes=size) as writer:
        most = 0
        for number, head in enumerate(formula.append_forever(writer)):
            if writer._log._reserver is not None:
                writer._log._reserver.join()
            files = (*store.path.glob("streams/a/rows/c/*/0"), *store.path.glob("streams/a/meta/c/*/0"))
            most = max(most, sum(file.stat().st_size for file in files))
            assert most <= size, f"after {number} appends"
            if head > 12 * CHUNK:
                break
    assert most == size, "the chunk that is reserved ahead counts"
    assert formula.wrong_rows(store.reader(), "a") == []


def test_a_mapped_reader_follows_evictions_and_reuses_their_memory(store: Store) -> None:
    fill(store, 3 * CHUNK)
    reader = store.reader()
    for space in (reader, StoreReader([store], space=ChunkTable(CHUNK, store.spec.row_width))):
        sampler = UniformSampler(space, 64, rng=np.random.default_rng(0))
        for _ in range(4):
            head = space.heads["a"]
            fill(store, head + 2 * CHUNK)
            evict(store, Capacity(steps=CHUNK))
            assert wrong_pairs(sampler) == 0, "before the refresh the old mapping serves"
            assert space.refresh()
            assert wrong_pairs(sampler) == 0
            lowest = space.heads["a"] - space.num_rows
            assert min(sampler.next().observations[:, 0].min() for _ in range(20)) >= lowest
            assert space.num_steps == space.count_sampleable()
    slots = reader._streams["a"].slots
    assert max(slots) < 8, f"slots {slots}: evicted ones were not taken again"


def test_evicted_rows_read_as_zeros_once_no_index_refers_to_them(store: Store) -> None:
    fill(store, 4 * CHUNK)
    reader = store.reader()
    sampler = UniformSampler(reader, 64, rng=np.random.default_rng(0))
    held, (_, _, view) = reader.index, next(reader.blocks("a"))
    evict(store, Capacity(steps=CHUNK))
    reader.refresh()
    assert view[5, 0] == 5, "a thread that draws with the old index must not see half a row"
    del held
    reader.refresh()
    assert not view.any()
    assert wrong_pairs(sampler) == 0


def test_meta_rows_evicted_since_the_refresh_are_named_and_their_episodes_passed_over(store: Store) -> None:
    fill(store, 4 * CHUNK)
    reader = store.reader()
    episodes = store.episodes()
    assert next(episodes).episode_id == 0
    evict(store, Capacity(steps=CHUNK))
    with pytest.raises(EvictedError, match="refresh"):
        reader.meta("a", 0, 10)
    rest = [episode.episode_id for episode in episodes]
    assert rest == sorted(rest)
    assert rest[0] > 1


def test_ingested_data_is_never_evicted(tmp_path: Path) -> None:
    spec = formula.spec()
    source = {"kind": "minari", "name": "D4RL/door/human-v2", "digest": "0", "options": {}}
    store = Store.create(
        tmp_path / "s.zarr", type(spec).from_json({**spec.to_json(), "source": source}), chunk_rows=128
    )
    fill(store, 4 * CHUNK)
    with pytest.raises(RetentionError, match="ingested data"):
        evict(store, Capacity(steps=1))
    with pytest.raises(RetentionError, match="ingested data"):
        store.writer("a", capacity_steps=100)
    assert chunks(store, "rows") == [0, 1, 2, 3, *([4] if store.num_rows > 4 * CHUNK else [])]


def test_what_cannot_be_evicted_is_refused(store: Store) -> None:
    fill(store, 4 * CHUNK)
    with pytest.raises(SchemaError, match="two chunks"):
        evict(store, Capacity(bytes=chunk_bytes(store.spec, CHUNK)))
    with pytest.raises(SchemaError, match="three chunks"):
        store.writer("a", capacity_bytes=3 * chunk_bytes(store.spec, CHUNK) - 1)
    with pytest.raises(SchemaError, match="at least 1"):
        evict(store, Capacity(steps=0))
    with pytest.raises(RetentionError, match="no stream 'b'"):
        evict(store, Capacity(steps=1), streams=["b"])
    fill(store, 4 * CHUNK, stream="b")
    with store.writer("b"), pytest.raises(WriterLockedError):
        evict(store, Capacity(steps=1))
    assert chunks(store, "rows")[:4] == [0, 1, 2, 3], "one held stream: nothing goes from any"


WRITER = """
import sys
from replay import Store
from tests.replay import formula
durability = sys.argv[2]
with Store.open(sys.argv[1]).writer("live", durability=durability, capacity_steps=400) as writer:
    print(writer.head, flush=True)
    for head in formula.append_forever(writer):
        pass
"""


@pytest.mark.parametrize("durability", ["process", "interval"])
def test_a_reader_that_samples_while_a_writer_evicts_sees_right_rows_only(store: Store, durability: str) -> None:
    """One process writes and evicts; here one thread samples without pause while another refreshes."""
    command = [sys.executable, "-c", WRITER, str(store.path), durability]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline(), "the writer could not open its stream"
            reader = store.reader()
            stop = threading.Event()
            tails: set[int] = set()

            def follow() -> None:
                while not stop.is_set():
                    reader.refresh()
                    tails.add(reader.heads.get("live", 0) - reader.num_rows)

            while reader.num_steps < 100:
                reader.refresh()
            thread = threading.Thread(target=follow)
            thread.start()
            sampler = UniformSampler(reader, 128, rng=np.random.default_rng(0))
            wrong = batches = 0
            deadline = time.monotonic() + 3.0
            while time.monotonic() < deadline:
                wrong += wrong_pairs(sampler)
                batches += 1
                assert child.poll() is None
            stop.set()
            thread.join()
        finally:
            child.kill()
    assert wrong == 0
    assert batches > 100
    assert len(tails) > 5, f"the reader saw only the tails {sorted(tails)}"


KILLED = """
import os, signal, sys
from replay import Store, chunks
if sys.argv[2] == "before":
    chunks.ChunkFiles.drop_below = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
else:
    def half(self, index):
        chunks.chunk_path(self._array, 0).unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    chunks.ChunkFiles.drop_below = half
from replay.log import StreamLog
store = Store.open(sys.argv[1])
drop = StreamLog._drop_evicted
StreamLog._drop_evicted = lambda self: None
writer = store.writer("a", durability="process")
StreamLog._drop_evicted = drop
writer.evict(keep_steps=100)
"""


@pytest.mark.parametrize("when", ["before", "half"])
def test_what_a_kill_between_tail_and_unlink_leaves_goes_with_the_next_open(store: Store, when: str) -> None:
    fill(store, 5 * CHUNK + 10)
    head = store.num_rows
    done = subprocess.run([sys.executable, "-c", KILLED, str(store.path), when], cwd=ROOT, check=False)
    assert done.returncode == -9
    assert len(chunks(store, "meta")) == 6, "the kill came before the files went"
    reader = store.reader()
    assert 100 <= reader.num_rows < head
    assert formula.wrong_rows(reader, "a") == []
    assert reader.num_steps == reader.count_sampleable()
    with store.writer("a", durability="process") as writer:
        assert writer.head == head
        assert chunks(store, "rows") == chunks(store, "meta") == list(range(writer.tail // CHUNK, 6))


def test_either_slot_alone_carries_the_tail_before_a_file_goes(store: Store) -> None:
    fill(store, 5 * CHUNK + 10)
    evict(store, Capacity(steps=100))
    file = store.path / "streams" / "a" / "commit" / "c" / "0" / "0"
    intact = file.read_bytes()
    for place in (0, 4096):
        file.write_bytes(intact[:place] + bytes(128) + intact[place + 128 :])
        reader = store.reader()
        assert formula.wrong_rows(reader, "a") == []
        assert reader.num_steps == reader.count_sampleable() > 0


def test_a_failed_removal_takes_no_committed_row_from_the_caller(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, **_: bool) -> None:
        raise OSError(30, os.strerror(30), str(path))

    with store.writer("a", durability="process", capacity_steps=100) as writer:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", refuse)
            for head in formula.append_forever(writer):
                if head > 5 * CHUNK:
                    break
            with pytest.raises(StorageError, match="next writer tries again"):
                writer.evict(keep_steps=1)
        assert formula.wrong_rows(store.reader(), "a") == []
    assert len(chunks(store, "rows")) == 6
    with store.writer("a", durability="process") as writer:
        assert len(chunks(store, "rows")) == 6 - writer.tail // CHUNK
