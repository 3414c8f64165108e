"""Episodes out of tables of rows in time order (CSV, Parquet, LeRobot), read in batches.

A row is one step: what was observed, the action taken then, what came of it. An episode ends where the episode column
changes, and after a terminated or truncated row; none of them records the observation after the last step (see
`ends.py`). Memory: one batch and one episode.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replay.ingest.ends import close_episode
from replay.ingest.source import SourceEpisode, SourceFormatError


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some consecutive rows; every array has n of them."""

    where: str
    """The file, for messages."""
    first_row: int
    """Number of the first row in that file."""
    observations: NDArray[np.float64]
    """[n, O]"""
    actions: NDArray[np.float64]
    """[n, A]"""
    rewards: NDArray[np.float64]
    """[n]"""
    terminated: NDArray[np.bool_]
    """[n]"""
    truncated: NDArray[np.bool_]
    """[n]"""
    episode: NDArray[Any] | None
    """[n], a name or number of the episode, or None."""
    clock: NDArray[np.float64] | None
    """[n], what must grow within an episode (time, frame number), or None."""
    info: dict[str, NDArray[np.float64]]
    """[n] each."""


def missing_column(where: str, name: str, role: str, held: Iterable[str]) -> SourceFormatError:
    """The error of a column that is not there, with the nearest one."""
    columns = list(held)
    near = difflib.get_close_matches(name, columns, 1, 0.5)
    guess = f"did you mean {near[0]!r}? " if near else ""
    shown = ", ".join(columns[:20]) + (", ..." if len(columns) > 20 else "")
    return SourceFormatError(f"{where} has no column {name!r} for {role}; {guess}it has {shown or 'none'}")


def action_range(
    batches: Iterable[Batch], where: str, names: Sequence[str]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(low, high) of the actions in the data, for sources that name no bounds; a constant dimension gets ± 1.

    `names` are the columns of the action's dimensions.

    Raises:
        SourceFormatError: there is no row, or an action is not finite.
    """
    low = high = None
    for batch in batches:
        if not len(batch.actions):
            continue
        finite = np.isfinite(batch.actions)
        if not finite.all():
            row, dimension = np.argwhere(~finite)[0]
            value = batch.actions[row, dimension]
            raise SourceFormatError(
                f"{batch.where}: column {names[dimension]!r} in row {batch.first_row + row} is "
                f"{'empty or NaN' if np.isnan(value) else value}; mend the recording or leave the episode out"
            )
        smallest, largest = batch.actions.min(axis=0), batch.actions.max(axis=0)
        low = smallest if low is None else np.minimum(low, smallest)
        high = largest if high is None else np.maximum(high, largest)
    if low is None or high is None:
        raise SourceFormatError(f"{where} holds no row to ingest")
    constant = low == high
    return tuple((low - constant).tolist()), tuple((high + constant).tolist())


def episodes_of(
    batches: Iterable[Batch], notes: Counter[str], *, terminate_on: str | None, outcome: str | None = None
) -> Iterator[SourceEpisode]:
    """Cut batches into episodes.

    Args:
        batches: the rows, in order.
        notes: counts what had to be mended.
        terminate_on: info column that the caller will end episodes on.
        outcome: info column that, not zero in an episode's last row, says that it terminated there.

    Raises:
        SourceFormatError: an episode comes back after another one, or its clock does not grow.
    """
    held: list[Batch] = []
    seen: set[Any] = set()
    current: Any = None
    for batch in batches:
        count = len(batch.rewards)
        if not count:
            continue
        changes = np.zeros(count, np.bool_)
        if batch.episode is not None:
            changes[1:] = batch.episode[1:] != batch.episode[:-1]
            changes[0] = not seen or batch.episode[0] != current
            for row in np.flatnonzero(changes):
                current = batch.episode[row]
                if current in seen:
                    raise SourceFormatError(
                        f"{batch.where}: row {batch.first_row + row}: episode {current} comes back after another one; "
                        "sort the rows by episode and time"
                    )
                seen.add(current)
        ended = batch.terminated | batch.truncated
        begins = changes[1:] | ended[:-1]
        if changes[0] and held:
            yield from _close(held, notes, terminate_on, outcome)
            held = []
        for start, stop in pairwise([0, *(np.flatnonzero(begins) + 1).tolist(), count]):
            held.append(_part(batch, start, stop))
            if stop < count or ended[-1]:
                yield from _close(held, notes, terminate_on, outcome)
                held = []
    if held:
        yield from _close(held, notes, terminate_on, outcome)


def _part(batch: Batch, start: int, stop: int) -> Batch:
    rows = slice(start, stop)
    return replace(
        batch,
        first_row=batch.first_row + start,
        observations=batch.observations[rows],
        actions=batch.actions[rows],
        rewards=batch.rewards[rows],
        terminated=batch.terminated[rows],
        truncated=batch.truncated[rows],
        episode=None if batch.episode is None else batch.episode[rows],
        clock=None if batch.clock is None else batch.clock[rows],
        info={name: column[rows] for name, column in batch.info.items()},
    )


def _close(
    parts: list[Batch], notes: Counter[str], terminate_on: str | None, outcome: str | None
) -> Iterator[SourceEpisode]:
    first, last = parts[0], parts[-1]
    name = "" if first.episode is None else f"episode {first.episode[0]}, "
    label = f"{first.where}: {name}rows {first.first_row} to {last.first_row + len(last.rewards) - 1}"
    clocks = [part.clock for part in parts if part.clock is not None]
    if clocks:
        clock = np.concatenate(clocks)
        back = np.flatnonzero(~(np.diff(clock) > 0))
        if len(back):
            row = int(back[0]) + 1
            raise SourceFormatError(
                f"{label}: at its step {row} the time goes from {clock[row - 1]:.9g} to {clock[row]:.9g}; "
                "sort the rows by episode and time"
            )
    for episode in close_episode(
        label,
        {
            "observations": np.concatenate([part.observations for part in parts]),
            "actions": np.concatenate([part.actions for part in parts]),
            "rewards": np.concatenate([part.rewards for part in parts]),
        },
        terminated=bool(last.terminated[-1] or (outcome is not None and last.info[outcome][-1])),
        truncated=bool(last.truncated[-1]),
        info={key: np.concatenate([part.info[key] for part in parts]) for key in first.info},
        terminate_on=terminate_on,
        notes=notes,
    ):
        yield replace(episode, first_row=first.first_row)
