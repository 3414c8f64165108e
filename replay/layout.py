"""Names and JSON documents of a store on disk: a Zarr v3 group that any Zarr reader opens.

Every document is written here, never through the zarr API, which replaces chunk files, resizes before it writes and
never synchronises. `write_atomic` makes each document appear whole or not at all.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from replay.errors import CorruptStoreError, FormatVersionError, SchemaError, StoreNotFoundError
from replay.schema import META_COLUMNS, StoreSpec

FORMAT_VERSION = 1
CHUNK_ROWS = 65536
SLOT_WORDS = 512  # uint64 words in each of the two commit slots: 4 KiB
GROUP = "zarr.json"
STREAMS = "streams"
ROWS = "rows"
META = "meta"
COMMIT = "commit"
SEALS = "seals"
SEALS_A_FILE = 1024  # seals in one chunk file of `seals`: 32 KiB
COMMIT_FILE = Path(COMMIT) / "c" / "0" / "0"
UPDATE = "update Slipway to a version that reads it (`git pull && make install` in its checkout)"
_STREAM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def user_cache() -> Path:
    """Slipway's folder for what can be made again: $XDG_CACHE_HOME/slipway, below ~/.cache by default."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slipway"


def check_stream_name(name: str) -> str:
    """Return the name, or raise SchemaError when it cannot be a folder that Zarr lists."""
    if not _STREAM_NAME.fullmatch(name):
        raise SchemaError(
            f"stream name {name!r}: use letters, digits, '.', '_' and '-', beginning with one of the first"
        )
    return name


def fsync_directory(path: Path) -> None:
    """Make renames and creations inside `path` durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_atomic(path: Path, document: dict[str, Any]) -> None:
    """Write a JSON document by temporary file, fsync, rename and directory fsync."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(document, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


def group_document(attributes: dict[str, Any]) -> dict[str, Any]:
    """A Zarr v3 group's zarr.json."""
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}


def array_document(
    shape: tuple[int, int], chunk_rows: int, dtype: str, attributes: dict[str, Any], *, dimensions: tuple[str, str]
) -> dict[str, Any]:
    """A Zarr v3 array's zarr.json: chunks (chunk_rows, all columns), raw little-endian bytes."""
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [chunk_rows, shape[1]]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0.0 if dtype.startswith("float") else 0,
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        "attributes": attributes,
        "dimension_names": list(dimensions),
        "storage_transformers": [],
    }


def rows_document(spec: StoreSpec, chunk_rows: int, length: int) -> dict[str, Any]:
    """zarr.json of a stream's `rows`, `length` rows long."""
    attributes = {"columns": list(spec.columns)}
    shape = (length, spec.row_width)
    return array_document(shape, chunk_rows, "float32", attributes, dimensions=("row", "column"))


def meta_document(chunk_rows: int, length: int) -> dict[str, Any]:
    """zarr.json of a stream's `meta`, `length` rows long."""
    attributes = {"columns": list(META_COLUMNS)}
    shape = (length, len(META_COLUMNS))
    return array_document(shape, chunk_rows, "int64", attributes, dimensions=("row", "column"))


def commit_document() -> dict[str, Any]:
    """zarr.json of a stream's `commit`: two slots in one chunk."""
    return array_document((2, SLOT_WORDS), 2, "uint64", {}, dimensions=("slot", "word"))


def seals_document(length: int) -> dict[str, Any]:
    """zarr.json of a stream's `seals`, `length` chunks long."""
    attributes = {"columns": ["rows", "rows_crc32c", "meta_crc32c", "crc32c"]}
    return array_document((length, 4), SEALS_A_FILE, "uint64", attributes, dimensions=("chunk", "word"))


def store_document(spec: StoreSpec, chunk_rows: int) -> dict[str, Any]:
    """zarr.json of the store itself."""
    return group_document(
        {
            "slipway": {
                "format": FORMAT_VERSION,
                "chunk_rows": chunk_rows,
                "layout_fingerprint": spec.layout_fingerprint,
                "columns": list(spec.columns),
                "spec": spec.to_json(),
            }
        }
    )


def stream_documents(spec: StoreSpec, chunk_rows: int) -> dict[str, dict[str, Any]]:
    """zarr.json of a stream's group and arrays by folder, as they are when the stream is empty."""
    return {
        ".": group_document({}),
        ROWS: rows_document(spec, chunk_rows, 0),
        META: meta_document(chunk_rows, 0),
        COMMIT: commit_document(),
    }


