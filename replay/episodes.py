"""Episodes of a store, found from the flags of its rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from replay.errors import EvictedError
from replay.reader import StoreReader


@dataclass(frozen=True, kw_only=True)
class Episode:
    """T steps with the T + 1 observations around them. Arrays are copies."""

    observations: NDArray[np.float32]
    """[T + 1, O]"""
    actions: NDArray[np.float32]
    """[T, A], environment units."""
    rewards: NDArray[np.float32]
    """[T], raw."""
    terminated: bool
    """Ended in the task's sense."""
    truncated: bool
    """Ended from outside, by a limit."""
    interrupted: bool
    """Cut by a fault or shutdown, lost its writer, or is still running."""
    info: dict[str, NDArray[np.float32]]
    """[T] for each info column."""
    policy_version: NDArray[np.int64]
    """[T], version of the policy that acted."""
    intervention: NDArray[np.bool_]
    """[T], a human acted."""
    synthetic: NDArray[np.bool_]
    """[T], not from the environment."""
    stream: str
    """Stream that holds the episode."""
    episode_id: int
    """Number within the stream."""


@dataclass(frozen=True, kw_only=True)
class EpisodeTable:
    """One line an episode, E lines, in the order of streams and rows; only those with a sampleable step."""

    stream: tuple[str, ...]
    """[E]"""
    start: NDArray[np.int64]
    """[E], first row in the stream."""
    length: NDArray[np.int64]
    """[E], steps T >= 1; the episode occupies T + 1 rows."""
    returns: NDArray[np.float64]
    """[E], sum of raw rewards."""
    terminated: NDArray[np.bool_]
    """[E]"""
    truncated: NDArray[np.bool_]
    """[E]"""
    interrupted: NDArray[np.bool_]
    """[E], cut, abandoned by a dead writer, or still running."""


def episode_table(reader: StoreReader) -> EpisodeTable:
    """Find all episodes by their flags, as of the reader's last refresh, but for those that lost their first row."""
    at = reader.spec.offsets
    names: list[str] = []
    parts: list[tuple[NDArray[np.float64] | NDArray[np.int64] | NDArray[np.bool_], ...]] = []
    for stream in reader.heads:
        blocks = [
            (
                start,
                rows[:, at["reward"]].astype(np.float64),
                rows[:, [at["first"], at["valid"], at["terminated"], at["truncated"], at["interrupted"]]] > 0,
            )
            for _, start, rows in reader.blocks(stream)
        ]
        if not blocks:
            continue
        origin = blocks[0][0]
        rewards = np.concatenate([rewards for _, rewards, _ in blocks])
        flags = np.concatenate([flags for _, _, flags in blocks])
        starts = np.flatnonzero(flags[:, 0])
        if not len(starts):
            continue
        lasts = np.append(starts[1:], len(flags)) - 1
        waiting = flags[lasts, 1]  # a last row that is a step never got its successor: its reward does not count
        rewards[lasts[waiting]] = 0.0
        length = lasts - starts
        returns = np.add.reduceat(rewards, starts)
        keep = length > 0
        ended = lasts - 1
        interrupted = waiting | flags[lasts, 4]
        line = (
            starts + origin,
            length,
            returns,
            flags[ended, 2] & ~interrupted,
            flags[ended, 3] & ~interrupted,
            interrupted,
        )
        parts.append(tuple(column[keep] for column in line))
        names += [stream] * int(keep.sum())
    empty = (*[np.empty(0, np.int64)] * 2, np.empty(0, np.float64), *[np.empty(0, np.bool_)] * 3)
    columns = [np.concatenate(column) for column in zip(empty, *parts, strict=True)]
    return EpisodeTable(
        stream=tuple(names),
        start=columns[0].astype(np.int64),
        length=columns[1].astype(np.int64),
        returns=columns[2].astype(np.float64),
        terminated=columns[3].astype(np.bool_),
        truncated=columns[4].astype(np.bool_),
        interrupted=columns[5].astype(np.bool_),
    )


def iterate_episodes(reader: StoreReader) -> Iterator[Episode]:
    """Read one episode after the other; those evicted meanwhile are passed over."""
    spec = reader.spec
    table = episode_table(reader)
    for e, stream in enumerate(table.stream):
        start, steps = int(table.start[e]), int(table.length[e])
        rows = reader.rows(stream, start, start + steps + 1)
        try:
            meta = reader.meta(stream, start, start + steps)
        except EvictedError:
            continue
        scalar = {name: rows[:-1, at] for name, at in spec.offsets.items() if name not in ("observation", "action")}
        yield Episode(
            observations=rows[:, spec.fields["observation"]].copy(),
            actions=rows[:-1, spec.fields["action"]].copy(),
            rewards=scalar["reward"].copy(),
            terminated=bool(table.terminated[e]),
            truncated=bool(table.truncated[e]),
            interrupted=bool(table.interrupted[e]),
            info={name: scalar[name].copy() for name in spec.info},
            policy_version=meta[:, 0].copy(),
            intervention=scalar["intervention"] > 0,
            synthetic=scalar["synthetic"] > 0,
            stream=stream,
            episode_id=int(meta[0, 4]),
        )
