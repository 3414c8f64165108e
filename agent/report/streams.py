"""What the streams of a store hold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from replay.episodes import EpisodeTable
from replay.reader import StoreReader


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


def stream_facts(reader: StoreReader, table: EpisodeTable) -> list[StreamFacts]:
    """One line for each stream that holds an episode."""
    facts, streams = [], np.asarray(table.stream, dtype=object)
    for name in sorted(set(table.stream)):
        of = streams == name
        starts, lengths, whole = table.start[of], table.length[of], ~table.interrupted[of]
        version = reader.meta(name, int(starts[0]), int(starts[-1] + lengths[-1]))[:, 0]
        facts.append(
            StreamFacts(
                name=name,
                steps=int(lengths.sum()),
                episodes=len(starts),
                terminated=int(table.terminated[of].sum()),
                truncated=int(table.truncated[of].sum()),
                interrupted=int(table.interrupted[of].sum()),
                mean_return=float(table.returns[of][whole].mean()) if whole.any() else None,
                versions=(int(version.min()), int(version.max())),
            )
        )
    return facts
