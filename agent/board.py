"""The control board: one small mapped file of counters that the processes of a run share.

Each slot is an aligned int64 that one process at a time writes (the supervisor before it starts the owner) and anyone
reads without a lock, so a reader sees the old value or the new.
Slots are hints for pacing and display; what must survive is in the store and in checkpoints.
"""

from __future__ import annotations

import mmap
import time
from enum import IntEnum
from pathlib import Path

import numpy as np

from agent import staleness

MAX_COLLECTORS = 64
COLLECTOR_SLOTS = 8
HEADER_SLOTS = 32


class Phase(IntEnum):
    """Where a run is."""

    STARTING = 0
    PRETRAIN = 1
    WARMUP = 2
    ONLINE = 3
    DONE = 4


class Pause(IntEnum):
    """Why a collector takes no steps although they are due."""

    NONE = 0
    FULL_DISK = 1
    STALE_POLICY = 2


class Slot(IntEnum):
    """Run-wide slots and who writes them."""

    PHASE = 0
    """Learner."""
    STOP = 1
    """Supervisor: 1 asks everyone to finish the current step, save and leave."""
    PRETRAIN_STEP = 2
    """Learner: offline updates done."""
    ONLINE_UPDATES = 3
    """Learner: online updates done."""
    POLICY_VERSION = 4
    """Learner: newest published version."""
    LEARNER_BEAT = 5
    """Learner: monotonic ns of its last sign of life."""
    LIMITER_STEPS = 6
    """Learner: online steps at which pacing starts (after warm-up and what was forgiven)."""
    LIMITER_UPDATES = 7
    """Learner: online updates at that point."""
    LEARNER_WAIT_NS = 8
    """Learner: total time spent waiting for collectors."""
    PUBLISHED_NS = 9
    """Learner: monotonic ns at which the newest version, or one just before it, was published."""
    SCORED_VERSION = 10
    """Supervisor: the version whose evaluation was started last."""
    ACTOR_PAUSED = 11
    """Learner: 1 while the guard holds the actor at the pretrained weights."""
    DISK_FULL = 12
    """Learner: 1 while it cannot publish or save for want of space."""
    LEARNER_DEATHS = 13
    """Supervisor: deaths of the learner since it last saved something new; each halves its checkpoints' interval."""
    SCORE_WANTED = 14
    """Learner in lockstep: the online steps at which it stands and waits for its evaluation."""
    SCORE_ENDED = 15
    """Supervisor: those of the evaluation so asked for that ended last, with or without a score."""


class CollectorSlot(IntEnum):
    """Slots of one collector, which writes them all."""

    BEAT = 0
    STEPS = 1
    EPISODES = 2
    POLICY_VERSION = 3
    WAIT_NS = 4
    FAULTS = 5
    PAUSE = 6
    """A `Pause`."""
    OVERRUNS = 7
    """Rounds that came after their deadline, under `online.rate`."""


class Board:
    """Maps RUN/board.bin, creating it when absent."""

    def __init__(self, path: Path) -> None:
        counters = HEADER_SLOTS + MAX_COLLECTORS * COLLECTOR_SLOTS
        size = 8 * (counters + MAX_COLLECTORS * staleness.BUCKETS)
        with path.open("a+b") as file:
            file.truncate(size)
            self._map = mmap.mmap(file.fileno(), size)
        slots = np.frombuffer(self._map, dtype=np.int64)
        # The same memory: ten of its slots are read for each environment step, at a third of what NumPy takes.
        self._slots = memoryview(self._map).cast("q")
        self._collectors = slots[HEADER_SLOTS:counters].reshape(MAX_COLLECTORS, COLLECTOR_SLOTS)
        self._steps = self._collectors[:, CollectorSlot.STEPS]
        self.staleness: np.ndarray = slots[counters:].reshape(MAX_COLLECTORS, staleness.BUCKETS)
        """Counts of stored steps by age of their policy, int64 [MAX_COLLECTORS, BUCKETS]; a row for each collector."""

    def __getitem__(self, slot: Slot) -> int:
        return self._slots[slot]

    def __setitem__(self, slot: Slot, value: int) -> None:
        self._slots[slot] = value

    def collector(self, index: int) -> np.ndarray:
        """The slots of one collector, int64 [COLLECTOR_SLOTS], indexed by `CollectorSlot`."""
        row: np.ndarray = self._collectors[index]
        return row

    def online_steps(self) -> int:
        """Environment steps stored by all collectors, those of earlier starts included."""
        return int(np.add.reduce(self._steps))

    def total(self, slot: CollectorSlot) -> int:
        """Of a counter, over all collectors."""
        return int(self._collectors[:, slot].sum())

    def beat(self) -> None:
        """The learner is alive."""
        self._slots[Slot.LEARNER_BEAT] = time.monotonic_ns()

    @property
    def phase(self) -> Phase:
        """Current phase."""
        return Phase(self[Slot.PHASE])

    @property
    def stopping(self) -> bool:
        """Whether the supervisor asked everyone to leave."""
        return self[Slot.STOP] != 0