def check_stream_document(stream: Path, spec: StoreSpec) -> None:
    """Refuse a stream whose `rows` say that they have other columns; where they say nothing, they are believed.

    Raises:
        SchemaError: the columns differ.
    """
    file = stream / ROWS / GROUP
    try:
        columns = json.loads(file.read_bytes())["attributes"]["columns"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if columns != list(spec.columns):
        raise SchemaError(
            f"{file} has other columns than the store: the stream belongs to another store; move its folder out of "
            "the store and import it with `slipway ingest`"
        )


def mend_stream_documents(stream: Path, spec: StoreSpec, chunk_rows: int) -> None:
    """Write the documents of a stream anew that are missing or unreadable: only its writer may.

    Raises:
        OSError: the operating system refuses.
    """
    for folder, document in stream_documents(spec, chunk_rows).items():
        file = stream / folder / GROUP
        try:
            whole = json.loads(file.read_bytes())["zarr_format"] == document["zarr_format"]
        except (OSError, ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            write_atomic(file, document)


def repair_advice(file: Path) -> str:
    """What to do about a missing or damaged chunk file STORE/streams/NAME/ARRAY/c/I/J."""
    return f"`slipway replay repair {file.parents[5]}` saves what is sound, or restore it from a copy"


def _like_advice(store: Path) -> str:
    """What to do about a store's own lost or damaged zarr.json."""
    return f"`slipway replay repair {store} --like OTHER` takes it from another of its spec, or restore it from a copy"


def _instead(path: Path) -> str:
    """What a path that is no store is, and what to do: name the store meant, or make one."""
    if not path.exists():
        stores = {file.parent.stem: file.parent for file in path.parent.glob(f"*.zarr/{GROUP}")}
        near = difflib.get_close_matches(path.stem, stores, 1, 0.7)
        guess = f"did you mean {stores[near[0]]}? else " if near else ""
        return f"does not exist: {guess}make a store with `slipway ingest SOURCE --out {path}`"
    inside = sorted(file.parent for file in path.glob(f"*.zarr/{GROUP}")) if path.is_dir() else []
    if inside:
        return f"is not a Slipway store (no {GROUP}): give the one that it holds, {inside[0]}"
    # A folder may be anything, a run's among others: only a file is taken for data to ingest.
    made = f"{path} --out {path.stem}.zarr" if path.is_file() else "SOURCE --out STORE"
    return f"is not a Slipway store (no {GROUP}): make one with `slipway ingest {made}`"


def read_store_document(path: Path) -> tuple[StoreSpec, int]:
    """Read and check a store's zarr.json; returns (spec, rows a chunk).

    Raises:
        StoreNotFoundError: no store there.
        FormatVersionError: a newer format.
        CorruptStoreError: unreadable, or its fingerprint does not match its spec.
    """
    file = path / GROUP
    try:
        text = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        if (path / STREAMS).is_dir():
            raise CorruptStoreError(
                f"{file} is missing although {path / STREAMS} exists: {_like_advice(path)}"
            ) from error
        raise StoreNotFoundError(f"{path} {_instead(path)}") from error
    except OSError as error:
        raise StoreNotFoundError(f"{file} cannot be read ({error.strerror}): check its permissions") from error
    try:
        document = json.loads(text)
        attributes = document["attributes"]
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptStoreError(f"{file} is not a readable Zarr document: {_like_advice(path)}") from error
    if not isinstance(attributes, dict) or not isinstance(attributes.get("slipway"), dict):
        raise StoreNotFoundError(f"{path} is Zarr but not a Slipway store: import it with `slipway ingest`")
    own = attributes["slipway"]
    version = own.get("format")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise FormatVersionError(f"{file} has format {version}, this Slipway reads up to {FORMAT_VERSION}: {UPDATE}")
    try:
        if version != FORMAT_VERSION:
            raise SchemaError(f"format {version!r} is unknown")
        spec = StoreSpec.from_json(own["spec"])
        chunk_rows = int(own["chunk_rows"])
        if chunk_rows < 1 or own["layout_fingerprint"] != spec.layout_fingerprint:
            raise SchemaError("the layout fingerprint does not match the spec")
    except (SchemaError, KeyError, TypeError, ValueError) as error:
        raise CorruptStoreError(f"{file} is damaged ({error}): {_like_advice(path)}") from error
    return spec, chunk_rows
