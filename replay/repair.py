"""Repair a damaged store without destroying evidence.

Whatever is changed or replaced is first copied or moved to STORE/damaged-UTC/, under its own path. Documents are
written anew from the store's spec, a commit file without a valid slot is rebuilt from seals and rows, and of a stream
with damaged rows the sound episodes, and the sound beginnings of others, are copied to NAME-repaired.
"""

from __future__ import annotations

import datetime
import os
import shutil
from contextlib import ExitStack, suppress
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np

from replay import archive, commit, layout
from replay.chunks import ChunkFiles, chunk_path
from replay.errors import CorruptStoreError, SchemaError, StorageError, WriterStateError
from replay.log import StreamLog
from replay.recovery import META_ROW_BYTES, lock, recounted
from replay.row_sense import RowSense
from replay.schema import FLAGS
from replay.seals import SEAL_BYTES, read_seals
from replay.store import Store
from replay.verify import Finding, StreamCheck, check_document, stream_documents, verify

SUFFIX = "-repaired"


def repair(path: Path | str, *, like: Path | str | None = None) -> dict[str, Any]:
    """Make a damaged store usable again; a sound one is left as it is.

    Args:
        path: the store; nobody may be writing to it.
        like: a store of the same spec, for one whose own zarr.json is lost.

    Returns:
        JSON-able: path, sound (afterwards), actions (one line each), lost_rows, and evidence: the folder with what was
        replaced, or None.

    Raises:
        CorruptStoreError: the store's zarr.json is lost and `like` is not given.
        SchemaError: `like` does not fit the chunk files.
        WriterStateError: an archive, or the unpacked copy of one.
        WriterLockedError: a stream has a writer; nothing was changed.
        StorageError: the operating system refuses; what was moved aside is in the folder named above.
    """
    path = Path(path)
    _refuse_archive(path)
    aside = _Aside(path)
    actions: list[str] = []
    lost = 0
    try:
        if like is not None:
            _write_store_document(path, Store.open(like), aside, actions)
        store = Store.open(path)
        with ExitStack() as held:
            locks = {}
            for name in store.stream_names():
                locks[name] = _locked(store, name)
                held.callback(os.close, locks[name])
            if check_document(path / layout.STREAMS / layout.GROUP, layout.group_document({})):
                _write_document(path / layout.STREAMS / layout.GROUP, layout.group_document({}), aside, actions)
            for name, fd in locks.items():
                lost += _StreamRepair(store, name, fd, aside, actions).run()
    except OSError as error:
        raise StorageError(f"cannot repair {path} ({error.strerror}): {aside.folder} has what was moved") from error
    return {
        "path": str(path),
        "sound": verify(path)["sound"],
        "actions": actions,
        "lost_rows": lost,
        "evidence": str(aside.folder) if aside.folder.exists() else None,
    }


def _refuse_archive(path: Path) -> None:
    if archive.is_unpacked(path):
        raise WriterStateError(
            f"{path} is the unpacked copy of an archive: remove it, and the archive's next use unpacks it anew"
        )
    if archive.is_archive(path):
        raise WriterStateError(
            f"{path} is an archive, whose digest is checked whenever it is unpacked: restore it from a copy, or remove "
            f"its unpacked copy below {layout.user_cache() / 'archives'} where that is damaged"
        )


class _Aside:
    """The folder that keeps what is replaced; made when it is first needed."""

    def __init__(self, store: Path) -> None:
        now = datetime.datetime.now(datetime.UTC)
        self._store = store
        self.folder = store / f"damaged-{now:%Y%m%dT%H%M%S.%fZ}"

    def copy(self, file: Path) -> None:
        if file.is_file():
            shutil.copy2(file, self._place(file))

    def move(self, folder: Path) -> None:
        place = self._place(folder)
        # Files of it that were replaced before have been copied there already: these are the originals.
        folder.rename(place.with_name(f"{place.name}.moved") if place.exists() else place)

    def _place(self, path: Path) -> Path:
        place = self.folder / path.relative_to(self._store)
        place.parent.mkdir(parents=True, exist_ok=True)
        return place


def _write_document(file: Path, document: dict[str, Any], aside: _Aside, actions: list[str]) -> None:
    aside.copy(file)
    file.parent.mkdir(exist_ok=True)
    layout.write_atomic(file, document)
    actions.append(f"{file}: written anew")


def _write_store_document(path: Path, like: Store, aside: _Aside, actions: list[str]) -> None:
    try:
        Store.open(path)
        return
    except CorruptStoreError:
        wanted = like.chunk_rows * like.spec.row_width * 4
        for file in (path / layout.STREAMS).glob(f"*/{layout.ROWS}/c/*/0"):
            if file.stat().st_size != wanted:
                raise SchemaError(f"{file} has another size than chunks of {like.path}: not a like store") from None
        _write_document(path / layout.GROUP, layout.store_document(like.spec, like.chunk_rows), aside, actions)


