"""Damage within a stream that recovery does not need, clocks that go back, streams that do not belong together."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr

from replay import Store, StoreSpec
from replay.errors import CorruptStoreError, SchemaError
from replay.seals import read_seals
from tests.faults.test_store_damage import fill, one_line
from tests.replay import formula
from tests.replay.test_seals import of_files


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.create(tmp_path / "s.zarr", formula.spec(), chunk_rows=formula.CHUNK_ROWS)
    with store.writer("a", durability="process") as writer:
        fill(writer, 300)
    return store


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("{"), lambda path: path.write_text("[]")])
def test_zarr_json_of_a_stream_is_needed_by_nobody_and_mended_by_the_next_writer(
    store: Store, damage: Callable[[Path], None]
) -> None:
    folder = store.path / "streams" / "a"
    documents = [folder / "zarr.json", *(folder / array / "zarr.json" for array in ("rows", "meta", "commit", "seals"))]
    intact = [json.loads(document.read_text()) for document in documents]
    for document in documents:
        damage(document)
    assert formula.wrong_rows(store.reader(), "a") == []
    store.writer("a").close()
    assert [json.loads(document.read_text()) for document in documents] == intact
    rows = zarr.open_group(store.path, mode="r")["streams/a/rows"][:]  # type: ignore[index]
    np.testing.assert_array_equal(rows, store.reader().rows("a", 0, store.num_rows))


def test_a_zero_filled_chunk_below_the_last_block_shows_in_its_seal_and_nowhere_is_it_a_step(store: Store) -> None:
    head = store.num_rows
    file = store.path / "streams" / "a" / "rows" / "c" / "1" / "0"
    file.write_bytes(bytes(file.stat().st_size))
    assert read_seals(file.parents[3])[1] != of_files(store, 1, formula.CHUNK_ROWS)
    with store.writer("a") as writer:
        assert writer.head == head
        fill(writer, head + formula.CHUNK_ROWS)
    rows = store.reader().rows("a", formula.CHUNK_ROWS, 2 * formula.CHUNK_ROWS)
    assert not rows.any()  # not valid: no sampler draws what is gone
    assert formula.wrong_rows(store.reader(), "a") == list(range(formula.CHUNK_ROWS, 2 * formula.CHUNK_ROWS))


def test_a_zero_filled_last_chunk_ends_the_stream_at_what_certainly_holds(store: Store) -> None:
    stream = store.path / "streams" / "b"
    with store.writer("b", durability="process") as writer:
        fill(writer, 300)
        head = writer.head
        slots = (stream / "commit" / "c" / "0" / "0").read_bytes()  # before `close` flushed
    (stream / "commit" / "c" / "0" / "0").write_bytes(slots)
    zeroed = stream / "rows" / "c" / "2" / "0"
    zeroed.write_bytes(bytes(zeroed.stat().st_size))
    seen = store.reader().heads["b"]
    with store.writer("b", durability="process") as writer:
        assert head - 2 * 9 <= writer.head == seen < head


def test_rows_keep_their_order_and_their_times_when_the_clock_goes_back(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter(range(10**18, 0, -(10**9)))  # a second back with every step
    monkeypatch.setattr(time, "time_ns", lambda: next(now))
    with store.writer("b", durability="interval") as writer:
        head = fill(writer, 400)
    monkeypatch.undo()
    reader = store.reader()
    assert formula.wrong_rows(reader, "b") == []
    meta = reader.meta("b", 0, head)
    stamped = meta[meta[:, 1] > 0, 1]
    assert len(stamped) > 200 and (np.diff(stamped) <= 0).all() and stamped[-1] < stamped[0]
    mono = meta[meta[:, 2] > 0, 2]
    assert (np.diff(mono) >= 0).all()
    with store.writer("b") as writer:  # opened with the clock put right: time plays no part in recovery
        assert writer.head == head
    starts = [int(episode.observations[0, 0]) for episode in store.episodes() if episode.stream == "b"]
    assert starts == sorted(starts) and len(starts) > 50


@pytest.mark.parametrize("wider", [True, False])
def test_a_stream_of_another_layout_is_refused_by_readers_and_writers(
    store: Store, tmp_path: Path, wider: bool
) -> None:
    """Moved in from another store: as wide, with other columns, or wider."""
    terms = [{"name": "other", "offset": 0, "length": 20 if wider else 6, "dtype": "float32"}]
    other = Store.create(
        tmp_path / "other.zarr", StoreSpec.from_terms(terms, [-1.0], [1.0]), chunk_rows=formula.CHUNK_ROWS
    )
    assert (other.spec.row_width != store.spec.row_width) is wider
    with other.writer("b") as writer:
        writer.append_episode(
            np.ones((2, terms[0]["length"])), np.ones((1, 1)), np.ones(1), terminated=True, truncated=False
        )
    shutil.copytree(other.path / "streams" / "b", store.path / "streams" / "b")
    for use in (store.reader, lambda: store.writer("b"), store.info):
        with pytest.raises((SchemaError, CorruptStoreError)) as caught:
            use()
        one_line(caught.value, "streams/b", "out of the store")
    assert other.num_steps == 1
