"""Which executor runs the updates: as configured, or for `auto` by a short measured calibration.

A compiler costs tens of seconds before the first update, so `auto` compiles only where the updates still to come can
win that back; it never keeps what it measured to be slower than eager. Its measurements are cached for the machine.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from agent.algorithms.base import Algorithm
from agent.executors.cache import read_cache, write_cache
from agent.executors.compiled import Compiled
from agent.executors.eager import Executor, eager
from agent.transitions import Transitions
from replay.layout import user_cache

T = TypeVar("T")
ExecutorName = Literal["eager", "compiled"]
ROUNDS = 15
LIKELY_COMPILE_SECONDS = 40.0
LIKELY_GAIN = 0.4
"""Share of an eager update's time that compiling saves (2×256, batch 256; two thirds at 2×128, batch 128)."""
NEEDED_GAIN = 0.03
"""Compiled must be faster by this share: less is noise."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What was chosen and why."""

    name: ExecutorName
    executor: Executor
    reason: str


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One calibration, in seconds; `compiled` is None where compiling failed."""

    eager: float
    compiled: float | None
    compile: float

    def worth_compiling(self, updates: int) -> bool:
        """Whether `updates` more updates run sooner compiled, compilation included."""
        if self.compiled is None or self.compiled > self.eager * (1.0 - NEEDED_GAIN):
            return False
        return updates * (self.eager - self.compiled) > self.compile


def choose(
    algorithm: Algorithm[Any],
    name: Literal["auto", "eager", "compiled"],
    *,
    updates: int,
    say: Callable[[str], None],
    working: Callable[[], AbstractContextManager[None]] = nullcontext,
    cache: Path | None = None,
) -> Choice:
    """An executor for `updates` more updates of `algorithm`, whose state is unchanged when this returns.

    `working()` is entered whenever a compiler works, here and later. `cache`: file for `auto`'s measurements, by
    default `executors.json` in the user's cache folder.
    """
    if name == "eager":
        return Choice(name="eager", executor=eager, reason="asked for")
    compiled = Compiled(say, working)
    if name == "compiled":
        with_state_kept(algorithm, lambda: run(algorithm, compiled, synthetic_batch(algorithm), 1))
        if compiled.failed:
            return Choice(name="eager", executor=eager, reason="compiling failed")
        return Choice(name="compiled", executor=compiled, reason="asked for")
    return _measured(algorithm, compiled, updates, cache or default_cache())


def _measured(algorithm: Algorithm[Any], compiled: Compiled, updates: int, cache: Path) -> Choice:
    key = key_of(algorithm)
    timing = read_timings(cache).get(key)
    if timing is None:
        seconds = with_state_kept(algorithm, lambda: run(algorithm, eager, synthetic_batch(algorithm), ROUNDS))
        likely = Timing(eager=seconds, compiled=seconds * (1.0 - LIKELY_GAIN), compile=LIKELY_COMPILE_SECONDS)
        if not likely.worth_compiling(updates):
            reason = f"{updates} updates of {1e3 * seconds:.2f} ms are too few to win back a compilation"
            return Choice(name="eager", executor=eager, reason=reason)
        timing = with_state_kept(algorithm, lambda: compare(algorithm, compiled))
        if not compiled.failed:
            # A compiler that is missing today may be there tomorrow.
            write_timings(cache, {**read_timings(cache), key: timing})
        timing = replace(timing, compile=0.0)  # which is spent by now
    if not timing.worth_compiling(updates):
        what = "compiling failed" if timing.compiled is None else f"compiled {1e3 * timing.compiled:.2f} ms"
        reason = f"eager {1e3 * timing.eager:.2f} ms an update, {what}, {updates} updates to come"
        return Choice(name="eager", executor=eager, reason=reason)
    assert timing.compiled is not None
    reason = f"compiled {1e3 * timing.compiled:.2f} ms an update, eager {1e3 * timing.eager:.2f} ms"
    return Choice(name="compiled", executor=compiled, reason=reason)


def compare(algorithm: Algorithm[Any], compiled: Compiled) -> Timing:
    """Median times of both executors, in turns so that a busy machine slows both. Changes the algorithm's state."""
    batch = synthetic_batch(algorithm)
    run(algorithm, compiled, batch, 2)
    of_eager, of_compiled = in_turns(
        algorithm, lambda: run(algorithm, eager, batch, 2), lambda: run(algorithm, compiled, batch, 2)
    )
    return Timing(eager=of_eager, compiled=None if compiled.failed else of_compiled, compile=compiled.compile_seconds)


def in_turns(algorithm: Algorithm[Any], *contenders: Callable[[], float]) -> list[float]:
    """Median seconds of each contender, all of which run the algorithm's same updates."""
    seconds: list[list[float]] = [[] for _ in contenders]
    for _ in range(ROUNDS):
        at = algorithm.updates
        for contender, each in zip(contenders, seconds, strict=True):
            # Where only every second update moves the policy, following ones would compare unlike work.
            algorithm.updates = at
            each.append(contender())
    return [statistics.median(each) for each in seconds]


def run(algorithm: Algorithm[Any], executor: Executor, batch: Transitions, rounds: int) -> float:
    """Median seconds of `rounds` updates. Changes the algorithm's state."""
    seconds = []
    own, algorithm.executor = algorithm.executor, executor
    for _ in range(rounds):
        start = time.perf_counter()
        algorithm.update(batch)
        seconds.append(time.perf_counter() - start)
    algorithm.executor = own
    return statistics.median(seconds)


def with_state_kept(algorithm: Algorithm[Any], body: Callable[[], T]) -> T:
    """`body()`, after which the algorithm is bit for bit what it was."""
    state = algorithm.state_dict()
    kept = {"tensors": {name: t.clone() for name, t in state["tensors"].items()}, "numbers": state["numbers"]}
    try:
        return body()
    finally:
        algorithm.load_state_dict(kept)


def synthetic_batch(algorithm: Algorithm[Any]) -> Transitions:
    """Random transitions of the algorithm's own sizes."""
    generator = torch.Generator().manual_seed(0)
    rows, observations, actions = algorithm.config.batch_size, algorithm.observation_size, algorithm.action_size

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    needed = algorithm.config.needs_next_action
    return Transitions(
        observation=normal(rows, observations),
        action=normal(rows, actions).tanh(),
        reward=normal(rows),
        discount=torch.full((rows,), algorithm.config.discount),
        next_observation=normal(rows, observations),
        next_action=normal(rows, actions).tanh() if needed else None,
        next_action_known=torch.ones(rows) if needed else None,
        return_to_go=normal(rows) if algorithm.config.needs_return_to_go else None,
    )


def key_of(algorithm: Algorithm[Any]) -> str:
    """All that the timing depends on."""
    # Of a real number only whether it is zero (dropout) can change what is computed.
    options = {k: v != 0.0 if isinstance(v, float) else v for k, v in asdict(algorithm.config).items()}
    sizes = [algorithm.observation_size, algorithm.action_size, algorithm.precision]
    return json.dumps([options, sizes, torch.__version__, torch.get_num_threads(), cpu_name()])


def cpu_name() -> str:
    """The processor's model as the kernel names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def default_cache() -> Path:
    """Where measurements are kept between runs."""
    return user_cache() / "executors.json"


def read_timings(path: Path) -> dict[str, Timing]:
    """Cached timings by key."""
    return read_cache(path, lambda value: Timing(**value))


def write_timings(path: Path, timings: dict[str, Timing]) -> None:
    """Keep `timings`."""
    write_cache(path, {key: asdict(timing) for key, timing in timings.items()})
