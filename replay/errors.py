"""What can go wrong in a replay store: one root, one line a message (what, where, what to do)."""

from __future__ import annotations


class ReplayError(Exception):
    """Root of every error that `replay` raises on purpose."""


class SchemaError(ReplayError):
    """A spec that makes no sense, or data whose shape or columns do not fit the store's spec."""


class StoreNotFoundError(ReplayError):
    """The path holds no Slipway store."""


class StoreExistsError(ReplayError):
    """A store, or something else, is already there."""


class FormatVersionError(ReplayError):
    """The store was written by a newer Slipway."""


class CorruptStoreError(ReplayError):
    """A file of the store is missing, truncated or damaged."""


class WriterLockedError(ReplayError):
    """Another writer holds the stream."""


class WriterStateError(ReplayError):
    """A call that the writer's present state does not allow."""


class NonFiniteError(ReplayError):
    """A row with NaN or an infinity; nothing of it was written."""


class StorageError(ReplayError):
    """The operating system refused to reserve, write or synchronise (full disk, quota, I/O error)."""


class EmptyReplayError(ReplayError):
    """Nothing can be sampled (yet)."""


class RetentionError(ReplayError):
    """Rows that must not, or cannot, be evicted."""


class EvictedError(ReplayError):
    """Rows that a reader asked for have been evicted since its last refresh."""


class SamplerStateError(ReplayError):
    """A saved sampler state that does not fit the store it is loaded into."""
