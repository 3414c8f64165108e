"""Rows whose content is a formula of their index, so that a lost, doubled or torn row shows; and a program that
appends them: `python -m tests.replay.formula STORE STREAM DURABILITY [--broken]` until it is killed.

It writes each head to standard output after the commit that reached it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from replay import Store, StoreSpec, StreamWriter
from replay.reader import StoreReader

CHUNK_ROWS = 128  # small, so that a run crosses many chunk files; 128 rows always fill whole pages
OBSERVATION, ACTION = 5, 2  # columns


def spec(info: tuple[str, ...] = (), *, observation: int = OBSERVATION, action: int = ACTION) -> StoreSpec:
    """A store of `observation` + `action` columns."""
    terms = [{"name": "observation", "offset": 0, "length": observation, "dtype": "float32"}]
    return StoreSpec.from_terms(terms, [-1.0] * action, [1.0] * action, info=info)


def observation(index: int) -> NDArray[np.float32]:
    return np.array([index, *((index * k) % 65521 for k in (7, 11, 13, 17))], np.float32)


def action(index: int) -> NDArray[np.float32]:
    return np.array([index % 101, index % 103], np.float32)


def episode_length(number: int) -> int:
    return 1 + (number * 5) % 9


def append_forever(writer: StreamWriter) -> Iterator[int]:
    """Append episodes, by `append`, `cut` and `append_episode` in turn; yields the head after each commit."""
    number = 0
    while True:
        number += 1
        length, head = episode_length(number), writer.head
        if number % 4 == 0:
            steps = range(head, head + length)
            writer.append_episode(
                np.stack([observation(i) for i in range(head, head + length + 1)]),
                np.stack([action(i) for i in steps]),
                np.array([i % 1000 for i in steps], np.float32),
                terminated=number % 8 == 0,
                truncated=number % 8 != 0,
            )
            yield writer.head
            continue
        for t in range(length):
            ended = t == length - 1 and number % 4 != 1
            writer.append(
                observation(head + t),
                action(head + t),
                float((head + t) % 1000),
                first=t == 0,
                terminated=ended and number % 4 == 2,
                truncated=ended and number % 4 == 3,
                next_observation=observation(head + t + 1),
            )
            yield writer.head
        if writer.in_episode:
            writer.cut(observation(head + length))
            yield writer.head


def wrong_rows(reader: StoreReader, stream: str) -> list[int]:
    """Indices of committed rows whose content is not the formula's."""
    blocks = reader.blocks(stream)
    return [row for _, start, rows in blocks for row in wrong_among(rows, start, reader.spec.offsets)]


def wrong_among(rows: NDArray[np.float32], start: int, offsets: Mapping[str, int]) -> list[int]:
    """Indices, of rows [n, W] that begin at row `start`, whose content is not the formula's."""
    index = np.arange(start, start + len(rows), dtype=np.int64)
    expected = np.stack([index, *((index * k) % 65521 for k in (7, 11, 13, 17))], axis=1)
    good = (rows[:, :OBSERVATION] == expected).all(axis=1)
    valid = rows[:, offsets["valid"]] > 0
    actions = np.stack([index % 101, index % 103], axis=1)
    stored = rows[:, OBSERVATION : OBSERVATION + ACTION]
    good &= np.where(valid, (stored == actions).all(axis=1), ~stored.any(axis=1))
    good &= rows[:, offsets["reward"]] == np.where(valid, index % 1000, 0)
    return index[~good].tolist()


def break_commits() -> None:
    """Break the protocol in this process: slot before rows, and no checksum. The negative control."""
    from replay import log, recovery, stream

    class BrokenLog(log.StreamLog):
        def commit(self, rows, meta, *, steps, broken, episodes, open_):  # type: ignore[no-untyped-def]
            self._put_rows(np.zeros_like(rows), meta)
            start = self.head
            self.head += len(rows)
            self.steps += steps
            self.broken += broken
            self.episodes += episodes
            self.open = int(open_)
            self._put_slot()
            time.sleep(0.002)
            end, self.head = self.head, start
            self._put_rows(rows, meta)
            self.head = end

    stream.StreamLog = BrokenLog  # type: ignore[misc]
    recovery.block_crc = lambda slot, *_: slot.block_crc  # type: ignore[assignment]


def main(store: str, name: str, durability: str, *options: str) -> None:
    from replay import log

    log.FLUSH_INTERVAL_S = 0.005  # many group commits before the kill
    if "--broken" in options:
        break_commits()
    writer = Store.open(Path(store)).writer(name, durability=durability)  # type: ignore[arg-type]
    os.write(1, b"%d\n" % writer.head)
    for head in append_forever(writer):
        os.write(1, b"%d\n" % head)


if __name__ == "__main__":
    main(*sys.argv[1:])
