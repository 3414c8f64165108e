"""What a careful person looks at before training on a store: ranges, saturation, duplicates, ends, diversity.

    found = inspect(Store.open("door.zarr"))
    found.actions[3].at_high     # share of steps in which the fourth action stands at its upper bound

One pass over the rows, block by block: memory is that of one block, of a line an episode, and of a sample of
`SAMPLE_ROWS` rows, from which quantiles and diversity are taken. A fixed generator draws the sample: equal stores give
equal figures.

Shapes: O observation size, A action size, E episodes, C = O + A + 1 columns that count (observation, action, reward).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replay.diversity import Diversity, diversity
from replay.episodes import EpisodeTable, episode_table
from replay.reader import StoreReader
from replay.statistics import Moments, reward_scale
from replay.store import Store

BLOCK_ROWS = 32768  # of a few megabytes: what is made of them stays in the cache
SAMPLE_ROWS = 16384
BOUND_SHARE = 1e-3
"""An action within this share of the range of a bound stands at the bound."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
MOST_VALUES = 16
"""Rewards with at most so many distinct values are counted value by value."""
ORDER_PARTS = 20

Floats = NDArray[np.float32]
Hashes = NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One dimension of the observations or actions, over all steps."""

    name: str
    """As in the spec's columns, e.g. `observation[3]`."""
    min: float
    """Least value."""
    max: float
    """Largest value."""
    mean: float
    """Mean."""
    std: float
    """Population standard deviation."""
    quantiles: tuple[float, ...]
    """At 5, 25, 50, 75 and 95 %, of the sample; empty without steps."""
    nonfinite: int
    """Steps with NaN or infinity here; they are left out of every other figure."""

    @property
    def constant(self) -> bool:
        """Whether it never changes."""
        return self.min == self.max


