"""What a store's data looks like: observation moments, returns, lengths, reward range. Streamed, float64."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from replay.episodes import EpisodeIndex, episode_table
from replay.errors import EmptyReplayError
from replay.reader import StoreReader
from replay.store import Store

BLOCK_ROWS = 65536


class Moments:
    """Count, mean and scatter of vectors [N], fed block by block and merged; float64.

    By the update of Chan, Golub and LeVeque (1979), so a large mean costs no precision. What it holds does not grow.
    """

    def __init__(self, size: int) -> None:
        self.count = 0
        """Vectors seen."""
        self.mean = np.zeros(size)
        """[N]"""
        self.scatter = np.zeros(size)
        """[N], sum of squared distances from the mean."""

    @property
    def std(self) -> NDArray[np.float64]:
        """Population standard deviation [N]; zeros before the first vector."""
        std: NDArray[np.float64] = np.sqrt(self.scatter / max(self.count, 1))
        return std

    def update(self, block: NDArray[np.float32] | NDArray[np.float64]) -> None:
        """Take in vectors [n, N]."""
        if len(block):
            values = block.astype(np.float64)
            mean = values.mean(axis=0)
            self._add(len(values), mean, ((values - mean) ** 2).sum(axis=0))

    def merge(self, other: Moments) -> None:
        """Take in what another instance has seen."""
        if other.count:
            self._add(other.count, other.mean, other.scatter)

    def _add(self, n: int, mean: NDArray[np.float64], scatter: NDArray[np.float64]) -> None:
        delta = mean - self.mean
        self.scatter += scatter + delta**2 * (self.count * n / (self.count + n))
        self.mean += delta * (n / (self.count + n))
        self.count += n


class RunningStatistics:
    """Statistics of the rows that a reader sees, followed as it grows: each row is read once.

    Rows that are evicted later stay counted in the moments and the rewards; the distributions of returns and lengths
    are those of the episodes present.
    """

    def __init__(self, reader: StoreReader) -> None:
        self._reader = reader
        self._episodes = EpisodeIndex(reader)
        self._seen: dict[str, int] = {}
        self.observations = Moments(reader.spec.observation_size)
        """Of the observations of all step rows."""
        self.rewards = Moments(1)
        """Of the raw rewards of all step rows."""
        self.reward_low, self.reward_high = np.inf, -np.inf

    def follow(self) -> None:
        """Take in what the reader has seen since, as of its last refresh; in bounded memory."""
        spec = self._reader.spec
        o, reward, valid = spec.observation_size, spec.offsets["reward"], spec.offsets["valid"]
        for stream, start, chunk in self._reader.blocks():
            seen = self._seen.get(stream, 0)
            for at in range(max(0, seen - start), len(chunk), BLOCK_ROWS):
                rows = chunk[at : at + BLOCK_ROWS]
                rows = rows[rows[:, valid] > 0]
                self.observations.update(rows[:, :o])
                self.rewards.update(rows[:, reward : reward + 1])
                if len(rows):
                    self.reward_low = min(self.reward_low, float(rows[:, reward].min()))
                    self.reward_high = max(self.reward_high, float(rows[:, reward].max()))
            self._seen[stream] = max(seen, start + len(chunk))

    def freeze(self) -> dict[str, Any]:
        """What is known now as JSON-able values, to be kept with a run.

        Returns:
            "observation" {count, mean [O], std [O]}, "reward" {count, mean, std, min, max}; "returns" and "lengths" of
            the episodes that were not interrupted, {count, mean, std, min, max, quantiles [11] at 0, 0.1, ..., 1};
            "reward_scale", `reward_scale` of these returns. Numbers that do not exist yet are None.

        Raises:
            EmptyReplayError: there is no step.
        """
        self.follow()
        if not self.observations.count:
            raise _no_step(self._reader, "statistics")
        found = [
            {name: column[~lines["interrupted"]] for name, column in lines.items()}
            for _, lines in self._episodes.lines(self._reader.index)
        ]
        sums = np.concatenate([np.empty(0), *(lines["returns"] for lines in found)])
        lengths = np.concatenate([np.empty(0), *(lines["length"] for lines in found)])
        rewards = self.rewards
        return {
            "observation": {
                "count": self.observations.count,
                "mean": self.observations.mean.tolist(),
                "std": self.observations.std.tolist(),
            },
            "reward": {
                "count": rewards.count,
                "mean": float(rewards.mean[0]),
                "std": float(rewards.std[0]),
                "min": self.reward_low,
                "max": self.reward_high,
            },
            "returns": _distribution(sums),
            "lengths": _distribution(lengths),
            "reward_scale": reward_scale(sums),
        }


def reward_scale(returns: NDArray[np.float64]) -> float | None:
    """1000 / (highest - lowest return), IQL's scale for locomotion; None where returns do not differ."""
    spread = float(np.ptp(returns)) if len(returns) else 0.0
    return 1000.0 / spread if spread > 0 else None


def _distribution(values: NDArray[np.float64]) -> dict[str, Any]:
    if not len(values):
        return {"count": 0} | dict.fromkeys(("mean", "std", "min", "max", "quantiles"))
    return {
        "count": len(values),
        "mean": float(values.mean()),
        "std": float(values.std()),
        "min": float(values.min()),
        "max": float(values.max()),
        "quantiles": np.quantile(values, np.linspace(0.0, 1.0, 11)).tolist(),
    }


def _no_step(reader: StoreReader, what: str) -> EmptyReplayError:
    return EmptyReplayError(f"{reader.description} has no step to take {what} of: add data first")


def observation_moments(reader: StoreReader) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """Mean and (population) standard deviation of the observations of all step rows.

    Returns:
        mean [O], std [O], number of rows.

    Raises:
        EmptyReplayError: there is no step.
    """
    o, valid = reader.spec.observation_size, reader.spec.offsets["valid"]
    moments = Moments(o)
    for _, _, chunk in reader.blocks():
        for at in range(0, len(chunk), BLOCK_ROWS):
            rows = chunk[at : at + BLOCK_ROWS]
            moments.update(rows[rows[:, valid] > 0, :o])
    if not moments.count:
        raise _no_step(reader, "moments")
    return moments.mean, moments.std, moments.count


def returns(store: Store) -> NDArray[np.float64]:
    """Sum of raw rewards of each episode that was not interrupted, [E]."""
    table = episode_table(store.reader())
    return table.returns[~table.interrupted]


def episode_lengths(store: Store) -> NDArray[np.int64]:
    """Steps of each episode that was not interrupted, [E]."""
    table = episode_table(store.reader())
    return table.length[~table.interrupted]


def reward_range(reader: StoreReader) -> tuple[float, float]:
    """Least and largest raw reward of all step rows.

    Raises:
        EmptyReplayError: there is no step.
    """
    reward, valid = reader.spec.offsets["reward"], reader.spec.offsets["valid"]
    low, high = np.inf, -np.inf
    for _, _, rows in reader.blocks():
        rewards = rows[rows[:, valid] > 0, reward]
        if len(rewards):
            low, high = min(low, float(rewards.min())), max(high, float(rewards.max()))
    if low > high:
        raise _no_step(reader, "rewards")
    return low, high
