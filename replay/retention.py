"""Retention: dropping the oldest rows of online streams, whole chunks at a time.

A stream keeps rows [tail, head). Evicting moves the tail to the beginning of a later chunk and then removes the files
before it; what is evicted, and in which order things reach the disk, is in `replay.log.StreamLog.evict`. Readers that
have mapped a removed file keep it until they refresh.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from replay.archive import is_unpacked
from replay.errors import RetentionError, SchemaError
from replay.log import StreamLog
from replay.recovery import META_ROW_BYTES
from replay.schema import StoreSpec

if TYPE_CHECKING:
    from replay.store import Store


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """How much of a stream is kept; both None keeps everything."""

    steps: int | None = None
    """The newest steps that must stay; up to one chunk more stays, because chunks go whole."""
    bytes: int | None = None
    """Most bytes of chunk files, those being written and reserved ahead included: at least three chunks of a stream
    that is written, two of another."""

    def check(self, spec: StoreSpec, chunk_rows: int, *, written: bool) -> Capacity:
        """Return the capacity, or raise SchemaError where it makes no sense for such rows, of a stream being written or
        of one that nobody writes."""
        if self.steps is not None and self.steps < 1:
            raise SchemaError(f"a capacity of {self.steps} steps keeps nothing: use at least 1")
        least = (3 if written else 2) * chunk_bytes(spec, chunk_rows)
        if self.bytes is not None and self.bytes < least:
            count = "three" if written else "two"
            raise SchemaError(
                f"a capacity of {self.bytes} bytes is too small: {count} chunks of this store take {least}"
            )
        return self


def chunk_bytes(spec: StoreSpec, chunk_rows: int) -> int:
    """Bytes that one chunk takes on the disk, rows and meta."""
    return chunk_rows * (4 * spec.row_width + META_ROW_BYTES)


def refuse_offline(store: Store) -> None:
    """Raise RetentionError for a store of ingested data, and for an archive's copy, which is never unpacked again.

    `slipway ingest` records the data's digest as the store's source; stores that are written live have none.
    """
    if is_unpacked(store.path):
        raise RetentionError(
            f"{store.path} is the unpacked copy of an archive, which is never evicted from: evict from a store of your "
            "own and compact that"
        )
    source = store.spec.source or {}
    if "digest" in source:
        raise RetentionError(
            f"{store.path} holds ingested data ({source.get('kind')} {source.get('name')}), which is never evicted: "
            "remove the whole store if it is not needed"
        )


def evict(store: Store, capacity: Capacity, *, streams: list[str] | None = None) -> dict[str, Any]:
    """Evict from streams that nobody writes: all of a store, or those named.

    Returns:
        JSON-able: by stream name, rows evicted and the first row and the number of rows kept.

    Raises:
        RetentionError: ingested data, an archive, or a stream that does not exist.
        WriterLockedError: a stream has a writer; nothing was evicted from any.
        SchemaError: the capacity makes no sense.
        CorruptStoreError, StorageError: a stream cannot be recovered, or the disk failed.
    """
    refuse_offline(store)
    capacity.check(store.spec, store.chunk_rows, written=False)
    present = store.stream_names()
    names = present if streams is None else streams
    if unknown := [name for name in names if name not in present]:
        raise RetentionError(f"{store.path} has no stream {unknown[0]!r}: it has {', '.join(present) or 'none'}")
    done = {}
    with ExitStack() as opened:
        logs = []
        for name in names:
            log = StreamLog(store.path, name, store.spec, store.chunk_rows, "process")
            opened.callback(log.close)
            logs.append(log)
        for name, log in zip(names, logs, strict=True):
            evicted = log.evict(capacity.steps, capacity.bytes)
            done[name] = {"evicted_rows": evicted, "first_row": log.tail, "rows": log.head - log.tail}
    return done
