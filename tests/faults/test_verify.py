"""`verify` finds every damage that is caused here, says where, and is silent about stores that are sound."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replay import Store
from replay.errors import StoreNotFoundError
from replay.retention import Capacity, evict
from replay.verify import verify
from tests.replay import formula

ROOT = Path(__file__).parents[2]
CHUNK = formula.CHUNK_ROWS
ROW_BYTES, META_BYTES = 4 * 16, 40


def fill(store: Store, stream: str, until: int, durability: str = "process") -> None:
    with store.writer(stream, durability=durability) as writer:  # type: ignore[arg-type]
        for head in formula.append_forever(writer):
            if head >= until:
                break


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.create(tmp_path / "s.zarr", formula.spec(), chunk_rows=CHUNK)
    fill(store, "a", 3 * CHUNK + 40)
    fill(store, "b", 50, "interval")
    return store


def flip(path: Path, offset: int, mask: int = 0x10) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ mask]))


def found(store: Store) -> list[dict[str, Any]]:
    report = verify(store.path)
    assert json.loads(json.dumps(report)) == report
    assert report["sound"] == (not report["findings"])
    assert all("\n" not in finding["message"] for finding in report["findings"])
    return list(report["findings"])


def test_a_closed_store_is_sound_and_wholly_sealed(store: Store) -> None:
    report = verify(store.path)
    assert (report["sound"], report["unsealed_rows"], report["streams"]) == (True, 0, 2)
    assert report["rows"] == report["sealed_rows"] == store.num_rows


def test_a_store_in_use_evicted_from_or_left_by_a_killed_writer_is_sound(store: Store) -> None:
    evict(store, Capacity(steps=CHUNK), streams=["a"])
    assert found(store) == []
    command = [sys.executable, "-m", "tests.replay.formula", str(store.path), "live", "interval"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline()
        for _ in range(4):
            child.stdout.read1(1 << 16)  # type: ignore[attr-defined]
            assert found(store) == []
        child.kill()
    assert found(store) == []
    time.sleep(0.01)
    fill(store, "live", 1)
    assert found(store) == []


@pytest.mark.parametrize("seed", [0, 1])
def test_any_flipped_byte_of_a_sealed_row_is_found_with_its_stream_and_rows(store: Store, seed: int) -> None:
    rng = np.random.default_rng(seed)
    head = store.reader().heads["a"]
    for trial in range(60):
        array, width = (("rows", ROW_BYTES), ("meta", META_BYTES))[trial % 2]
        row, byte = int(rng.integers(head)), int(rng.integers(width))
        file = store.path / "streams" / "a" / array / "c" / str(row // CHUNK) / "0"
        at, mask = row % CHUNK * width + byte, 1 << int(rng.integers(8))
        flip(file, at, mask)
        sums = [finding for finding in found(store) if finding["kind"] == "checksum"]
        assert len(sums) == 1
        assert (sums[0]["stream"], sums[0]["file"]) == ("a", str(file))
        assert sums[0]["first_row"] <= row < sums[0]["stop_row"] <= sums[0]["first_row"] + CHUNK
        flip(file, at, mask)
    assert found(store) == []


def test_any_flipped_byte_of_the_unsealed_end_is_found_by_the_block(store: Store) -> None:
    """A writer killed after it appended to a stream that a predecessor had sealed up to here."""
    script = (
        "import os, signal, sys; from replay import Store, log; from tests.replay import formula as f\n"
        "log.FLUSH_INTERVAL_S = 1e3\n"
        "w = Store.open(sys.argv[1]).writer('b', durability='interval'); start = w.head\n"
        "for head in f.append_forever(w):\n"
        "    if head > start + 20: os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    start = store.reader().heads["b"]
    assert subprocess.run([sys.executable, "-c", script, str(store.path)], cwd=ROOT, check=False).returncode == -9
    assert found(store) == []
    head = store.reader().heads["b"]
    file = store.path / "streams" / "b" / "rows" / "c" / "0" / "0"
    for row in range(start, head):
        flip(file, row * ROW_BYTES + row % ROW_BYTES)
        blocks = [finding for finding in found(store) if finding["kind"] == "block"]
        assert [(each["stream"], each["first_row"], each["stop_row"]) for each in blocks] == [("b", start, head)]
        flip(file, row * ROW_BYTES + row % ROW_BYTES)


def rows_file(store: Store) -> Path:
    return store.path / "streams" / "a" / "rows" / "c" / "1" / "0"


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.unlink(),
        lambda file: file.write_bytes(file.read_bytes()[:-1]),
        lambda file: file.write_bytes(bytes(len(file.read_bytes()))),
    ],
    ids=["missing", "truncated", "zero-filled"],
)
@pytest.mark.parametrize("array", ["rows", "meta"])
def test_a_damaged_chunk_file_is_named_with_its_rows(
    store: Store, array: str, damage: Callable[[Path], object]
) -> None:
    file = store.path / "streams" / "a" / array / "c" / "1" / "0"
    damage(file)
    first = found(store)[0]
    assert (first["file"], first["stream"]) == (str(file), "a")
    assert (first["first_row"], first["stop_row"]) == (CHUNK, 2 * CHUNK)


@pytest.mark.parametrize("array", ["", "rows", "meta", "commit", "seals"])
def test_a_missing_or_edited_document_of_a_stream_is_found(store: Store, array: str) -> None:
    file = store.path / "streams" / "a" / array / "zarr.json"
    text = file.read_text()
    for damaged in (None, "{", text.replace("3", "2", 1), "[]"):
        file.unlink()
        if damaged is not None:
            file.write_text(damaged)
        assert [(each["kind"], each["file"]) for each in found(store)] == [("document", str(file))]
        file.write_text(text)
    assert found(store) == []


def test_the_documents_of_the_store_are_checked(store: Store) -> None:
    (store.path / "streams" / "zarr.json").write_text("{}")
    assert [each["kind"] for each in found(store)] == ["document"]
    (store.path / "zarr.json").write_text("{}" * 2)
    assert [each["kind"] for each in found(store)] == ["document"]
    shutil.rmtree(store.path)
    with pytest.raises(StoreNotFoundError):
        verify(store.path)


def test_damaged_commit_slots_and_seals_are_found(store: Store) -> None:
    file = store.path / "streams" / "a" / "commit" / "c" / "0" / "0"
    for at in (17, 4096 + 40, 200, 4096 + 4000):
        flip(file, at)
        assert {each["kind"] for each in found(store)} == {"commit"}
        flip(file, at)
    flip(file, 17)
    flip(file, 4096 + 17)
    assert [(each["kind"], each["file"]) for each in found(store)] == [("commit", str(file))]
    flip(file, 17)
    flip(file, 4096 + 17)
    flip(store.path / "streams" / "a" / "seals" / "c" / "0" / "0", 40)
    assert [each["kind"] for each in found(store)] == ["seal"]


@pytest.mark.parametrize(
    ("column", "value", "what"),
    [
        ("reward", np.nan, "finite"),
        ("valid", 0.5, "neither 0 nor 1"),
        ("first", 0.0, "continues an episode that has ended"),
        ("interrupted", 1.0, "counts as interrupted"),
    ],
)
def test_rows_that_make_no_sense_are_found_without_any_checksum(
    store: Store, column: str, value: float, what: str
) -> None:
    shutil.rmtree(store.path / "streams" / "b" / "seals")
    at = store.spec.offsets[column]
    rows = np.memmap(store.path / "streams" / "b" / "rows" / "c" / "0" / "0", np.float32, "r+").reshape(CHUNK, -1)
    row = int(np.flatnonzero(rows[:50, store.spec.offsets["first"]])[2])
    rows[row, at] = value
    findings = [each for each in found(store) if each["kind"] == "row"]
    assert any(what in each["message"] and each["first_row"] == row for each in findings), findings