@dataclass(frozen=True, kw_only=True)
class ActionColumn(Column):
    """One dimension of the actions, beside its bounds."""

    low: float
    """Lower bound."""
    high: float
    """Upper bound."""
    at_low: float
    """Share of steps at (or below) the lower bound."""
    at_high: float
    """Share of steps at (or above) the upper bound."""
    outside: int
    """Steps beyond a bound by more than rounding."""


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What a store holds, seen from whoever is to train on it."""

    rows: int
    """Committed rows."""
    steps: int
    """Rows that can be sampled."""
    observations: tuple[Column, ...]
    """[O]"""
    actions: tuple[ActionColumn, ...]
    """[A]"""
    rewards: Column
    """Raw rewards of all steps."""
    reward_values: dict[float, int] | None
    """Steps by reward, where there are few different ones."""
    nonfinite_rows: int
    """Steps with NaN or infinity anywhere."""
    interventions: int
    """Steps in which a human acted."""
    synthetic: int
    """Steps that are not from the environment."""
    returns: NDArray[np.float64]
    """[E], of all episodes, in the order of streams and rows."""
    lengths: NDArray[np.int64]
    """[E], steps."""
    terminated: NDArray[np.bool_]
    """[E], ended in the task's sense."""
    truncated: NDArray[np.bool_]
    """[E], ended from outside."""
    interrupted: NDArray[np.bool_]
    """[E], cut, abandoned or running."""
    success: NDArray[np.bool_] | None
    """[E], whether the info column `success` was positive at any step; None without that column."""
    duplicates: int
    """Episodes whose observations, actions and rewards are those of an earlier one."""
    diversity: Diversity | None
    """How varied the behaviour is; None with too little data to tell."""

    @property
    def ended(self) -> NDArray[np.bool_]:
        """[E], episodes that were not interrupted and whose return is a number."""
        return ~self.interrupted & np.isfinite(self.returns)

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON-able values; of the episodes a summary, histograms and the means in order."""
        returns, lengths = self.returns[self.ended], self.lengths[self.ended]
        return {
            "rows": self.rows,
            "steps": self.steps,
            "observations": [asdict(column) | {"constant": column.constant} for column in self.observations],
            "actions": [asdict(column) | {"constant": column.constant} for column in self.actions],
            "rewards": asdict(self.rewards),
            "reward_values": None
            if self.reward_values is None
            else {f"{v:g}": n for v, n in self.reward_values.items()},
            "nonfinite_rows": self.nonfinite_rows,
            "interventions": self.interventions,
            "synthetic": self.synthetic,
            "episodes": len(self.returns),
            "terminated": int(self.terminated.sum()),
            "truncated": int(self.truncated.sum()),
            "interrupted": int(self.interrupted.sum()),
            "success": None if self.success is None or not len(self.success) else float(self.success.mean()),
            "duplicates": self.duplicates,
            "return_histogram": histogram(returns),
            "length_histogram": histogram(lengths.astype(np.float64)),
            "returns_in_order": in_order(returns),
            "reward_scale": reward_scale(returns),
            "diversity": None if self.diversity is None else asdict(self.diversity),
        }


def histogram(values: NDArray[np.float64], bins: int = 20) -> dict[str, list[float]]:
    """Edges [bins + 1] and counts [bins]; both empty without values."""
    if not len(values):
        return {"edges": [], "counts": []}
    counts, edges = np.histogram(values, bins=bins)
    return {"edges": edges.tolist(), "counts": counts.tolist()}


def in_order(returns: NDArray[np.float64]) -> list[float]:
    """Mean returns of up to 20 equal parts of the episodes, in the order in which they are stored."""
    parts = np.array_split(returns, min(ORDER_PARTS, len(returns))) if len(returns) else []
    return [float(part.mean()) for part in parts]


def inspect(store: Store, *, progress: Callable[[int, int], None] = lambda done, total: None) -> Inspection:
    """Look at every row of a store; `progress` hears of (rows done, of how many).

    Raises:
        CorruptStoreError: a chunk or commit file is missing or damaged.
    """
    reader = store.reader()
    scan = _Scan(reader)
    done = 0
    for stream, start, chunk in reader.blocks():
        for low in range(0, len(chunk), BLOCK_ROWS):
            block = chunk[low : low + BLOCK_ROWS]
            scan.take(stream, start + low, block)
            done += len(block)
            progress(done, reader.num_rows)
    return scan.result(episode_table(reader))


class _Scan:
    """What one pass over the rows adds up. Blocks come stream by stream, in the order of rows."""

    def __init__(self, reader: StoreReader) -> None:
        spec = reader.spec
        self._reader, self._spec = reader, spec
        self._counted = spec.observation_size + spec.action_size + 1
        self._low = np.full(self._counted, np.inf, np.float32)
        self._high = np.full(self._counted, -np.inf, np.float32)
        self._moments = Moments(self._counted)
        self._bad = np.zeros(self._counted, np.int64)
        self._bad_rows = 0
        low, high = np.array(spec.action_low, np.float32), np.array(spec.action_high, np.float32)
        margin = (high - low) * np.float32(BOUND_SHARE)
        rounding = np.float32(1e-5) * np.maximum(np.abs(low), np.abs(high))
        self._edges = low + margin, high - margin, low - rounding, high + rounding
        self._at = np.zeros((3, spec.action_size), np.int64)  # at low, at high, outside
        self._flags = np.zeros(2, np.int64)
        self._values: dict[float, int] | None = {}
        self._episodes = _EpisodeSums(spec.offsets.get("success") if "success" in spec.info else None, self._counted)
        rng = np.random.default_rng(0)
        rows = reader.num_rows
        chosen = rng.choice(rows, min(SAMPLE_ROWS, rows), replace=False) if rows else np.empty(0, np.int64)
        self._chosen = np.sort(chosen)
        self._sample: list[Floats] = []
        self._sample_episodes: list[NDArray[np.int64]] = []
        self._seen = 0

    def take(self, stream: str, start: int, block: Floats) -> None:
        """Add rows `start` on of a stream [n, W]."""
        at = self._spec.offsets
        number = self._episodes.take(stream, start, block, at)
        valid = block[:, at["valid"]] > 0
        first, last = np.searchsorted(self._chosen, [self._seen, self._seen + len(block)])
        picked = self._chosen[first:last] - self._seen
        self._seen += len(block)
        whole = valid if self._all_finite(block) else valid & np.isfinite(block[:, : self._counted]).all(axis=1)
        picked = picked[whole[picked]]
        self._sample.append(block[picked, : self._counted])
        self._sample_episodes.append(number[picked])
        counted = block[:, : self._counted] if whole.all() else block[whole, : self._counted]
        if whole is not valid:
            bad = ~np.isfinite(block[valid, : self._counted])
            self._bad += bad.sum(axis=0)
            self._bad_rows += int(bad.any(axis=1).sum())
        if len(counted):
            self._add(counted)
        self._flags += (block[valid][:, [at["intervention"], at["synthetic"]]] > 0).sum(axis=0)

    def _all_finite(self, block: Floats) -> bool:
        # A sum is not finite where an addend is not; an overflow of its own only sends it the slower way.
        with np.errstate(over="ignore", invalid="ignore"):
            return bool(np.isfinite(block[:, : self._counted].sum()))

    def _add(self, rows: Floats) -> None:
        """Rows [n, C] that are steps and finite."""
        o, a = self._spec.observation_size, self._spec.action_size
        np.minimum(self._low, rows.min(axis=0), out=self._low)
        np.maximum(self._high, rows.max(axis=0), out=self._high)
        self._moments.update(rows)
        actions = rows[:, o : o + a]
        near_low, near_high, below, above = self._edges
        self._at[0] += (actions <= near_low).sum(axis=0)
        self._at[1] += (actions >= near_high).sum(axis=0)
        self._at[2] += ((actions < below) | (actions > above)).sum(axis=0)
        if self._values is not None:
            values, counts = np.unique(rows[:, o + a], return_counts=True)
            for value, count in zip(values[: MOST_VALUES + 1].tolist(), counts.tolist(), strict=False):
                self._values[value] = self._values.get(value, 0) + count
            self._values = self._values if len(self._values) <= MOST_VALUES else None

    def result(self, table: EpisodeTable) -> Inspection:
        """Everything, beside the table of the same rows."""
        spec = self._spec
        o, a = spec.observation_size, spec.action_size
        sample = np.concatenate(self._sample) if self._sample else np.empty((0, self._counted), np.float32)
        quantiles = np.quantile(sample, QUANTILES, axis=0).T if len(sample) else np.empty((self._counted, 0))
        count = max(self._moments.count, 1)

        def column(i: int) -> dict[str, Any]:
            known = self._moments.count > 0
            return {
                "name": spec.columns[i],
                "min": float(self._low[i]) if known else 0.0,
                "max": float(self._high[i]) if known else 0.0,
                "mean": float(self._moments.mean[i]),
                "std": float(self._moments.std[i]),
                "quantiles": tuple(float(q) for q in quantiles[i]),
                "nonfinite": int(self._bad[i]),
            }

        actions = tuple(
            ActionColumn(
                **column(o + i), low=float(spec.action_low[i]), high=float(spec.action_high[i]),
                at_low=float(self._at[0, i] / count), at_high=float(self._at[1, i] / count),
                outside=int(self._at[2, i]),
            )
            for i in range(a)
        )  # fmt: skip
        hashes, success = self._episodes.of(table)
        episodes = np.concatenate(self._sample_episodes) if self._sample_episodes else np.empty(0, np.int64)
        ranges = np.array(spec.action_high) - np.array(spec.action_low)
        return Inspection(
            rows=self._reader.num_rows,
            steps=self._reader.num_steps,
            observations=tuple(Column(**column(i)) for i in range(o)),
            actions=actions,
            rewards=Column(**column(o + a)),
            reward_values=dict(sorted(self._values.items())) if self._values else None,
            nonfinite_rows=self._bad_rows,
            interventions=int(self._flags[0]),
            synthetic=int(self._flags[1]),
            returns=table.returns,
            lengths=table.length,
            terminated=table.terminated,
            truncated=table.truncated,
            interrupted=table.interrupted,
            success=success,
            duplicates=len(hashes) - len(np.unique(hashes)),
            diversity=diversity(sample[:, :o], sample[:, o : o + a] / ranges, episodes),
        )


class _EpisodeSums:
    """For each episode a hash of its rows and whether it succeeded; the running episode is carried over blocks."""

    def __init__(self, success: int | None, counted: int) -> None:
        self._success, self._counted = success, counted
        self._stream = ""
        self._begun: list[tuple[str, int]] = []  # stream and first row of each episode, in the order of their numbers
        self._hashes: list[int] = []
        self._succeeded: list[bool] = []
        # Multilinear hashing (Lemire and Kaser 2014): random odd multipliers, one for each column.
        self._multipliers = np.random.default_rng(1).integers(2**63, size=counted, dtype=np.uint64) * 2 + 1

    def take(self, stream: str, start: int, block: Floats, at: dict[str, int]) -> NDArray[np.int64]:
        """Add rows of a stream; returns the number of each row's episode [n], counted over all streams."""
        firsts = block[:, at["first"]] > 0
        if stream != self._stream and not firsts[0]:
            self._open(stream, start)  # an episode that lost its head: no line of the table
        self._stream = stream
        carried = len(self._begun) - 1
        for begin in np.flatnonzero(firsts).tolist():
            self._open(stream, start + begin)
        number = carried + np.cumsum(firsts)
        cuts = np.flatnonzero(np.diff(number, prepend=number[0] - 1))
        origins = np.array([self._begun[n][1] for n in number[cuts].tolist()])
        place = start + np.arange(len(block)) - np.repeat(origins, np.diff(cuts, append=len(block)))
        valid = block[:, at["valid"]] > 0
        hashes = np.where(valid, self._row_hashes(block, place), np.uint64(0))
        for episode, total in zip(number[cuts].tolist(), np.add.reduceat(hashes, cuts).tolist(), strict=True):
            self._hashes[episode] = (self._hashes[episode] + total) % 2**64
        if self._success is not None:
            reached = np.logical_or.reduceat(valid & (block[:, self._success] > 0), cuts)
            for episode in number[cuts][reached].tolist():
                self._succeeded[episode] = True
        return number

    def _open(self, stream: str, row: int) -> None:
        self._begun.append((stream, row))
        self._hashes.append(0)
        self._succeeded.append(False)

    def _row_hashes(self, block: Floats, place: NDArray[np.int64]) -> Hashes:
        """A hash of each row's counted columns and of its place in the episode [n]."""
        words = np.ascontiguousarray(block[:, : self._counted]).view(np.uint32).astype(np.uint64)
        hashes: Hashes = (words * self._multipliers).sum(axis=1, dtype=np.uint64)
        hashes ^= hashes >> np.uint64(32)
        return hashes * (place.astype(np.uint64) * np.uint64(2) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)

    def of(self, table: EpisodeTable) -> tuple[Hashes, NDArray[np.bool_] | None]:
        """Hashes [E] and successes [E] of the table's episodes."""
        numbers = {begun: number for number, begun in enumerate(self._begun)}
        found = [numbers[stream, int(start)] for stream, start in zip(table.stream, table.start, strict=True)]
        hashes = np.array([self._hashes[n] for n in found], np.uint64)
        success = np.array([self._succeeded[n] for n in found], np.bool_)
        return hashes, (success if self._success is not None else None)
