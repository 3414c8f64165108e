"""Archives: closed streams as compressed, sharded Zarr with named arrays, and their way back into a store.

    ARCHIVE/zarr.json                       group; attributes.slipway_archive: format, digest, chunk_rows, spec
    ARCHIVE/NAME/observation, action, ...   arrays [N, ...] of stream NAME: row fields, info/*, meta columns
    ARCHIVE/NAME/episodes/start, ...        the episode index, [E]

Any Zarr reader opens one. To train from it, `Store.open(ARCHIVE)` unpacks it once into an uncompressed store in the
local cache, because readers map chunk files: $XDG_CACHE_HOME/slipway/archives/DIGEST, ~/.cache by default.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from replay import layout
from replay.episodes import episode_table
from replay.errors import CorruptStoreError, FormatVersionError, StorageError, StoreExistsError, WriterLockedError
from replay.log import StreamLog
from replay.processes import remove_left_behind
from replay.schema import FLAGS, META_COLUMNS, StoreSpec

if TYPE_CHECKING:
    import zarr

    from replay.reader import StoreReader
    from replay.store import Store

FORMAT = 1
KEY = "slipway_archive"
MARK = "archive.json"
"""File in a cached store that names the archive it was unpacked from."""
SHARD_ROWS = 65536
CHUNK_ROWS = 8192
Progress = Callable[[int, int], None]


def compact(store: Store, out: Path | str, *, progress: Progress | None = None) -> dict[str, Any]:
    """Write the rows that a store keeps to a new archive at `out`: whole or not at all. The store stays.

    Every block is read back and compared before the next one is written.

    Returns:
        JSON-able: path, digest (sha256 over spec and rows), rows, streams, bytes and store_bytes (on the disk).

    Raises:
        StoreExistsError: something is at `out` already.
        WriterLockedError: a stream has a writer.
        CorruptStoreError: a row does not survive the round trip, its flags are neither 0 nor 1 for instance.
        StorageError: the operating system refuses.
    """
    import zarr

    out = Path(out)
    if out.exists() or out.is_symlink():
        raise StoreExistsError(f"{out} exists already: choose another name")
    with ExitStack() as held, _staged(out) as staging:
        for name in store.stream_names():
            _hold(store, name, held)
        reader = store.reader()
        digest = hashlib.sha256(json.dumps(store.spec.to_json(), sort_keys=True).encode())
        root = zarr.create_group(staging, zarr_format=3)
        done = 0
        for name in reader.heads:
            first = next((start for _, start, _ in reader.blocks(name)), 0)
            arrays = _create(root.create_group(name), store.spec, reader.heads[name] - first)
            for start, rows, meta in _blocks(reader, name):
                digest.update(f"{name}:{start - first}:{len(rows)}".encode())
                digest.update(rows.data)
                digest.update(meta.data)
                where = slice(start - first, start - first + len(rows))
                _put(arrays, store.spec, where, rows, meta)
                back = _get(arrays, store.spec, where)
                if not (np.array_equal(back[0], rows) and np.array_equal(back[1], meta)):
                    raise CorruptStoreError(
                        f"rows {start} to {start + len(rows)} of stream {name!r} of {store.path} do not survive "
                        "compaction: run `slipway replay verify`"
                    )
                done += len(rows)
                if progress is not None:
                    progress(done, reader.num_rows)
            _put_episodes(root[name], reader, name, first)
        root.attrs[KEY] = {
            "format": FORMAT,
            "digest": digest.hexdigest(),
            "chunk_rows": store.chunk_rows,
            "layout_fingerprint": store.spec.layout_fingerprint,
            "streams": list(reader.heads),
            "spec": store.spec.to_json(),
        }
    return {
        "path": str(out),
        "digest": digest.hexdigest(),
        "rows": done,
        "streams": len(reader.heads),
        "bytes": _bytes(out),
        "store_bytes": _bytes(store.path),
    }


def is_archive(path: Path) -> bool:
    """Whether an archive is at `path`."""
    try:
        return KEY in json.loads((path / layout.GROUP).read_bytes())["attributes"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def is_unpacked(store: Path) -> bool:
    """Whether the store at `store` is the unpacked copy of an archive."""
    return (store / MARK).exists()


def unpack(path: Path, *, cache: Path | None = None) -> Path:
    """The archive as a store in the cache, written there once; returns that store's path.

    Args:
        path: the archive.
        cache: folder of unpacked archives; None: $XDG_CACHE_HOME/slipway/archives.

    Raises:
        FormatVersionError: a newer Slipway wrote the archive.
        CorruptStoreError: the archive is damaged.
        StorageError: the operating system refuses.
    """
    import zarr

    from replay.store import Store

    if cache is None:
        cache = layout.user_cache() / "archives"
    try:
        root = zarr.open_group(path, mode="r", use_consolidated=False)
        own: Any = root.attrs[KEY]
        if own["format"] > FORMAT:
            raise FormatVersionError(
                f"{path} has archive format {own['format']}, this Slipway reads up to {FORMAT}: {layout.UPDATE}"
            )
        spec, place = StoreSpec.from_json(own["spec"]), cache / str(own["digest"])
        try:
            if is_unpacked(place):
                return place
            cache.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"{path} cannot be unpacked into {cache} ({error.strerror}): set XDG_CACHE_HOME to a folder that can "
                "be written"
            ) from error
        digest = hashlib.sha256(json.dumps(spec.to_json(), sort_keys=True).encode())
        with _staged(place) as staging:
            Store.create(staging, spec, chunk_rows=own["chunk_rows"])
            for name in own["streams"]:
                _unpack_stream(root[name], staging, name, spec, own["chunk_rows"], digest)
            if digest.hexdigest() != own["digest"]:
                raise CorruptStoreError(f"{path} is damaged, its digest does not hold: restore it from a copy")
            layout.write_atomic(staging / MARK, {"archive": str(path.absolute()), "digest": own["digest"]})
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise CorruptStoreError(
            f"{path} cannot be read ({' '.join(str(error).split())}): restore it from a copy"
        ) from error
    return place


def _unpack_stream(
    group: Any, staging: Path, name: str, spec: StoreSpec, chunk_rows: int, digest: hashlib._Hash
) -> None:
    length = group["reward"].shape[0]
    log = StreamLog(staging, name, spec, chunk_rows, "process")
    try:
        for start in range(0, length, SHARD_ROWS):
            where = slice(start, min(start + SHARD_ROWS, length))
            rows, meta = _get(group, spec, where)
            digest.update(f"{name}:{start}:{len(rows)}".encode())
            digest.update(rows.data)
            digest.update(meta.data)
            log.commit_block(rows, meta)
    finally:
        log.close()


def _blocks(reader: StoreReader, name: str) -> Iterator[tuple[int, NDArray[np.float32], NDArray[np.int64]]]:
    """Rows and meta rows of one stream in blocks of a shard: shards are written whole."""
    first = next((start for _, start, _ in reader.blocks(name)), 0)
    for start in range(first, reader.heads[name], SHARD_ROWS):
        stop = min(start + SHARD_ROWS, reader.heads[name])
        yield start, reader.rows(name, start, stop), reader.meta(name, start, stop)


def _fields(spec: StoreSpec) -> dict[str, tuple[slice, str]]:
    """Columns of a row and dtype of each array, by its name."""
    names = {field: (columns, "float32") for field, columns in spec.fields.items()}
    names |= {flag: (spec.fields[flag], "uint8") for flag in FLAGS}
    return {f"info/{name}" if name in spec.info else name: value for name, value in names.items()}


def _create(group: zarr.Group, spec: StoreSpec, length: int) -> zarr.Group:
    kinds: dict[str, tuple[tuple[int, ...], str]] = {}
    for name, (columns, dtype) in _fields(spec).items():
        wide = (columns.stop - columns.start,) if name in ("observation", "action") else ()
        kinds[name] = ((length, *wide), dtype)
    kinds |= dict.fromkeys(META_COLUMNS, ((length,), "int64"))
    attributes: dict[str, dict[str, Any]] = {
        "observation": {"terms": spec.terms()},
        "action": {"low": list(spec.action_low), "high": list(spec.action_high)},
    }
    for name, (shape, dtype) in kinds.items():
        group.create_array(
            name,
            shape=shape,
            dtype=dtype,
            chunks=(CHUNK_ROWS, *shape[1:]),
            shards=(SHARD_ROWS, *shape[1:]),
            attributes=attributes.get(name, {}),
        )
    return group


def _put(group: Any, spec: StoreSpec, where: slice, rows: NDArray[np.float32], meta: NDArray[np.int64]) -> None:
    for name, (columns, dtype) in _fields(spec).items():
        values = rows[:, columns]
        group[name][where] = (values if name in ("observation", "action") else values[:, 0]).astype(dtype)
    for column, name in enumerate(META_COLUMNS):
        group[name][where] = meta[:, column]


def _get(group: Any, spec: StoreSpec, where: slice) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    count = where.stop - where.start
    rows = np.zeros((count, spec.row_width), np.float32)
    for name, (columns, _) in _fields(spec).items():
        rows[:, columns] = np.asarray(group[name][where]).reshape(count, -1)
    return rows, np.stack([np.asarray(group[name][where]) for name in META_COLUMNS], axis=1).astype(np.int64)


def _put_episodes(group: Any, reader: StoreReader, name: str, first: int) -> None:
    table = episode_table(reader)
    chosen = np.array([stream == name for stream in table.stream], np.bool_)
    columns = {
        "start": table.start - first,
        "length": table.length,
        "return": table.returns,
        "terminated": table.terminated,
        "truncated": table.truncated,
        "interrupted": table.interrupted,
    }
    episodes = group.create_group("episodes")
    for column, values in columns.items():
        episodes.create_array(column, data=values[chosen])


def _hold(store: Store, name: str, held: ExitStack) -> None:
    """Keep writers away from a stream for a while."""
    path = store.path / layout.STREAMS / name / layout.COMMIT_FILE
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise CorruptStoreError(f"{path} cannot be opened ({error.strerror}): `slipway replay repair` it") from error
    held.callback(os.close, fd)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise WriterLockedError(
            f"stream {path.parents[2]} has a writer: only closed streams are compacted; stop it first"
        ) from None


@contextmanager
def _staged(out: Path) -> Iterator[Path]:
    """A path beside `out`, renamed to it at the end with everything on the disk, or removed."""
    staging = out.with_name(f".{out.name}.partial-{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        remove_left_behind(out.parent, f".{out.name}.partial-")
        yield staging
        for folder, _, names in os.walk(staging):
            for name in names:
                with (Path(folder) / name).open("rb") as file:
                    os.fsync(file.fileno())
            layout.fsync_directory(Path(folder))
        try:
            staging.rename(out)
        except OSError:
            if not is_unpacked(out):  # else another process has unpacked the same archive
                raise
        layout.fsync_directory(out.parent)
    except OSError as error:
        raise StorageError(f"cannot write {out} ({error.strerror}): nothing is left of it") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())
