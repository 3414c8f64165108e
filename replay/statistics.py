"""What a store's data looks like: observation moments, returns, lengths, reward range. Streamed, float64."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from replay.episodes import episode_table
from replay.errors import EmptyReplayError
from replay.reader import StoreReader
from replay.store import Store

BLOCK_ROWS = 65536


def observation_moments(reader: StoreReader) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """Mean and (population) standard deviation of the observations of all step rows.

    Blocks are merged by Chan, Golub and LeVeque's update, so a large mean costs no precision.

    Returns:
        mean [O], std [O], number of rows.

    Raises:
        EmptyReplayError: there is no step.
    """
    o, valid = reader.spec.observation_size, reader.spec.offsets["valid"]
    mean, scatter, count = np.zeros(o), np.zeros(o), 0
    for _, _, chunk in reader.blocks():
        for at in range(0, len(chunk), BLOCK_ROWS):
            rows = chunk[at : at + BLOCK_ROWS]
            block = rows[rows[:, valid] > 0, :o].astype(np.float64)
            n = len(block)
            if not n:
                continue
            block_mean = block.mean(axis=0)
            delta = block_mean - mean
            scatter += ((block - block_mean) ** 2).sum(axis=0) + delta**2 * (count * n / (count + n))
            mean += delta * (n / (count + n))
            count += n
    if not count:
        raise EmptyReplayError(f"{reader.description} has no step to take moments of: add data first")
    return mean, np.sqrt(scatter / count), count


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
        raise EmptyReplayError(f"{reader.description} has no step to take rewards of: add data first")
    return low, high
