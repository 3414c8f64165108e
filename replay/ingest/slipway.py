"""Another Slipway store (collected, or recorded on a device): its episodes as they are, stream by stream.

Rows and meta are taken over packed, so policy versions, interventions, times and cut rows survive; only episode ids are
counted anew. Steps whose episode lost its beginning (eviction), and a lone step without a successor, are left out.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replay.episodes import EpisodeTable, episode_table
from replay.errors import ReplayError
from replay.ingest.check import bounded
from replay.ingest.environment import fitting_layout, merge_environment
from replay.ingest.source import IngestOptions, Source, SourceDescription, SourceFormatError, one_line
from replay.ingest.success import find_column, sparse_success_reward, success_from_rewards
from replay.layout import GROUP
from replay.reader import StoreReader
from replay.schema import StoreSpec
from replay.store import Store


def matches(source: str) -> bool:
    """A folder with the zarr.json of a group."""
    return (Path(source).expanduser() / GROUP).is_file()


def open_source(source: str, options: IngestOptions) -> Source:
    """Open a store to copy from.

    Raises:
        SourceFormatError: no Slipway store, damaged, or without an episode.
    """
    path = Path(source).expanduser()
    try:
        spec, reader = Store.open(path).spec, Store.open(path).reader()
        table = episode_table(reader)
    except ReplayError as error:
        raise SourceFormatError(f"{path} cannot be read as a store ({one_line(error)})") from error
    if not len(table.length):
        raise SourceFormatError(f"{path} holds no episode with a step that can be sampled; record some first")
    env = merge_environment(spec.env, options.env)
    if options.env and options.env.get("id") and env is not None:
        fitting_layout(str(path), env, observations=spec.observation_size, actions=spec.action_size)
    copier = Copier(path, reader, table, options)
    return Source(
        description=SourceDescription(
            kind="slipway",
            name=str(path),
            digest=_digest(spec, reader),
            observation=tuple(spec.terms()),
            action_low=spec.action_low,
            action_high=spec.action_high,
            action_dtype=spec.action_dtype,
            info=spec.info,
            env=env,
            provenance={"recorded": spec.source},
            total_steps=int(table.length.sum()),
        ),
        episodes=lambda: iter(()),
        notes=copier.notes,
        copy=copier.copy,
        close=reader.close,
    )


def recorded_environment(source: str) -> dict[str, Any] | None:
    """The environment spec of a store."""
    try:
        return Store.open(Path(source).expanduser()).spec.env
    except ReplayError as error:
        raise SourceFormatError(f"{source} cannot be read as a store ({one_line(error)})") from error


def _digest(spec: StoreSpec, reader: StoreReader) -> str:
    """sha256 over the spec and every committed row, meta included."""
    digest = hashlib.sha256(json.dumps(spec.to_json(), sort_keys=True).encode())
    for stream, start, rows in reader.blocks():
        digest.update(f"{stream}:{start}:{len(rows)}".encode())
        digest.update(np.ascontiguousarray(rows).data)
        digest.update(reader.meta(stream, start, start + len(rows)).data)
    return digest.hexdigest()


class Copier:
    """Copies a store's episodes row by row, cut at their first success where that is asked for."""

    def __init__(self, path: Path, reader: StoreReader, table: EpisodeTable, options: IngestOptions) -> None:
        self.path = path
        self.reader = reader
        self.table = table
        self.options = options
        self.notes: Counter[str] = Counter()
        self._at = reader.spec.offsets
        self._action = reader.spec.fields["action"]
        self._success: str | None = None
        self._success_reward: float | None = None
        if options.terminate_on is not None:
            self._success = find_column(self._at, options.terminate_on)
            if self._success is None and options.terminate_on != "success":
                held = ", ".join(reader.spec.info) or "none"
                raise SourceFormatError(f"{path} has no info column {options.terminate_on!r}; it has {held}")
            if self._success is None:
                rewards = (rows[:, self._at["reward"]] for _, _, rows in reader.blocks())
                self._success_reward = sparse_success_reward(rewards, str(path))

    def copy(self, store: Store | None, progress: Callable[[int, int | None], None] | None) -> None:
        """Write every episode to `store`, under the names of its streams; without one, read and check them all."""
        done, total = 0, int(self.table.length.sum())
        for stream in dict.fromkeys(self.table.stream):
            with nullcontext() if store is None else store.writer(stream, durability="process") as writer:
                for rows, meta, steps in self._episodes(stream):
                    if writer is not None:
                        writer.append_block(rows, meta)
                    done += steps
                    if progress is not None:
                        progress(done, total)
                if writer is not None:
                    writer.sync()

    def _episodes(self, stream: str) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64], int]]:
        for number, name in enumerate(self.table.stream):
            if name != stream:
                continue
            start, steps = int(self.table.start[number]), int(self.table.length[number])
            rows = self.reader.rows(stream, start, start + steps + 1)
            meta = self.reader.meta(stream, start, start + steps + 1)
            label = f"{self.path}: stream {stream!r}, episode at row {start}"
            acted = rows[:, self._at["valid"]] > 0
            rows[acted, self._action] = bounded(
                rows[acted, self._action],
                self.reader.spec.action_low,
                self.reader.spec.action_high,
                label,
                clip=self.options.clip_actions,
                notes=self.notes,
            )
            kept = self._cut(rows, steps, label)
            yield rows[: kept + 1], meta[: kept + 1], steps

    def _cut(self, rows: NDArray[np.float32], steps: int, label: str) -> int:
        """Terminate the episode at its first success, in place; returns the steps kept."""
        if self._success is not None:
            success = rows[:steps, self._at[self._success]]
        elif self._success_reward is not None:
            success = success_from_rewards(rows[:steps, self._at["reward"]], self._success_reward, label)
        else:
            return steps
        hits = np.flatnonzero(success)
        if not len(hits):
            return steps
        last = int(hits[0])
        rows[last, self._at["terminated"]] = 1.0
        rows[last, self._at["truncated"]] = 0.0
        # What follows is the final row: its observation alone counts.
        rows[last + 1, self.reader.spec.observation_size :] = 0.0
        self.notes["steps_after_success"] += steps - last - 1
        return last + 1
