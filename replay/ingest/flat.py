"""Episodes out of flat columns of N transitions, as D4RL files and .npz keep them: where each ends, what it ends with.

Quirks of such files and what is done about them:

* No `timeouts`: episodes that end by time are found by counting `max_episode_steps` since the last end.
* No `next_observations`: the row after an episode's last one is the *next* episode's reset, and must not be taken for
  its final observation. An episode that ends by time (or with the file) ends one step early: its last observation
  becomes the final one. A terminated episode keeps its last step; its final observation, which nothing bootstraps
  from, repeats the last one.
* `next_observations[i]` that differs from `observations[i + 1]` inside an episode: an end that no flag marks; the
  episode is cut there as truncated with the recorded next observation.

Memory: one block of whole episodes at a time, about `BLOCK_BYTES` (one episode where that is longer).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replay.ingest.check import flags
from replay.ingest.columns import FlatColumns, check_shapes, spaces_of
from replay.ingest.ends import close_episode
from replay.ingest.environment import merge_environment, time_limit
from replay.ingest.source import (
    IngestOptions,
    Source,
    SourceDescription,
    SourceEpisode,
    SourceFormatError,
    one_line,
)
from replay.ingest.success import find_column, sparse_success_reward, success_from_rewards

BLOCK_BYTES = 64 << 20


def flat_source(
    columns: FlatColumns,
    options: IngestOptions,
    *,
    kind: str,
    digest: str,
    env: dict[str, Any] | None = None,
    provenance: dict[str, Any] | None = None,
) -> Source:
    """A source over flat columns; `env` is the spec that the file records, if it does.

    Raises:
        SourceFormatError: columns that cannot be stored, or no episode end of any kind.
    """
    check_shapes(columns)
    merged = merge_environment(env, options.env)
    terms, low, high = spaces_of(columns, merged)
    reader = FlatReader(columns, find_ends(columns, time_limit(merged, options.env)), options.terminate_on)
    return Source(
        description=SourceDescription(
            kind=kind,
            name=columns.where,
            digest=digest,
            observation=terms,
            action_low=low,
            action_high=high,
            action_dtype=str(columns.actions.dtype),
            info=(reader.column,) if reader.column is not None else (),
            env=merged,
            provenance=provenance or {},
            total_steps=columns.rows,
        ),
        episodes=reader.episodes,
        notes=reader.notes,
    )


def find_ends(columns: FlatColumns, max_episode_steps: int | None) -> NDArray[np.int64]:
    """Row indices of each episode's last row; the file's last row always ends one.

    Raises:
        SourceFormatError: a flag is neither 0 nor 1, or nothing marks an end and no time limit is known.
    """
    rows, step = columns.rows, BLOCK_BYTES
    marks = [
        np.flatnonzero(flags(column[start : start + step], field, columns.where, first_row=start)) + start
        for field, column in (("terminals", columns.terminals), ("timeouts", columns.timeouts))
        if column is not None
        for start in range(0, rows, step)
    ]
    marked = np.unique(np.concatenate(marks)) if marks else np.empty(0, np.int64)
    limit = None
    if columns.timeouts is None or not len(marked):
        limit = max_episode_steps
        if limit is None and (columns.terminals is None or not len(marked)):
            has = "neither 'terminals' nor 'timeouts'" if not marks else "no terminal and no timeout"
            raise SourceFormatError(
                f"{columns.where} has {has} in its {rows} rows: no episode end of any kind; give the environment it "
                "was recorded in (--env, or --max-episode-steps) so that episodes can be cut by time"
            )
        if limit is None:
            raise SourceFormatError(
                f"{columns.where} lacks 'timeouts', so episodes that end by time cannot be told from one another; "
                "give the environment it was recorded in (--env, or --max-episode-steps)"
            )
    ends = np.unique(np.append(marked, rows - 1)).astype(np.int64)
    if limit is None:
        return ends
    starts = np.concatenate([[0], ends[:-1] + 1])
    pieces = [np.append(np.arange(start + limit - 1, end, limit), end) for start, end in zip(starts, ends, strict=True)]
    return np.concatenate(pieces).astype(np.int64)


class FlatReader:
    """Reads blocks of whole episodes and hands them out one by one; `notes` counts what had to be mended."""

    def __init__(self, columns: FlatColumns, ends: NDArray[np.int64], terminate_on: str | None) -> None:
        self.columns = columns
        self.ends = ends
        self.terminate_on = terminate_on
        self.notes: Counter[str] = Counter()
        self._recorded = find_column(columns.info, terminate_on or "success")
        self._success_reward: float | None = None
        if terminate_on is not None and self._recorded is None:
            if terminate_on != "success":
                raise SourceFormatError(
                    f"{columns.where} has no per-step column {terminate_on!r} to end episodes on; it has "
                    f"{', '.join(sorted(columns.info)) or 'none'}"
                )
            self._success_reward = sparse_success_reward(self._rewards(), columns.where)
        marked = self._recorded is not None or self._success_reward is not None
        self.column = (terminate_on or "success") if marked else None
        """Name of the info column that every episode carries, or None."""

    def _rewards(self) -> Iterator[NDArray[Any]]:
        for start in range(0, self.columns.rows, BLOCK_BYTES // 8):
            yield np.asarray(self.columns.rewards[start : start + BLOCK_BYTES // 8]).reshape(-1)

    def episodes(self) -> Iterator[SourceEpisode]:
        """All episodes in file order."""
        row_bytes = 8 * (2 * int(self.columns.observations.shape[1]) + int(self.columns.actions.shape[1]) + 4)
        block_rows = max(1, BLOCK_BYTES // row_bytes)
        index = first = 0
        while index < len(self.ends):
            last = max(index, int(np.searchsorted(self.ends, first + block_rows, side="right")) - 1)
            stop = int(self.ends[last]) + 1
            block = self._read(first, stop)
            for number in range(index, last + 1):
                begin, end = (int(self.ends[number - 1]) + 1 if number else 0), int(self.ends[number])
                rows = {key: value[begin - first : end + 1 - first] for key, value in block.items()}
                label = f"{self.columns.where}: episode {number} (rows {begin} to {end})"
                yield from self._split(rows, label, at_file_end=number == len(self.ends) - 1)
            index, first = last + 1, stop

    def _read(self, start: int, stop: int) -> dict[str, NDArray[Any]]:
        """Every column's rows [start, stop): flags as bool, rewards and the info column as [n]."""
        columns, count = self.columns, stop - start
        try:
            block = {
                "observations": np.asarray(columns.observations[start:stop]),
                "actions": np.asarray(columns.actions[start:stop]),
                "rewards": np.asarray(columns.rewards[start:stop]).reshape(count),
            }
            for field, column in (("terminals", columns.terminals), ("timeouts", columns.timeouts)):
                block[field] = np.zeros(count, bool) if column is None else np.asarray(column[start:stop], bool).ravel()
            if columns.next_observations is not None:
                block["next_observations"] = np.asarray(columns.next_observations[start:stop])
            if self._recorded is not None:
                block["info"] = np.asarray(columns.info[self._recorded][start:stop]).reshape(count)
        except (OSError, RuntimeError, ValueError) as error:
            raise SourceFormatError(
                f"{columns.where}: rows {start} to {stop - 1} cannot be read ({one_line(error)}); "
                "the file is damaged: fetch or record it again"
            ) from error
        if self._success_reward is not None:
            where = f"{columns.where}, counted from row {start}"
            block["info"] = success_from_rewards(block["rewards"], self._success_reward, where)
        return block

    def _split(self, rows: dict[str, NDArray[Any]], label: str, *, at_file_end: bool) -> Iterator[SourceEpisode]:
        """The rows of one marked episode as one episode, or more where next observations show unmarked ends."""
        observations, steps = rows["observations"], len(rows["rewards"])
        terminated = bool(rows["terminals"][-1])
        # An end found by counting steps is a time limit; a file's last row without a flag is a recording cut short.
        truncated = bool(rows["timeouts"][-1]) or not (terminated or at_file_end)
        following = rows.get("next_observations")
        if following is None:
            info = {} if self.column is None else {self.column: rows["info"]}
            yield from close_episode(
                label, rows, terminated=terminated, truncated=truncated, info=info, terminate_on=self.terminate_on,
                notes=self.notes,
            )  # fmt: skip
            return
        with np.errstate(invalid="ignore", over="ignore"):
            gap = np.abs(following[:-1] - observations[1:]) > 1e-3 * (1.0 + np.abs(observations[1:]))
        cuts = [int(cut) + 1 for cut in np.flatnonzero(gap.any(axis=1))]
        self.notes["unmarked_ends"] += len(cuts)
        start = 0
        for stop in [*cuts, steps]:
            final = np.concatenate([observations[start:stop], following[stop - 1 : stop]])
            name = label if not cuts else f"{label}, steps {start} to {stop - 1}"
            inside = stop < steps
            part = slice(start, stop)
            yield self._episode(rows, part, final, name, terminated and not inside, truncated or inside)
            start = stop

    def _episode(
        self,
        rows: dict[str, NDArray[Any]],
        part: slice,
        observations: NDArray[Any],
        label: str,
        terminated: bool,
        truncated: bool,
    ) -> SourceEpisode:
        return SourceEpisode(
            label=label,
            observations=observations,
            actions=rows["actions"][part],
            rewards=rows["rewards"][part],
            terminated=terminated,
            truncated=truncated,
            info={} if self.column is None else {self.column: rows["info"][part]},
        )
