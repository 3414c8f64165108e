"""Store: a Zarr v3 group of append-only streams of experience, on a local disk.

store = Store.create("runs/x.zarr", spec)
with store.writer("collector-0") as writer:
    writer.append(...)
sampler = Store.open("runs/x.zarr").sampler(256, rng=np.random.default_rng(0))
batch = sampler.next()
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, overload

import numpy as np

from replay import archive, layout
from replay.durable import make_durable
from replay.episodes import Episode, episode_table, iterate_episodes
from replay.errors import CorruptStoreError, StorageError, StoreExistsError, WriterStateError
from replay.log import Durability
from replay.reader import StoreReader
from replay.retention import Capacity, refuse_offline
from replay.sampler import PrioritisedSampler, SequenceSampler, TransitionSampler, make_sampler
from replay.schema import StoreSpec
from replay.stream import StreamWriter


class Store:
    """A store on disk. Holds no file open; writers, readers and samplers do."""

    def __init__(self, path: Path, spec: StoreSpec, chunk_rows: int) -> None:
        """Use `Store.create` or `Store.open`."""
        self.path = path
        self.spec = spec
        self.chunk_rows = chunk_rows

    @classmethod
    def create(cls, path: Path | str, spec: StoreSpec, *, chunk_rows: int = layout.CHUNK_ROWS) -> Store:
        """Make an empty store; it appears at `path` complete or not at all.

        Args:
            path: where; nothing may be there yet. The parent folders are made.
            spec: what its rows mean.
            chunk_rows: rows in a chunk file, fixed for the store's life. Every stream reserves whole chunks.

        Raises:
            StoreExistsError: something is at `path` already.
            StorageError: the operating system refuses.
        """
        path = Path(path)
        if path.exists() or path.is_symlink():
            raise StoreExistsError(f"{path} exists already: open it, or choose another name")
        staging = path.with_name(f".{path.name}.creating-{os.getpid()}")
        try:
            shutil.rmtree(staging, ignore_errors=True)
            (staging / layout.STREAMS).mkdir(parents=True)
            layout.write_atomic(staging / layout.STREAMS / layout.GROUP, layout.group_document({}))
            layout.write_atomic(staging / layout.GROUP, layout.store_document(spec, chunk_rows))
            staging.rename(path)
            layout.fsync_directory(path.parent)
        except OSError as error:
            shutil.rmtree(staging, ignore_errors=True)
            raise StorageError(f"cannot create the store {path}: {error.strerror}") from error
        return cls(path, spec, chunk_rows)

    @classmethod
    def open(cls, path: Path | str) -> Store:
        """Open an existing store; reads one small file. An archive is unpacked into the local cache first, once.

        Raises:
            StoreNotFoundError: there is no store.
            FormatVersionError: a newer Slipway wrote it.
            CorruptStoreError: its zarr.json is missing or damaged.
        """
        path = Path(path)
        if archive.is_archive(path):
            path = archive.unpack(path)
        return cls(path, *layout.read_store_document(path))

    def stream_names(self) -> list[str]:
        """Names of the streams, sorted."""
        try:
            return sorted(entry.name for entry in os.scandir(self.path / layout.STREAMS) if entry.is_dir())
        except OSError as error:
            raise CorruptStoreError(
                f"{self.path / layout.STREAMS} cannot be listed ({error.strerror}): restore it from a copy of the store"
            ) from error

    def writer(
        self,
        stream: str,
        *,
        durability: Durability = "interval",
        source_id: int = 0,
        capacity_steps: int | None = None,
        capacity_bytes: int | None = None,
    ) -> StreamWriter:
        """Create a stream, or recover it and go on where it ended. One writer a stream, system-wide.

        Args:
            stream: name: letters, digits, ".", "_", "-".
            durability: what survives. "process": a killed process; "interval": also a power loss, but for the last
                quarter of a second; "block": every commit.
            source_id: recorded with every row.
            capacity_steps: whenever a chunk is full, drop the oldest chunks but for at least this many steps.
            capacity_bytes: likewise, but for at most this many bytes of chunk files; three chunks at least.

        Raises:
            WriterLockedError: the stream has a writer.
            RetentionError: a capacity for a store of ingested data.
            SchemaError: a capacity that makes no sense.
            WriterStateError: the store is an unpacked archive.
            CorruptStoreError: the stream cannot be recovered.
            StorageError: the operating system refuses.
        """
        if archive.is_unpacked(self.path):
            raise WriterStateError(f"{self.path} is the unpacked copy of an archive: write to a store of your own")
        if capacity_steps is not None or capacity_bytes is not None:
            refuse_offline(self)
            Capacity(steps=capacity_steps, bytes=capacity_bytes).check(self.spec, self.chunk_rows, written=True)
        return StreamWriter(
            self.path,
            stream,
            self.spec,
            self.chunk_rows,
            durability=durability,
            source_id=source_id,
            capacity_steps=capacity_steps,
            capacity_bytes=capacity_bytes,
        )

    def reader(self) -> StoreReader:
        """A reader of all streams, present and future; `refresh` follows growth."""
        return StoreReader([self])

    @overload
    def sampler(
        self,
        batch_size: int,
        *,
        rng: np.random.Generator,
        n_step: int = 1,
        gamma: float | None = None,
        recent: int | None = None,
        stream_weights: Mapping[str, float] | None = None,
        source_weights: Mapping[int, float] | None = None,
        return_temperature: float | None = None,
        top_fraction: float | None = None,
        epochs: bool = False,
        returns_to_go: Mapping[str, float] | None = None,
    ) -> TransitionSampler: ...

    @overload
    def sampler(
        self,
        batch_size: int,
        *,
        rng: np.random.Generator,
        n_step: int = 1,
        gamma: float | None = None,
        alpha: float,
        beta: float = 0.4,
        beta_steps: int | None = None,
        returns_to_go: Mapping[str, float] | None = None,
    ) -> PrioritisedSampler: ...

    @overload
    def sampler(
        self,
        batch_size: int,
        *,
        rng: np.random.Generator,
        length: int,
        burn_in: int = 0,
        recent: int | None = None,
        stream_weights: Mapping[str, float] | None = None,
        source_weights: Mapping[int, float] | None = None,
        return_temperature: float | None = None,
        top_fraction: float | None = None,
        epochs: bool = False,
    ) -> SequenceSampler: ...

    def sampler(
        self, batch_size: int, *, rng: np.random.Generator, **options: Any
    ) -> TransitionSampler | SequenceSampler:
        """Batches of transitions or sequences over all streams, with a reader of its own (`sampler.reader`).

        Without options: transitions of one step, uniformly, with replacement. What a batch has:

        Args:
            batch_size: transitions or sequences in a batch.
            rng: the generator of all draws.
            n_step: steps that a transition spans, fewer at the end of its episode.
            gamma: discount of a step, given where `n_step` is more than 1; fills `batch.discounts`.
            length: sequences of this many learned steps instead of transitions.
            burn_in: steps before each sequence that only warm up a recurrent state.

        Which rows are drawn; one of:

        Args:
            recent: only the last rows of each stream, this many; also together with weights.
            stream_weights: shares of the draws by stream name, or
            source_weights: by the source id recorded with the rows.
            return_temperature: steps of episodes with a higher return more often, the more the lower it is.
            top_fraction: steps of the best episodes alone, as few of these as hold this share of all steps.
            epochs: every row once an epoch, without replacement.
            alpha: prioritised draws with this exponent; `update_priorities` is the learner's.
            returns_to_go: {"gamma"} or {"gamma", "scale", "shift"}: fill `batch.returns_to_go` (`ReturnsToGo`).
            beta: with alpha, the exponent of the importance weights, going to 1 over
            beta_steps: batches.

        Raises:
            SchemaError: options that make no sense, alone or together.
        """
        return make_sampler(self.reader(), batch_size, rng=rng, **options)

    def episodes(self) -> Iterator[Episode]:
        """Every episode with at least one sampleable step, stream after stream."""
        return iterate_episodes(self.reader())

    @property
    def num_rows(self) -> int:
        """Committed rows of all streams."""
        return self.reader().num_rows

    @property
    def num_steps(self) -> int:
        """Rows that can be sampled: steps whose successor is committed."""
        return self.reader().num_steps

    def sync(self, *, timeout_s: float = 10.0) -> dict[str, int]:
        """Make everything committed so far durable, from any process, beside live writers: for checkpoints.

        Returns:
            Rows of each stream that a recovery will find at least, even after a power loss.

        Raises:
            StorageError: the disk failed, or a live writer did not acknowledge within `timeout_s` seconds.
        """
        return make_durable(self, timeout_s=timeout_s)

    def info(self) -> dict[str, Any]:
        """What the store holds, JSON-able. Returns and lengths are those of episodes that were not interrupted."""
        reader = self.reader()
        table = episode_table(reader)
        # No writer of ours lets NaN in; where another did, the rest can still be looked at.
        whole = ~table.interrupted & np.isfinite(table.returns)
        return {
            "path": str(self.path),
            "layout_fingerprint": self.spec.layout_fingerprint,
            "observation": self.spec.terms(),
            "action_low": list(self.spec.action_low),
            "action_high": list(self.spec.action_high),
            "info_columns": list(self.spec.info),
            "env": self.spec.env,
            "source": self.spec.source,
            "rows": reader.num_rows,
            "steps": reader.num_steps,
            "episodes": len(table.stream),
            "terminated": int(table.terminated.sum()),
            "truncated": int(table.truncated.sum()),
            "interrupted": int(table.interrupted.sum()),
            "returns": _summary(table.returns[whole]),
            "lengths": _summary(table.length[whole].astype(np.float64)),
            "bytes": _disk_bytes(self.path),
            "streams": reader.heads,
        }


def _disk_bytes(folder: Path) -> int:
    """Bytes on the disk below a folder; files come and go beside a live writer."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += (Path(parent) / name).stat().st_blocks * 512
    return total


def _summary(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> dict[str, float | None]:
    if not len(values):
        return dict.fromkeys(("mean", "std", "min", "max"))
    return {
        "mean": float(values.mean()),
        "std": float(values.std()),
        "min": float(values.min()),
        "max": float(values.max()),
    }