def _locked(store: Store, name: str) -> int:
    """The commit file, open and locked; of a lost one, a new empty file."""
    folder = store.path / layout.STREAMS / name
    path = folder / layout.COMMIT_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        lock(fd, folder)
    except BaseException:
        os.close(fd)
        raise
    return fd


class _StreamRepair:
    """The repair of one stream, whose commit file is open as `fd` and locked."""

    def __init__(self, store: Store, name: str, fd: int, aside: _Aside, actions: list[str]) -> None:
        self._store, self._name, self._fd, self._aside, self._actions = store, name, fd, aside, actions
        self._folder = store.path / layout.STREAMS / name
        self._rows = ChunkFiles(self._folder / layout.ROWS, store.chunk_rows * 4 * store.spec.row_width)
        self._meta = ChunkFiles(self._folder / layout.META, store.chunk_rows * META_ROW_BYTES)

    def run(self) -> int:
        """Repair the stream; returns the rows lost."""
        findings = self._check()
        if not findings:
            return 0
        for array, document in stream_documents(self._store.spec, self._store.chunk_rows, 0).items():
            file = self._folder / array / layout.GROUP
            if any(each.kind == "document" and each.file == str(file) for each in findings):
                _write_document(file, document, self._aside, self._actions)
        if any(each.kind == "seal" for each in findings):
            self._erase_seals()
        kinds = {each.kind for each in findings}
        lost = 0
        # Recovery needs both slots as they are, and what it drops is no reason to move the stream aside.
        if "block" in kinds and "chunk" not in kinds:
            lost = self._drop_block()
            findings = self._check()
        if any(each.kind in ("commit", "counter") for each in findings):
            self._write_commit()
            findings = self._check()
        bad = [each for each in findings if each.kind in ("chunk", "checksum", "row", "block")]
        ranges = [(e.first_row, e.stop_row) for e in bad if e.first_row is not None and e.stop_row is not None]
        if ranges:
            return lost + self._salvage(ranges)
        self._recover()  # publishes its shape
        return lost

    def _recover(self) -> int:
        """Open the stream as its next writer would, and close it; returns its head."""
        store = self._store
        log = StreamLog(store.path, self._name, store.spec, store.chunk_rows, "process", locked=self._fd)
        log.close()
        return log.head

    def _check(self) -> list[Finding]:
        check = StreamCheck(self._store, self._name)
        for _ in check.run():
            pass
        return check.findings

    def _erase_seals(self) -> None:
        sound = read_seals(self._folder)
        for file in (self._folder / layout.SEALS / "c").glob("[0-9]*/0"):
            self._aside.copy(file)
            data = bytearray(file.read_bytes())
            for at in range(0, len(data), SEAL_BYTES):
                chunk = int(file.parent.name) * layout.SEALS_A_FILE + at // SEAL_BYTES
                if chunk not in sound and any(data[at : at + SEAL_BYTES]):
                    data[at : at + SEAL_BYTES] = bytes(SEAL_BYTES)
                    self._actions.append(f"{file}: the damaged seal of chunk {chunk} erased; its rows are unchecked")
            file.write_bytes(data)

    def _write_commit(self) -> None:
        """Both slots anew, from the sound one or from seals and rows."""
        path = self._folder / layout.COMMIT_FILE
        self._aside.copy(path)
        slot = commit.newest(commit.read_raw(self._fd))
        source = "the sound slot" if slot is not None else "seals and rows"
        slot = self._counted(slot if slot is not None else self._found())
        os.ftruncate(self._fd, commit.COMMIT_BYTES)
        os.pwrite(self._fd, bytes(commit.COMMIT_BYTES), 0)
        for _ in range(2):
            slot = replace(slot, sequence=slot.sequence + 1)
            os.pwrite(self._fd, commit.encode(astuple(slot)), (slot.sequence & 1) * commit.SLOT_BYTES)
        os.fsync(self._fd)
        self._actions.append(f"{path}: rebuilt from {source}: rows {slot.tail} to {slot.head}")

    def _counted(self, slot: commit.Slot) -> commit.Slot:
        try:
            return recounted(slot, self._rows, self._store.spec, self._store.chunk_rows)
        except CorruptStoreError:  # a chunk is not whole: the stream is about to be copied, and counted on the way
            return slot

    def _found(self) -> commit.Slot:
        """What seals and rows say of a stream without a commit: all sealed rows, and those behind that make sense."""
        size = self._store.chunk_rows
        chunks = sorted(int(each.parent.name) for each in (self._folder / layout.ROWS / "c").glob("[0-9]*/0"))
        if not chunks:
            return commit.Slot(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
        tail = chunks[0] * size
        seals = read_seals(self._folder)
        head = max((chunk * size + seal.rows for chunk, seal in seals.items()), default=tail)
        head = max(head, tail)
        sense = RowSense(self._store.spec)
        before = 0.0  # whether the row before is a step that ended its episode
        at = head - 1 if head > tail else head
        while at // size <= chunks[-1]:
            start, stop = at, (at // size + 1) * size
            try:
                rows, meta = self._read(start, stop)
            except CorruptStoreError:
                break
            offsets = self._store.spec.offsets
            flags = {name: rows[:, offsets[name]] > 0 for name in FLAGS}
            ended = np.concatenate([[before], flags["terminated"] | flags["truncated"]]).astype(np.bool_)
            there = flags["valid"] | flags["interrupted"] | ended[:-1]
            if start < head:
                there[0] = True
            count = int(np.argmin(there)) if not there.all() else len(there)
            wrong = sense.check(start, rows[:count], meta[:count])
            head = max(head, min([first for _, first, _ in wrong], default=start + count))
            if head < stop:
                break
            before, at = float(ended[-1]), stop
        evicted = 0
        with suppress(CorruptStoreError):
            if 0 < tail < head:
                rows, meta = self._read(tail, tail + 1)
                evicted = int(meta[0, 4]) + (0 if rows[0, self._store.spec.offsets["first"]] > 0 else 1)
        return commit.Slot(0, tail, head, head, 0, 0, 0, 0, evicted, 0, 0, 0, 0, evicted)

    def _read(self, start: int, stop: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Rows and meta rows [start, stop) of one chunk; CorruptStoreError where they are not all there."""
        chunk, within = divmod(start, self._store.chunk_rows)
        width, count = 4 * self._store.spec.row_width, stop - start
        rows = np.frombuffer(self._rows.read(chunk, within * width, count * width), np.float32)
        meta = np.frombuffer(self._meta.read(chunk, within * META_ROW_BYTES, count * META_ROW_BYTES), np.int64)
        return rows.reshape(count, self._store.spec.row_width), meta.reshape(count, META_ROW_BYTES // 8)

    def _drop_block(self) -> int:
        """Let recovery go back to the rows that certainly hold; the files with the others are copied first."""
        before = StreamCheck(self._store, self._name).slot
        assert before is not None
        for chunk in range(before.block_start // self._store.chunk_rows, -(-before.head // self._store.chunk_rows)):
            self._aside.copy(chunk_path(self._folder / layout.ROWS, chunk))
            self._aside.copy(chunk_path(self._folder / layout.META, chunk))
        self._aside.copy(self._folder / layout.COMMIT_FILE)
        head = self._recover()
        self._actions.append(f"{self._folder}: rows {head} to {before.head} dropped, their block does not hold")
        return before.head - head

    def _salvage(self, bad: list[tuple[int, int]]) -> int:
        """Copy what is sound to a new stream and move the damaged one aside; returns the rows lost."""
        check = StreamCheck(self._store, self._name)
        slot, size, spec = check.slot, self._store.chunk_rows, self._store.spec
        assert slot is not None
        taken, new = set(self._store.stream_names()), self._name + SUFFIX
        while new in taken:
            new += SUFFIX
        staging = Store.create(self._aside.folder / "staging", spec, chunk_rows=size)
        with staging.writer(new, durability="process") as writer:
            follows = -1  # the row that would continue what was copied last
            for start in range(slot.tail, slot.head, size):
                stop = min(start + size, slot.head)
                sound = np.ones(stop - start, np.bool_)
                for low, high in bad:
                    sound[max(low - start, 0) : max(high - start, 0)] = False
                if not sound.any():
                    continue
                rows, meta = self._read(start, stop)
                edges = np.flatnonzero(np.diff(np.concatenate([[False], sound, [False]]).astype(np.int8)))
                for low, high in edges.reshape(-1, 2).tolist():
                    begin = low
                    if start + low != follows:
                        firsts = np.flatnonzero(rows[low:high, spec.offsets["first"]])
                        begin = low + int(firsts[0]) if len(firsts) else high
                    if begin < high:
                        writer.append_block(rows[begin:high].copy(), meta[begin:high].copy())
                        follows = start + high
            kept = writer.head
        self._aside.move(self._folder)
        if kept:
            (staging.path / layout.STREAMS / new).rename(self._store.path / layout.STREAMS / new)
            layout.fsync_directory(self._store.path / layout.STREAMS)
        shutil.rmtree(staging.path)
        lost = slot.head - slot.tail - kept
        where = f"{kept} sound rows copied to stream {new!r}" if kept else "no row of it is sound"
        self._actions.append(f"{self._folder}: moved aside; {where}, {lost} rows lost")
        return lost
