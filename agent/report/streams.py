"""What the streams of a store hold: their episodes, who acted, and by which policy version."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from replay.episodes import EpisodeTable
from replay.reader import StoreReader

BLOCK_ROWS = 65_536
MOST_VERSION_BINS = 40


@dataclass(frozen=True, kw_only=True)
class StreamFacts:
    """What one stream of a store holds."""

    name: str
    """Name of the stream."""
    steps: int
    """Transitions."""
    episodes: int
    """Episodes, interrupted ones included."""
    terminated: int
    """Episodes that ended in the task's sense."""
    truncated: int
    """Episodes that ended by a limit."""
    interrupted: int
    """Episodes cut by a fault or shutdown, or still running."""
    mean_return: float | None
    """Mean return of the episodes that were not interrupted."""
    versions: tuple[int, int]
    """Oldest and newest policy version that acted; 0 where no versioned policy did."""
    interventions: int
    """Steps on which a person or another controller acted instead of the policy."""
    synthetic: int
    """Steps that no environment took."""


@dataclass(frozen=True, kw_only=True)
class Versions:
    """The steps of a store by the policy version that acted, in V bins of neighbouring versions."""

    edges: np.ndarray
    """[V + 1], ascending; bin i holds the versions from edges[i] up to, not including, edges[i + 1]."""
    steps: np.ndarray
    """[V], transitions."""
    episodes: np.ndarray
    """[V], whole episodes that began with one of the bin's versions."""
    mean_return: np.ndarray
    """[V] float64, their mean return; NaN where there is none."""


def stream_facts(reader: StoreReader, table: EpisodeTable) -> tuple[list[StreamFacts], Versions | None]:
    """One line for each stream that holds an episode; all steps by policy version, None where none was versioned."""
    facts: list[StreamFacts] = []
    streams, offsets = np.asarray(table.stream, dtype=object), reader.spec.offsets
    count = np.zeros(1, np.int64)
    first_versions = np.zeros(len(streams), np.int64)
    for name in sorted(set(table.stream)):
        of = streams == name
        starts, lengths, whole = table.start[of], table.length[of], ~table.interrupted[of]
        first, stop = int(starts[0]), int(starts[-1] + lengths[-1])
        version = np.zeros(stop - first, np.int64)
        flagged = np.zeros(2, np.int64)
        for begin in range(first, stop, BLOCK_ROWS):
            end = min(begin + BLOCK_ROWS, stop)
            version[begin - first : end - first] = reader.meta(name, begin, end)[:, 0]
            rows = reader.rows(name, begin, end)
            steps = rows[:, offsets["valid"]] > 0
            flagged += [int((rows[steps, offsets[flag]] > 0).sum()) for flag in ("intervention", "synthetic")]
        first_versions[of] = version[starts - first]
        # An episode's last row holds its final observation and is no step.
        inside = np.concatenate([np.arange(s, s + t) for s, t in zip(starts - first, lengths, strict=True)])
        counted = np.bincount(np.maximum(version[inside], 0))
        longer, shorter = (counted, count) if len(counted) > len(count) else (count, counted)
        count = longer.copy()
        count[: len(shorter)] += shorter
        facts.append(
            StreamFacts(
                name=name,
                steps=int(lengths.sum()),
                episodes=len(starts),
                terminated=int(table.terminated[of].sum()),
                truncated=int(table.truncated[of].sum()),
                interrupted=int(table.interrupted[of].sum()),
                mean_return=float(table.returns[of][whole].mean()) if whole.any() else None,
                versions=(int(version[inside].min()), int(version[inside].max())),
                interventions=int(flagged[0]),
                synthetic=int(flagged[1]),
            )
        )
    return facts, by_version(count, first_versions, table) if len(count) > 1 else None


def by_version(count: np.ndarray, first_versions: np.ndarray, table: EpisodeTable) -> Versions:
    """`count` [newest + 1] steps of each version and the episodes' first versions [E], gathered into bins."""
    oldest, newest = int(np.flatnonzero(count)[0]), len(count) - 1
    edges = np.unique(np.linspace(oldest, newest + 1, min(MOST_VERSION_BINS, newest + 1 - oldest) + 1).astype(np.int64))
    steps = np.add.reduceat(count, edges[:-1])
    whole = ~table.interrupted
    bin_of = np.searchsorted(edges, first_versions[whole], side="right") - 1
    episodes = np.bincount(bin_of, minlength=len(steps))
    total = np.bincount(bin_of, weights=table.returns[whole], minlength=len(steps))
    mean = np.divide(total, episodes, out=np.full(len(steps), np.nan), where=episodes > 0)
    return Versions(edges=edges, steps=steps, episodes=episodes, mean_return=mean)
