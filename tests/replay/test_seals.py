"""Seals: the checksums of a chunk as it was appended, whatever happened to the writer and to the files since."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import zarr

from replay import Store, StreamWriter
from replay.log import DURABILITIES, Durability
from replay.seals import SEAL_BYTES, Seal, read_seals
from tests.replay import formula

ROOT = Path(__file__).parents[2]
CHUNK = formula.CHUNK_ROWS


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "s.zarr", formula.spec(), chunk_rows=CHUNK)


def folder(store: Store) -> Path:
    return store.path / "streams" / "a"


def fill(writer: StreamWriter, until: int) -> int:
    return next(head for head in formula.append_forever(writer) if head >= until)


def of_files(store: Store, chunk: int, rows: int) -> Seal:
    """The seal that the first rows of a chunk's files should have."""
    data = (folder(store) / "rows" / "c" / str(chunk) / "0").read_bytes()[: rows * store.spec.row_width * 4]
    meta = (folder(store) / "meta" / "c" / str(chunk) / "0").read_bytes()[: rows * 40]
    return Seal(chunk, rows, google_crc32c.value(data), google_crc32c.value(meta))


def expected(store: Store, head: int) -> dict[int, Seal]:
    """The seals of a closed stream of `head` rows."""
    chunks = {chunk: min(CHUNK, head - chunk * CHUNK) for chunk in range(-(-head // CHUNK))}
    return {chunk: of_files(store, chunk, rows) for chunk, rows in chunks.items()}


@pytest.mark.parametrize("durability", DURABILITIES)
def test_a_closed_stream_is_sealed_to_its_last_row_and_goes_on(store: Store, durability: Durability) -> None:
    for until in (50, 60, 3 * CHUNK, 3 * CHUNK + 40, 5 * CHUNK):
        with store.writer("a", durability=durability) as writer:
            head = fill(writer, until)
        assert read_seals(folder(store)) == expected(store, head)
    seals = read_seals(folder(store))
    published = zarr.open_group(store.path, mode="r")["streams/a/seals"][:]  # type: ignore[index]
    assert published[:, :3].tolist() == [[s.rows, s.rows_crc, s.meta_crc] for s in seals.values()]  # type: ignore[index, call-overload, union-attr]


def test_a_block_that_fills_chunks_exactly_or_several_at_once_seals_each(store: Store) -> None:
    head = 0
    with store.writer("a", durability="process") as writer:
        for n in (CHUNK, 2 * CHUNK, CHUNK - 3, 2 * CHUNK + 3, 3):
            rows = np.random.default_rng(n).normal(size=(n, store.spec.row_width)).astype(np.float32)
            rows[:, store.spec.offsets["first"]] = 1
            rows[:, store.spec.offsets["valid"]] = 1
            writer.append_block(rows, np.full((n, 5), n))
            head += n
            full = {chunk: seal for chunk, seal in expected(store, head).items() if seal.rows == CHUNK}
            assert read_seals(folder(store)) == full  # written with the commit, before the writer closes
    assert read_seals(folder(store)) == expected(store, head)


@pytest.mark.parametrize("durability", DURABILITIES)
def test_chunks_that_a_killed_writer_filled_are_sealed_by_the_next(store: Store, durability: Durability) -> None:
    command = [sys.executable, "-m", "tests.replay.formula", str(store.path), "a", durability]
    for turn in range(3):
        target = (turn + 1) * 4 * CHUNK
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            while int(child.stdout.readline()) < target:
                pass
            child.kill()
        with store.writer("a", durability=durability) as writer:
            head = writer.head
        assert head >= target
        assert read_seals(folder(store)) == expected(store, head)


@pytest.mark.parametrize("durability", DURABILITIES)
def test_a_byte_that_changed_in_a_sealed_row_stays_detectable_after_more_rows(
    store: Store, durability: Durability
) -> None:
    with store.writer("a", durability=durability) as writer:
        fill(writer, CHUNK + 50)
    file = folder(store) / "rows" / "c" / "1" / "0"
    data = bytearray(file.read_bytes())
    data[100] ^= 4
    file.write_bytes(data)
    with store.writer("a", durability=durability) as writer:
        head = fill(writer, 3 * CHUNK)
    seals, files = read_seals(folder(store)), expected(store, head)
    assert [chunk for chunk in files if seals[chunk] != files[chunk]] == [1]
    assert seals[1].meta_crc == files[1].meta_crc


def test_a_store_without_seals_is_read_written_and_sealed_from_here_on(store: Store) -> None:
    with store.writer("a") as writer:
        old = fill(writer, 2 * CHUNK + 20)
    shutil.rmtree(folder(store) / "seals")
    assert read_seals(folder(store)) == {}
    assert formula.wrong_rows(store.reader(), "a") == []
    with store.writer("a") as writer:
        head = fill(writer, 4 * CHUNK + 5)
    assert formula.wrong_rows(store.reader(), "a") == []
    assert read_seals(folder(store)) == {
        chunk: s for chunk, s in expected(store, head).items() if chunk >= old // CHUNK
    }


def test_seals_of_rows_that_recovery_gave_up_are_erased(store: Store) -> None:
    with store.writer("a", durability="process") as writer:
        fill(writer, CHUNK - 10)
        rows = np.zeros((20, store.spec.row_width), np.float32)
        rows[:, store.spec.offsets["first"]] = 1
        writer.append_block(rows, np.zeros((20, 5), np.int64))
        held = writer.head - 20
        saved = (folder(store) / "commit" / "c" / "0" / "0").read_bytes()
    assert read_seals(folder(store))[0].rows == CHUNK
    (folder(store) / "commit" / "c" / "0" / "0").write_bytes(
        saved
    )  # a power loss: the commit is there, its rows are not
    file = folder(store) / "rows" / "c" / "0" / "0"
    data = bytearray(file.read_bytes())
    data[held * store.spec.row_width * 4 :] = bytes(len(data) - held * store.spec.row_width * 4)
    file.write_bytes(data)
    writer = store.writer("a", durability="process")
    assert writer.head == held
    assert read_seals(folder(store)) == {}
    fill(writer, CHUNK + 7)
    head = writer.head
    writer.close()
    assert read_seals(folder(store)) == expected(store, head)


def test_damaged_seals_are_left_out_and_the_others_read(store: Store) -> None:
    with store.writer("a") as writer:
        head = fill(writer, 4 * CHUNK)
    file = folder(store) / "seals" / "c" / "0" / "0"
    data = bytearray(file.read_bytes())
    assert len(data) == 1024 * SEAL_BYTES  # whole, so that any Zarr reader opens it
    data[2 * SEAL_BYTES + 9] ^= 1
    file.write_bytes(data)
    assert read_seals(folder(store)) == {chunk: s for chunk, s in expected(store, head).items() if chunk != 2}
    file.write_bytes(data[: SEAL_BYTES + 7])
    assert set(read_seals(folder(store))) == {0}
    with store.writer("a") as writer:
        head = fill(writer, 6 * CHUNK)
    seals = read_seals(folder(store))
    assert {0, 4, 5} <= set(seals)
    assert seals == {chunk: s for chunk, s in expected(store, head).items() if chunk in seals}
