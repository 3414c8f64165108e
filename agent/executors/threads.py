"""How many threads compute an update: as configured, or as many as are measured to shorten it.

Two threads that share the products of small networks save a third of an update on quiet cores, and make it four times
as long where other work keeps either core: each waits for the other dozens of times an update. So only cores that
nothing else of the run needs count as free. Measured is the eager update, doubling the threads as long as that pays;
the result is cached for the machine.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from agent.algorithms.base import Algorithm
from agent.executors.cache import read_cache, write_cache
from agent.executors.choose import in_turns, key_of, run, synthetic_batch, with_state_kept
from agent.executors.eager import eager
from agent.machine import cpu_quota
from agent.transitions import Transitions
from replay.layout import user_cache

NEEDED_GAIN = 0.15
"""Twice the threads must save this share of an update: less is better left to whatever else runs."""
WORTH_SECONDS = 20.0
"""Updates that take less on one thread are not worth a measurement."""


@dataclass(frozen=True, kw_only=True)
class Threads:
    """How many, and why."""

    count: int
    reason: str


def choose_threads(algorithm: Algorithm[Any], *, most: int, updates: int, cache: Path | None = None) -> Threads:
    """How many threads, of `most` at the utmost, shorten `updates` more updates of `algorithm`.

    Leaves torch with that many, and the algorithm's state as it is. `cache`: file for the measurements, by default
    `threads.json` in the user's cache folder.
    """
    torch.set_num_threads(1)
    if most < 2 or algorithm.device.type != "cpu":
        return Threads(count=1, reason="1 thread: no other core is free for it" if most < 2 else "1 thread: on a GPU")
    cache = cache or user_cache() / "threads.json"
    key = json.dumps([key_of(algorithm), most])
    known = read_counts(cache)
    if key in known:
        threads = Threads(count=known[key], reason=f"{named(known[key])}: measured before")
    else:
        batch = synthetic_batch(algorithm)
        one = with_state_kept(algorithm, lambda: run(algorithm, eager, batch, 3))
        if updates * one < WORTH_SECONDS:
            return Threads(count=1, reason=f"1 thread: {updates} updates are too few to measure more")
        threads = with_state_kept(algorithm, lambda: measure(algorithm, batch, most))
        write_cache(cache, read_counts(cache) | {key: threads.count})
    torch.set_num_threads(threads.count)
    return threads


def measure(algorithm: Algorithm[Any], batch: Transitions, most: int) -> Threads:
    """Double the threads while that pays. Changes the algorithm's state and torch's threads."""

    def seconds_on(threads: int) -> float:
        torch.set_num_threads(threads)
        return run(algorithm, eager, batch, 2)

    count, reason = 1, ""
    while 2 * count <= most:
        fewer, more = in_turns(algorithm, partial(seconds_on, count), partial(seconds_on, 2 * count))
        reason = f"{1e3 * fewer:.1f} ms an eager update on {count}, {1e3 * more:.1f} ms on {2 * count}"
        if more > fewer * (1.0 - NEEDED_GAIN):
            break
        count *= 2
    return Threads(count=count, reason=f"{named(count)}: {reason}")


def free_cores(taken: int) -> int:
    """Cores that this process may use beside `taken` others, at least 1."""
    cores = float(len(os.sched_getaffinity(0)))
    return max(1, int(min(cores, cpu_quota() or cores)) - taken)


def named(count: int) -> str:
    """In words."""
    return "1 thread" if count == 1 else f"{count} threads"


def read_counts(path: Path) -> dict[str, int]:
    """Cached numbers by key."""
    return {key: count for key, count in read_cache(path, int).items() if count >= 1}
