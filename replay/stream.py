"""StreamWriter: steps and episodes in, packed rows committed to one stream.

An episode of T steps becomes T + 1 rows; the last holds the final observation and is not valid to sample. The next
observation of a step is the observation of the next row. A step can be sampled once that next row is committed, so:

    writer.append(o0, a0, r0, first=True,  terminated=False, truncated=False, next_observation=o1)   # waits for o1
    writer.append(o1, a1, r1, first=False, terminated=True,  truncated=False, next_observation=o2)   # both sampleable

The second call commits two rows at once, the step and the final row: a reader sees both or none.
"""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from replay.errors import NonFiniteError, ReplayError, SchemaError, WriterStateError
from replay.log import DURABILITIES, Durability, StreamLog
from replay.packing import pack_episode, to_float32
from replay.schema import FLAGS, META_COLUMNS, StoreSpec

FLOAT32 = np.dtype(np.float32)
_META = struct.Struct(f"<{len(META_COLUMNS)}q")


class StreamWriter:
    """The one writer of a stream: a context manager. Calls come from one thread at a time."""

    def __init__(
        self,
        store: Path,
        name: str,
        spec: StoreSpec,
        chunk_rows: int,
        *,
        durability: Durability = "interval",
        source_id: int = 0,
        capacity_steps: int | None = None,
        capacity_bytes: int | None = None,
    ) -> None:
        """Create the stream, or recover it and go on; use `Store.writer`.

        Raises:
            WriterLockedError: the stream has a writer already.
            CorruptStoreError: the stream cannot be recovered.
            StorageError: the operating system refuses.
        """
        if durability not in DURABILITIES:
            raise SchemaError(f"durability {durability!r} is unknown: use one of {', '.join(DURABILITIES)}")
        self.name = name
        self.spec = spec
        self._source_id = source_id
        self._log = StreamLog(store, name, spec, chunk_rows, durability)
        if capacity_steps is not None or capacity_bytes is not None:
            self._log.retain(capacity_steps, capacity_bytes)
        self._linked = False
        o, a, w = spec.observation_size, spec.action_size, spec.row_width
        self._observation_shape, self._action_shape = (o,), (a,)
        # Row 0 is a step, row 1 the final row of its episode: reused for every append.
        self._rows = np.zeros((2, w), np.float32)
        self._one, self._both = self._rows[:1], self._rows
        self._flat_one, self._flat_both = self._rows[0], self._rows.reshape(-1)
        self._finite_one, self._finite_both = bytearray(w), bytearray(2 * w)
        self._are_finite_one = np.frombuffer(self._finite_one, np.bool_)
        self._are_finite_both = np.frombuffer(self._finite_both, np.bool_)
        self._observation, self._action = self._rows[0, :o], self._rows[0, o : o + a]
        self._final_observation = self._rows[1, :o]
        self._bytes = self._rows.data.cast("B")
        self._scalars = struct.Struct(f"<{1 + len(FLAGS) + len(spec.info)}f")
        self._scalars_at = 4 * (o + a)
        self._meta = np.zeros((2, len(META_COLUMNS)), np.int64)
        self._meta_one = self._meta[:1]
        self._meta_bytes = self._meta.data.cast("B")

    @property
    def head(self) -> int:
        """One past the last row committed."""
        return self._log.head

    @property
    def tail(self) -> int:
        """First row that has not been evicted."""
        return self._log.tail

    @property
    def steps(self) -> int:
        """Step rows (valid = 1) committed, also by earlier writers."""
        return self._log.steps

    @property
    def in_episode(self) -> bool:
        """Whether the last row is a step of this writer's running episode: `cut` is possible, `first` not needed."""
        return self._linked

    def append(
        self,
        observation: NDArray[np.floating[Any]],
        action: NDArray[np.floating[Any]],
        reward: float,
        *,
        terminated: bool,
        truncated: bool,
        next_observation: NDArray[np.floating[Any]] | None,
        first: bool,
        policy_version: int = 0,
        intervention: bool = False,
        synthetic: bool = False,
        info: Mapping[str, float] | None = None,
        t_wall_ns: int | None = None,
        t_mono_ns: int | None = None,
    ) -> None:
        """Commit one step; at the end of an episode also the final row with `next_observation`, in the same commit.

        Args:
            observation: [O], where the action was taken; copied.
            action: [A], environment units; copied.
            reward: raw reward of the step.
            terminated: the episode ended in the task's sense (no value beyond).
            truncated: the episode was ended from outside (time limit).
            next_observation: [O]; needed where terminated or truncated, else the next call brings it.
            first: the step begins an episode.
            policy_version: version of the policy that acted.
            intervention: a human acted instead.
            synthetic: the step did not happen in the environment (model or augmentation).
            info: a value for each of the spec's info columns; other keys are ignored.
            t_wall_ns: wall time, ns since the epoch; now where None.
            t_mono_ns: monotonic time, ns; now where None.

        Raises:
            NonFiniteError: NaN or infinity, or beyond float32; nothing was written.
            SchemaError: shapes that do not fit, or an info column is missing.
            WriterStateError: a step without a running episode that is not `first`.
            StorageError: the disk is full or failed; nothing was committed.
        """
        log = self._log
        if not (first or self._linked):
            raise WriterStateError(
                f"stream {self.name!r} has no running episode at row {log.head}: pass first=True after a reset, "
                "an episode's end, a cut or a restart"
            )
        ended = bool(terminated or truncated)
        observation = np.asarray(observation)
        action = np.asarray(action)
        if observation.shape != self._observation_shape or action.shape != self._action_shape:
            raise self._wrong_shape(observation, action)
        if observation.dtype is not FLOAT32 or action.dtype is not FLOAT32:
            observation, action = to_float32(observation), to_float32(action)
        self._observation[:] = observation
        self._action[:] = action
        columns: tuple[float, ...] = ()
        if self.spec.info:
            columns = self._info_values(info)
        try:
            self._scalars.pack_into(
                self._bytes,
                self._scalars_at,
                reward,
                first,
                terminated,
                truncated,
                False,
                intervention,
                synthetic,
                True,
                *columns,
            )
        except OverflowError:
            raise NonFiniteError(f"reward or info of row {log.head} of stream {self.name!r} exceeds float32") from None
        wall = time.time_ns() if t_wall_ns is None else t_wall_ns
        mono = time.monotonic_ns() if t_mono_ns is None else t_mono_ns
        broken = 1 if first and log.open else 0
        episode = log.episodes if first else log.episodes - 1
        _META.pack_into(self._meta_bytes, 0, policy_version, wall, mono, self._source_id, episode)
        if not ended:
            np.isfinite(self._flat_one, self._are_finite_one)
            if 0 in self._finite_one:
                raise self._non_finite(self._one)
            log.commit(self._one, self._meta_one, steps=1, broken=broken, episodes=int(first), open_=True)
        else:
            final = np.asarray(next_observation)
            if final.shape != self._observation_shape:
                raise self._wrong_shape(final, action)
            self._final_observation[:] = to_float32(final)
            np.isfinite(self._flat_both, self._are_finite_both)
            if 0 in self._finite_both:
                raise self._non_finite(self._both)
            self._meta[1] = self._meta[0]
            log.commit(self._both, self._meta, steps=1, broken=broken, episodes=int(first), open_=False)
        self._linked = not ended

    def continue_episode(self) -> None:
        """Go on with the episode that the stream's last writer left running, instead of beginning another.

        For who can put the world back to where the last step led: the next step belongs right behind it.

        Raises:
            WriterStateError: the last row is not a step of a running episode.
        """
        if not self._log.open:
            raise WriterStateError(f"stream {self.name!r} ends with no running episode to continue: pass first=True")
        self._meta[0] = 0, time.time_ns(), time.monotonic_ns(), self._source_id, self._log.episodes - 1
        self._linked = True

    def cut(self, observation: NDArray[np.floating[Any]]) -> None:
        """End the running episode from outside, after a fault or at shutdown.

        Appends a row with the last observation [O] (the one that the last action led to), `interrupted` and not
        valid: the last step becomes sampleable, with terminated = truncated = 0.

        Raises:
            WriterStateError: no episode is running (see `in_episode`).
            NonFiniteError, SchemaError, StorageError: as `append`.
        """
        if not self._linked:
            raise WriterStateError(f"stream {self.name!r} has no running episode to cut")
        observation = np.asarray(observation)
        if observation.shape != self._observation_shape:
            raise self._wrong_shape(observation, None)
        row = np.zeros((1, self.spec.row_width), np.float32)
        row[0, : self.spec.observation_size] = to_float32(observation)
        row[0, self.spec.offsets["interrupted"]] = 1.0
        if not np.isfinite(row).all():
            raise self._non_finite(row)
        meta = self._meta_one.copy()
        meta[0, 1], meta[0, 2] = time.time_ns(), time.monotonic_ns()
        self._log.commit(row, meta, steps=0, broken=0, episodes=0, open_=False)
        self._linked = False

    def append_episode(
        self,
        observations: ArrayLike,
        actions: ArrayLike,
        rewards: ArrayLike,
        *,
        terminated: bool,
        truncated: bool,
        info: Mapping[str, ArrayLike] | None = None,
        policy_version: int | NDArray[np.int64] = 0,
        intervention: bool | NDArray[np.bool_] = False,
        synthetic: bool | NDArray[np.bool_] = False,
        t_wall_ns: int = 0,
    ) -> None:
        """Commit a whole episode at once.

        Args:
            observations: [T + 1, O], the last one final.
            actions: [T, A], environment units.
            rewards: [T].
            terminated: flag of the last step.
            truncated: flag of the last step. Neither: the episode was interrupted, its last row is a cut row.
            info: [T] for each of the spec's info columns; other keys are ignored.
            policy_version: one for all steps, or [T].
            intervention: one for all steps, or [T].
            synthetic: one for all steps, or [T].
            t_wall_ns: wall time recorded with each row; 0: unknown.

        Raises:
            NonFiniteError, SchemaError, StorageError: as `append`; nothing of the episode was committed.
        """
        rows, meta = pack_episode(
            self.spec,
            observations,
            actions,
            rewards,
            terminated=terminated,
            truncated=truncated,
            info=info or {},
            policy_version=policy_version,
            intervention=intervention,
            synthetic=synthetic,
        )
        meta[:, 1], meta[:, 3] = t_wall_ns, self._source_id
        self.append_block(rows, meta)

    def append_block(self, rows: NDArray[np.float32], meta: NDArray[np.int64]) -> None:
        """Commit packed rows [n, W] with meta [n, 5] at once. Episode ids are assigned here, whatever meta says.

        Raises:
            NonFiniteError: NaN or infinity; nothing was written.
            SchemaError: wrong shapes or types, or a row that continues an episode that has ended.
            StorageError: the disk is full or failed; nothing was committed.
        """
        width = self.spec.row_width
        if rows.ndim != 2 or rows.shape[1] != width or rows.dtype != np.float32:
            raise SchemaError(f"a block for stream {self.name!r} needs rows [n, {width}] float32, got {rows.shape}")
        if meta.shape != (len(rows), len(META_COLUMNS)) or meta.dtype != np.int64:
            raise SchemaError(f"a block of {len(rows)} rows needs meta [{len(rows)}, {len(META_COLUMNS)}] int64")
        if not len(rows):
            return
        if not math.isfinite(float(np.abs(rows).max())):
            raise self._non_finite(rows)
        rows = np.ascontiguousarray(rows)
        first = rows[:, self.spec.offsets["first"]] > 0
        valid = rows[:, self.spec.offsets["valid"]] > 0
        open_before = np.concatenate([[self._linked], valid[:-1]])
        orphans = np.flatnonzero(~(first | open_before))
        if len(orphans):
            raise SchemaError(f"row {int(orphans[0])} of the block continues an episode that has ended: mark it first")
        meta = meta.copy()
        meta[:, 4] = self._log.episodes - 1 + np.cumsum(first)
        self._log.commit_block(rows, meta)
        self._linked = bool(valid[-1])
        self._meta[0] = meta[-1]

    def evict(self, *, keep_steps: int | None = None, keep_bytes: int | None = None) -> int:
        """Drop the stream's oldest chunks for good, safe beside readers; returns the rows dropped.

        Args:
            keep_steps: the newest steps that stay; up to one chunk more does, because chunks go whole.
            keep_bytes: most bytes of chunk files that stay, those being written and reserved ahead included.

        Raises:
            StorageError: the disk failed.
        """
        return self._log.evict(keep_steps, keep_bytes)

    def sync(self) -> None:
        """Return once every row committed so far is on the disk and the published shape covers it."""
        self._log.flush()
        self._log.publish()

    def close(self) -> None:
        """Synchronise and release the stream. Does not cut a running episode."""
        self._linked = False
        self._log.close()

    def __enter__(self) -> StreamWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.close()
        except ReplayError:
            if error is None:
                raise

    def _info_values(self, info: Mapping[str, float] | None) -> tuple[float, ...]:
        try:
            return tuple(float((info or {})[name]) for name in self.spec.info)
        except KeyError as error:
            raise SchemaError(f"stream {self.name!r} needs info column {error.args[0]!r} with every step") from None

    def _wrong_shape(self, observation: NDArray[Any], action: NDArray[Any] | None) -> SchemaError:
        got = f"observation {list(observation.shape)}"
        if action is not None:
            got += f" and action {list(action.shape)}"
        wanted = f"observation {list(self._observation_shape)} and action {list(self._action_shape)}"
        return SchemaError(f"stream {self.name!r} stores {wanted}, got {got}")

    def _non_finite(self, rows: NDArray[np.float32]) -> NonFiniteError:
        row, column = (int(i) for i in np.argwhere(~np.isfinite(rows))[0])
        return NonFiniteError(
            f"column {self.spec.columns[column]!r} is {rows[row, column]} in row {self._log.head + row} of stream "
            f"{self.name!r}: nothing was written; fix the source, or cut the episode before this step"
        )
