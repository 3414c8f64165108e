"""A collector before a full disk: it pauses, says so, and goes on where it stood once there is space. Torch-free."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from agent.board import CollectorSlot, Pause
from agent.incidents import Incidents, no_space
from replay.errors import StorageError

T = TypeVar("T")
RETRY_SECONDS = 0.5


class DiskPatience:
    """Repeats a write that found the disk full until it succeeds; any other failure is the caller's.

    A write to a store that fails for want of space has committed nothing, so that repeating it is safe.
    """

    def __init__(self, incidents: Incidents, slots: np.ndarray, stopping: Callable[[], bool]) -> None:
        self._incidents, self._slots, self._stopping = incidents, slots, stopping

    def __call__(self, write: Callable[[], T]) -> T | None:
        """What `write` returns; None where a stop came before there was space."""
        paused = False
        while True:
            try:
                result = write()
                break
            except StorageError as error:
                if not no_space(error):
                    raise
                if not paused:
                    paused = True
                    self._slots[CollectorSlot.PAUSE] = Pause.FULL_DISK
                    self._incidents.event("collection_paused", f"the disk is full ({error}): waiting for free space")
            if self._stopping():
                return None
            self._slots[CollectorSlot.BEAT] = time.monotonic_ns()
            time.sleep(RETRY_SECONDS)
            self._slots[CollectorSlot.WAIT_NS] += int(RETRY_SECONDS * 1e9)
        if paused:
            self._slots[CollectorSlot.PAUSE] = Pause.NONE
            self._incidents.event("collection_resumed", "there is space on the disk again")
        return result
