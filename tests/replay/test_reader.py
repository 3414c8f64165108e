"""Readers follow a store that another process writes, and show only what is committed."""

from __future__ import annotations

import gc
import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replay import Store, chunks, log, mapping, recovery
from replay import commit as commits
from replay.errors import CorruptStoreError, EmptyReplayError, StorageError
from replay.log import DURABILITIES, Durability
from replay.mapping import ChunkTable
from replay.reader import StoreReader
from replay.statistics import episode_lengths, observation_moments, returns, reward_range
from tests.replay import formula

ROOT = Path(__file__).parents[2]


def test_two_readers_follow_a_writer_in_another_process(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s.zarr", formula.spec(), chunk_rows=formula.CHUNK_ROWS)
    readers = [store.reader(), store.reader()]
    samplers = [store.sampler(64, rng=np.random.default_rng(i)) for i in range(2)]
    command = [sys.executable, "-m", "tests.replay.formula", str(store.path), "live", "process"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as child:
        heads = [0, 0]
        deadline = time.monotonic() + 30
        while min(heads) < 20 * formula.CHUNK_ROWS:
            assert child.poll() is None and time.monotonic() < deadline
            for number, reader in enumerate(readers):
                reader.refresh()
                head = reader.heads.get("live", 0)
                assert head >= heads[number]
                heads[number] = head
                if head:
                    assert formula.wrong_rows(reader, "live") == []
                    samplers[number].reader.refresh()
                if head > 10:
                    batch = samplers[number].next()
                    np.testing.assert_array_equal(batch.next_observations[:, 0], batch.observations[:, 0] + 1)
        child.kill()


def test_a_commit_is_seen_within_a_millisecond(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s.zarr", formula.spec())
    reader, waits = store.reader(), []
    with store.writer("a", durability="process") as writer:
        for head in formula.append_forever(writer):
            started = time.perf_counter()
            reader.refresh()
            waits.append(time.perf_counter() - started)
            assert reader.heads == {"a": head}
            if head > 300:
                break
    assert np.median(waits) < 1e-3


def test_a_store_is_made_durable_from_outside_its_live_writer(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s.zarr", formula.spec(), chunk_rows=formula.CHUNK_ROWS)
    with store.writer("closed", durability="process") as closed:
        for head in formula.append_forever(closed):
            if head > 200:
                break
    command = [sys.executable, "-m", "tests.replay.formula", str(store.path), "live", "interval"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.readline()
        previous = -1
        for _ in range(5):
            heads = store.sync()
            assert heads["closed"] == head and heads["live"] >= previous
            previous = heads["live"]
            file = store.path / "streams" / "live" / "commit" / "c" / "0" / "0"
            with file.open("rb") as handle:
                slot = commits.read_newest(handle.fileno(), file)
            assert slot.block_start >= previous or slot.head == previous
            child.stdout.read1(1 << 16)  # type: ignore[attr-defined]
        child.kill()
    assert store.sync()["live"] >= previous  # nobody goes on from what it left


@pytest.mark.parametrize("durability", DURABILITIES)
def test_what_sync_promises_waits_for_the_flush_of_a_writer_that_may_go_on_without_one(
    tmp_path: Path, durability: Durability, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At level interval its next two commits would leave no slot that recovery believes after a power loss."""
    monkeypatch.setattr(log, "FLUSH_INTERVAL_S", 1e3)
    store = Store.create(tmp_path / "s.zarr", formula.spec(), chunk_rows=formula.CHUNK_ROWS)
    with store.writer("a", durability=durability) as writer:
        appended = formula.append_forever(writer)
        head = next(itertools.islice(appended, 20, None))
        if durability == "interval":
            with pytest.raises(StorageError, match=rf"process {os.getpid()}\) has not made row {head} durable"):
                store.sync(timeout_s=0.05)
            flush = threading.Timer(0.1, writer._log.flush)
            flush.start()
            store.sync()
            assert writer._log._block_start == head
            flush.join()
        assert store.sync(timeout_s=0.05) == {"a": head}


@pytest.mark.parametrize("space", [mapping.AddressRange, ChunkTable])
def test_a_chunk_that_is_evicted_while_a_reader_maps_it_is_passed_over(
    tmp_path: Path, space: Callable[[int, int], mapping.RowSpace], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.create(tmp_path / "s.zarr", formula.spec(), chunk_rows=formula.CHUNK_ROWS)
    with store.writer("a", durability="process") as writer:
        appended = formula.append_forever(writer)
        while writer.head < 4 * formula.CHUNK_ROWS:
            next(appended)

        def evicting(path: Path, size: int) -> None:
            chunks.check_chunk(path, size)
            monkeypatch.undo()
            writer.evict(keep_steps=1)

        monkeypatch.setattr(mapping, "check_chunk", evicting)
        reader = StoreReader([store], space=space(formula.CHUNK_ROWS, store.spec.row_width))
        assert reader.num_rows == writer.head - writer.tail
        assert formula.wrong_rows(reader, "a") == []
        head = writer.head
    (store.path / "streams" / "a" / "rows" / "c" / str((head - 1) // formula.CHUNK_ROWS) / "0").unlink()
    with pytest.raises(CorruptStoreError, match="is missing"):
        StoreReader([store], space=space(formula.CHUNK_ROWS, store.spec.row_width))


def test_a_block_that_is_evicted_while_a_reader_first_looks_at_it_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.create(tmp_path / "s.zarr", formula.spec(), chunk_rows=formula.CHUNK_ROWS)
    block_crc = recovery.block_crc
    with store.writer("a", durability="process") as writer:
        appended = formula.append_forever(writer)
        next(appended)

        def evicting(*arguments: Any) -> int:
            monkeypatch.undo()
            while writer.head < 4 * formula.CHUNK_ROWS:
                next(appended)
            writer.evict(keep_steps=1)
            return block_crc(*arguments)

        monkeypatch.setattr(recovery, "block_crc", evicting)
        reader = store.reader()
        assert reader.num_rows == writer.head - writer.tail
        assert formula.wrong_rows(reader, "a") == []


def test_reading_outside_the_committed_rows_is_refused(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s.zarr", formula.spec(), chunk_rows=formula.CHUNK_ROWS)
    with store.writer("a", durability="process") as writer:
        writer.append_episode(np.zeros((4, 5)), np.zeros((3, 2)), np.zeros(3), terminated=True, truncated=False)
    reader = store.reader()
    assert reader.rows("a", 0, 4).shape == (4, 16) and reader.meta("a", 4, 4).shape == (0, 5)
    for stream, stop in (("a", 5), ("b", 1)):
        with pytest.raises(IndexError):
            reader.rows(stream, 0, stop)
        with pytest.raises(IndexError):
            reader.meta(stream, 0, stop)


def test_views_outlive_their_reader(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s.zarr", formula.spec())
    with store.writer("a", durability="process") as writer:
        writer.append_episode(np.ones((4, 5)), np.ones((3, 2)), np.ones(3), terminated=True, truncated=False)
    reader = store.reader()
    views = [rows for _, _, rows in reader.blocks()]
    reader.close()
    del reader
    gc.collect()
    assert views[0][:, 0].sum() == 4.0


def test_readers_honour_a_tail_whose_chunks_are_gone(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s.zarr", formula.spec(), chunk_rows=formula.CHUNK_ROWS)
    with store.writer("a", durability="process") as writer:
        for head in formula.append_forever(writer):
            if head > 3 * formula.CHUNK_ROWS:
                break
        assert writer.evict(keep_steps=1) >= 2 * formula.CHUNK_ROWS
    sampler = store.sampler(256, rng=np.random.default_rng(0))
    batch = sampler.next()
    assert batch.observations[:, 0].min() >= 2 * formula.CHUNK_ROWS
    np.testing.assert_array_equal(batch.next_observations[:, 0], batch.observations[:, 0] + 1)
    assert formula.wrong_rows(sampler.reader, "a") == []
    assert next(iter(store.episodes())).observations[0, 0] >= 2 * formula.CHUNK_ROWS


def test_statistics_match_numpy_on_the_episodes(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s.zarr", formula.spec(), chunk_rows=formula.CHUNK_ROWS)
    with pytest.raises(EmptyReplayError):
        observation_moments(store.reader())
    with pytest.raises(EmptyReplayError):
        reward_range(store.reader())
    rng = np.random.default_rng(0)
    kept, observations, rewards = [], [], []
    for stream in ("a", "b"):
        with store.writer(stream, durability="process") as writer:
            for number in range(12):
                steps = int(rng.integers(1, 90))
                data = 1e4 + rng.normal(size=(steps + 1, 5)), rng.normal(size=(steps, 2)), rng.normal(size=steps)
                writer.append_episode(*data, terminated=number % 3 == 0, truncated=number % 3 == 1)
                observations.append(data[0][:-1].astype(np.float32))
                rewards.append(data[2].astype(np.float32))
                if number % 3 != 2:
                    kept.append((data[2].astype(np.float32).astype(np.float64).sum(), steps))
    every = np.concatenate(observations).astype(np.float64)
    mean, std, count = observation_moments(store.reader())
    assert count == len(every) and mean.dtype == np.float64
    np.testing.assert_allclose(mean, every.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(std, every.std(axis=0), rtol=1e-9)
    np.testing.assert_allclose(returns(store), [total for total, _ in kept], rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(episode_lengths(store), [steps for _, steps in kept])
    assert reward_range(store.reader()) == (np.concatenate(rewards).min(), np.concatenate(rewards).max())
