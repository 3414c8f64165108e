"""Batches for the update loop, drawn and prepared ahead of it by a thread of their own.

The thread draws with the same generator in the same order as a loop that draws for itself, so both train bit for bit
alike. What it has drawn and the loop has not consumed is forgotten at the end: the sampler's state, for checkpoints and
for whoever draws next, is always that after the last consumed batch.

It works in blocks of several batches. Every array operation of the thread may take the interpreter from the update,
which then waits to be woken: a block takes a fraction of the operations that its batches would take one by one.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Protocol

from agent.transitions import Preparer, TransitionBuffer, Transitions
from replay.sampler import Batch

AHEAD = 8
"""Batches a block: one block is consumed while the thread draws another. New rows are looked for between blocks."""


class Sampler(Protocol):
    """Anything that draws batches of stored transitions and can go on from where it stood."""

    batch_size: int

    def next_block(self, count: int, *, after: Callable[[], object]) -> Batch:
        """The next `count` batches in arrays that the following call reuses; `after` is called behind each."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, JSON-able."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        ...


@dataclass
class _Block:
    """Reused memory of some batches, and where the sampler stood after drawing each."""

    buffer: TransitionBuffer
    states: list[dict[str, Any]] = field(default_factory=list)


class Feed:
    """Prepared batches of one sampler, in its order. Leaving its `with` block stops the thread.

    While the feed is open nobody else may use `sampler`; afterwards the sampler goes on after the last consumed batch.
    """

    def __init__(
        self, sampler: Sampler, prepare: Preparer, *, ahead: int = AHEAD, follow: Callable[[], object] = lambda: None
    ) -> None:
        """
        Args:
            ahead: batches a block that is drawn ahead; 0 draws each batch when it is asked for, in the caller's thread:
                on a single core a thread could only take the update's time.
            follow: called before every `AHEAD` draws by whoever draws, to let the sampler see new rows.
        """
        self._sampler, self._prepare, self._follow = sampler, prepare, follow
        self.batch: Transitions | None = None
        """What `next` last handed out."""
        self._drawn = 0
        self._state = sampler.state_dict()
        self._waited, self._measured_at = 0.0, time.perf_counter()
        self._free: SimpleQueue[_Block | None] = SimpleQueue()
        self._ready: SimpleQueue[_Block | Exception] = SimpleQueue()
        self._size = ahead or 1
        self._in_use = self._allocate()
        self._handed_out = self._size  # of the block in use, before the first one all
        self._thread: threading.Thread | None = None
        if ahead:
            self._free.put(self._allocate())
            self._thread = threading.Thread(target=self._fill, name="sampler", daemon=True)
            self._thread.start()

    def _allocate(self) -> _Block:
        return _Block(self._prepare.allocate(self._size, self._sampler.batch_size))

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def next(self) -> Transitions:
        """The next batch, valid until the following call. Raises what drawing or preparing its block raised."""
        if self._handed_out == self._size:
            self._next_block()
        at, self._handed_out = self._handed_out, self._handed_out + 1
        self._state = self._in_use.states[at]
        self.batch = self._in_use.buffer.transitions[at]
        return self.batch

    def _next_block(self) -> None:
        self._in_use.buffer.release()
        if self._thread is None:
            started = time.perf_counter()
            self._draw(self._in_use)
            self._waited += time.perf_counter() - started
        else:
            self._free.put(self._in_use)
            self._in_use = self._next_ready()
        self._in_use.buffer.acquire()
        self._handed_out = 0

    def _next_ready(self) -> _Block:
        try:
            ready = self._ready.get_nowait()
        except Empty:
            started = time.perf_counter()
            ready = self._ready.get()
            self._waited += time.perf_counter() - started
        if isinstance(ready, Exception):
            self._ready.put(ready)  # whoever asks again is told again
            raise ready
        return ready

    def _draw(self, block: _Block) -> None:
        if self._drawn % AHEAD == 0:
            self._follow()
        block.states.clear()
        drawn = self._sampler.next_block(self._size, after=lambda: block.states.append(self._sampler.state_dict()))
        self._prepare.fill(drawn, block.buffer)
        self._drawn += self._size

    def _fill(self) -> None:
        try:
            while (block := self._free.get()) is not None:
                self._draw(block)
                self._ready.put(block)
        except Exception as error:  # noqa: BLE001
            # The update loop raises it when it asks for this block.
            self._ready.put(error)

    def state_dict(self) -> dict[str, Any]:
        """The sampler's state after the last consumed batch, JSON-able."""
        return self._state

    def wait_fraction(self) -> float:
        """Share of the time since the last call (or the start) that `next` waited for a batch, in [0, 1]."""
        now = time.perf_counter()
        fraction = self._waited / max(now - self._measured_at, 1e-9)
        self._waited, self._measured_at = 0.0, now
        return fraction

    def close(self) -> None:
        """Stop the thread and put the sampler back to where the last consumed batch left it."""
        if self._thread is not None:
            while True:  # so that the thread sees the end at once, not after the free buffers
                try:
                    self._free.get_nowait()
                except Empty:
                    break
            self._free.put(None)
            self._thread.join()
            self._thread = None
        self._sampler.load_state_dict(self._state)


def batches_ahead() -> int:
    """How far ahead to draw: not at all where this process may use one core only."""
    return AHEAD if len(os.sched_getaffinity(0)) > 1 else 0
