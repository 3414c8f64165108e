"""What can go wrong in a replay store: one root, one line a message (what, where, what to do)."""

from __future__ import annotations


class ReplayError(Exception):
    """Root of every error that `replay` raises on purpose.

    Mend: `slipway replay verify STORE` says what is wrong with a store.
    """


class SchemaError(ReplayError):
    """A spec that makes no sense, or data whose shape or columns do not fit the store's spec.

    Mend: give data of the shape that is named, or create another store for it.
    """


class StoreNotFoundError(ReplayError):
    """The path holds no Slipway store.

    Mend: `slipway ingest SOURCE --out STORE` makes one.
    """


class StoreExistsError(ReplayError):
    """A store, or something else, is already there.

    Mend: open what is there, or choose another name.
    """


class FormatVersionError(ReplayError):
    """The store was written by a newer Slipway.

    Mend: update Slipway to a version that reads it: `git pull && make install` in its checkout.
    """


class CorruptStoreError(ReplayError):
    """A file of the store is missing, truncated or damaged.

    Mend: `slipway replay verify STORE`, then `slipway replay repair STORE`.
    """


class WriterLockedError(ReplayError):
    """Another writer holds the stream.

    Mend: stop the other writer, or write a stream of another name.
    """


class WriterStateError(ReplayError):
    """A call that the writer's present state does not allow.

    Mend: make the calls in the order that [the store's page](store.md#writing-and-reading) shows.
    """


class NonFiniteError(ReplayError):
    """A row with NaN or an infinity; nothing of it was written.

    Mend: mend the source of the row that is named, and append it again.
    """


class StorageError(ReplayError):
    """The operating system refused to reserve, write or synchronise (full disk, quota, I/O error).

    Mend: free some space, then do the same again; what was committed stays.
    """


class EmptyReplayError(ReplayError):
    """Nothing can be sampled (yet).

    Mend: collect or ingest some steps first.
    """


class RetentionError(ReplayError):
    """Rows that must not, or cannot, be evicted.

    Mend: close the stream's writer, or leave out the stream that is named.
    """


class EvictedError(ReplayError):
    """Rows that a reader asked for have been evicted since its last refresh.

    Mend: refresh the reader, and ask for rows that the store still holds.
    """


class SamplerStateError(ReplayError):
    """A saved sampler state that does not fit the store it is loaded into.

    Mend: load the state into a sampler of the same store and settings.
    """
