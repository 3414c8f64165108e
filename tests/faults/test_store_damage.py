"""Damaged stores: one clear error that names the file and the mend, or recovery to what certainly holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from replay import ReplayError, Store, StreamWriter
from replay.commit import SLOT_BYTES
from replay.errors import CorruptStoreError, FormatVersionError, StoreNotFoundError
from replay.repair import repair
from tests.replay import formula


def fill(writer: StreamWriter, until: int) -> int:
    for head in formula.append_forever(writer):
        if head >= until:
            return head
    raise AssertionError


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.create(tmp_path / "s.zarr", formula.spec(), chunk_rows=formula.CHUNK_ROWS)
    with store.writer("a", durability="process") as writer:
        fill(writer, 300)
    return store


def edit(path: Path, change: Callable[[dict[str, object]], None]) -> None:
    document = json.loads(path.read_text())
    change(document["attributes"]["slipway"])
    path.write_text(json.dumps(document))


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


def truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(1000)


def one_line(error: BaseException, *said: str) -> None:
    assert "\n" not in str(error)
    for each in said:
        assert each in str(error)


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "zarr").mkdir()
    (tmp_path / "zarr" / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    for name in ("missing", "empty", "file", "zarr"):
        with pytest.raises(StoreNotFoundError) as caught:
            Store.open(tmp_path / name)
        one_line(caught.value, str(tmp_path / name), "ingest", "exist" if name == "missing" else "is")


def test_a_missing_path_does_not_exist_and_a_folder_is_not_taken_for_data(store: Store, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.toml").touch()
    for path, words in (
        (tmp_path / "nosuch", "nosuch does not exist: make a store with `slipway ingest SOURCE --out"),
        (run, "run is not a Slipway store (no zarr.json): make one with `slipway ingest SOURCE --out STORE`"),
        (store.path.with_suffix(""), f"does not exist: did you mean {store.path}?"),
    ):
        with pytest.raises(StoreNotFoundError) as caught:
            Store.open(path)
        one_line(caught.value, words)


def test_a_newer_format_is_refused(store: Store) -> None:
    edit(store.path / "zarr.json", lambda own: own.update(format=2))
    with pytest.raises(FormatVersionError) as caught:
        Store.open(store.path)
    one_line(caught.value, "zarr.json", "format 2", "update Slipway")
    assert "pip install" not in str(caught.value), "on PyPI the name is another project's"


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_text("{"),
        lambda path: path.write_bytes(b"\xff\x00"),
        lambda path: path.write_text("[]"),
        lambda path: edit(path, lambda own: own.pop("spec")),
        lambda path: edit(path, lambda own: own["spec"].update(action_high=[7.0, 7.0])),  # type: ignore[attr-defined]
        lambda path: edit(path, lambda own: own.update(chunk_rows=0)),
        lambda path: edit(path, lambda own: own.update(format="x")),
    ],
)
def test_a_missing_or_corrupt_zarr_json_is_named(store: Store, damage: Callable[[Path], None]) -> None:
    damage(store.path / "zarr.json")
    with pytest.raises(ReplayError) as caught:
        Store.open(store.path)
    one_line(caught.value, "zarr.json", f"`slipway replay repair {store.path} --like OTHER`", "restore it from a copy")


def test_one_corrupt_slot_falls_back_to_the_other(store: Store) -> None:
    file = store.path / "streams" / "a" / "commit" / "c" / "0" / "0"
    intact = file.read_bytes()
    head = store.num_rows
    for slot in (0, 1):
        file.write_bytes(intact)
        flip(file, slot * SLOT_BYTES + 24)
        reader = store.reader()
        assert head - 9 <= reader.num_rows <= head
        assert formula.wrong_rows(reader, "a") == []
        with store.writer("a", durability="process") as writer:
            head = fill(writer, writer.head + 50)
        intact = file.read_bytes()
        assert formula.wrong_rows(store.reader(), "a") == []
    assert store.num_steps == store.reader().count_sampleable()


def test_two_corrupt_slots_are_an_error_for_reader_and_writer(store: Store) -> None:
    file = store.path / "streams" / "a" / "commit" / "c" / "0" / "0"
    flip(file, 24)
    flip(file, SLOT_BYTES + 24)
    for use in (store.reader, lambda: store.writer("a"), store.info):
        with pytest.raises(CorruptStoreError) as caught:
            use()
        one_line(caught.value, str(file), "both commit slots", f"`slipway replay repair {store.path}`")


def test_a_missing_commit_file_is_named(store: Store) -> None:
    file = store.path / "streams" / "a" / "commit" / "c" / "0" / "0"
    file.unlink()
    for use in (store.reader, lambda: store.writer("a")):
        with pytest.raises(CorruptStoreError) as caught:
            use()
        one_line(caught.value, str(file), f"`slipway replay repair {store.path}`")


@pytest.mark.parametrize("damage", [Path.unlink, truncate])
@pytest.mark.parametrize("array", ["rows", "meta"])
@pytest.mark.parametrize("chunk", ["0", "2"])
def test_a_missing_or_truncated_chunk_is_named(
    store: Store, array: str, chunk: str, damage: Callable[[Path], None]
) -> None:
    file = store.path / "streams" / "a" / array / "c" / chunk / "0"
    damage(file)
    with pytest.raises(CorruptStoreError) as caught:
        store.writer("a")
    one_line(caught.value, str(file), f"`slipway replay repair {store.path}`")
    with pytest.raises(CorruptStoreError) as caught:
        list(store.episodes())
    one_line(caught.value, str(file), f"`slipway replay repair {store.path}`")
    assert repair(store.path)["sound"]
    list(store.episodes())


def test_missing_streams_folder_is_named(store: Store) -> None:
    (store.path / "streams").rename(store.path / "moved")
    for use in (store.reader, store.stream_names, lambda: store.num_rows):
        with pytest.raises(CorruptStoreError) as caught:
            use()
        one_line(caught.value, "streams", "restore")


def test_recovery_passes_over_commits_whose_rows_were_lost(store: Store) -> None:
    """What a power loss leaves at level interval: slots on the disk, some rows of their blocks not."""
    with store.writer("b", durability="interval") as writer:
        durable = fill(writer, 200)
        writer.sync()
        fill(writer, 230)
        saved = {path: path.read_bytes() for path in (store.path / "streams" / "b").rglob("0") if path.is_file()}
    for path, data in saved.items():
        path.parent.mkdir(exist_ok=True)  # `close` removed the chunk that was reserved ahead
        path.write_bytes(data)  # as it was before `close` synchronised
    rows = store.path / "streams" / "b" / "rows" / "c" / str(durable // formula.CHUNK_ROWS) / "0"
    width = 4 * store.spec.row_width
    at = durable % formula.CHUNK_ROWS * width
    rows.write_bytes(saved[rows][:at] + bytes(width) + saved[rows][at + width :])  # the first row after the sync
    assert store.sync()["b"] == store.reader().heads["b"] == durable
    with store.writer("b", durability="interval") as writer:
        assert writer.head == durable
        fill(writer, durable + 100)
        steps = writer.steps
    reader = store.reader()
    assert formula.wrong_rows(reader, "b") == []
    valid = reader.rows("b", 0, reader.heads["b"])[:, reader.spec.offsets["valid"]]
    assert steps == int(valid.sum())
    assert reader.num_steps == reader.count_sampleable()


def test_a_slot_that_ends_before_what_the_other_promises_is_passed_over(store: Store) -> None:
    """A power loss may keep one slot as it was at a sync, and in the other place one of three commits later."""
    file = store.path / "streams" / "b" / "commit" / "c" / "0" / "0"
    slots = []
    with store.writer("b", durability="process") as writer:
        for _ in range(5):
            start = writer.head
            writer.append_episode(np.zeros((20, 5)), np.zeros((19, 2)), np.zeros(19), terminated=True, truncated=False)
            data = file.read_bytes()
            at = 4096 * (writer._log._sequence & 1)
            slots.append((start, at, data[at : at + 4096]))
            if len(slots) == 3:
                promised = store.sync()["b"]
    (_, first, old), (certain, second, new) = slots[1], slots[4]
    file.write_bytes(old + new if first < second else new + old)
    for row in range(certain, certain + 20):  # the rows of the last commit were lost
        rows = store.path / "streams" / "b" / "rows" / "c" / str(row // formula.CHUNK_ROWS) / "0"
        with rows.open("r+b") as opened:
            opened.seek(row % formula.CHUNK_ROWS * 4 * store.spec.row_width)
            opened.write(bytes(4 * store.spec.row_width))
    assert store.reader().heads["b"] == certain > promised
    with store.writer("b", durability="process") as writer:
        assert writer.head == certain
    assert store.num_steps == store.reader().count_sampleable()


def test_a_damaged_newest_row_is_given_up_and_nothing_else(store: Store) -> None:
    head = store.num_rows
    index, within = divmod(head - 1, formula.CHUNK_ROWS)
    flip(store.path / "streams" / "a" / "rows" / "c" / str(index) / "0", within * 4 * store.spec.row_width)
    with store.writer("a", durability="process") as writer:
        assert head - 9 <= writer.head <= head
        fill(writer, head + 20)
    assert store.num_steps == store.reader().count_sampleable()


def test_a_read_only_store_is_read_and_not_written(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    real = os.open

    def refuse(path: str | Path, flags: int, *arguments: object, **options: object) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(30, "Read-only file system", str(path))
        return real(path, flags, *arguments, **options)  # type: ignore[arg-type]

    # Root writes whatever the permission bits say, so the refusal is the system call's.
    monkeypatch.setattr(os, "open", refuse)
    assert np.isfinite(store.sampler(16, rng=np.random.default_rng(0)).next().packed).all()
    with pytest.raises(ReplayError) as caught:
        store.writer("a")
    one_line(caught.value, "Read-only file system", "streams/a")
