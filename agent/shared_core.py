"""A collector and its one environment on one core (Linux). Torch-free."""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from collections.abc import Callable
from pathlib import Path

CHOICE_SECONDS = 1.0


class SharedCore:
    """Keeps this thread and another process on one core: the two take turns, never computing at the same time.

    A message then costs a switch on that core instead of waking another one, which takes up to 100 µs on a virtual
    machine. Which core that is, the kernel decides: once a second this thread takes one step wherever it is put, and
    the other process follows. A process of several threads is left alone: they may compute side by side.

        core = SharedCore(lambda: env.pid)
        ... a step; core.keep() ...
    """

    def __init__(self, partner: Callable[[], int]) -> None:
        """`partner()` is the other's process id, which may change."""
        self._partner = partner
        self._all = os.sched_getaffinity(0)
        self._current = getattr(ctypes.CDLL(None), "sched_getcpu", None)
        self._pinned = 0
        self._due = 0.0
        self._roaming = True

    def keep(self) -> None:
        """Call it after each step; all but two a second cost a look at the clock."""
        now = time.monotonic()
        if now < self._due or len(self._all) == 1 or self._current is None:
            return
        # Whoever forbids it, or has taken a core away, wants it otherwise; and the partner may just have died.
        with contextlib.suppress(OSError):
            if not self._roaming:
                os.sched_setaffinity(0, self._all)
                self._roaming = True
                return
            self._due, self._roaming = now + CHOICE_SECONDS, False
            partner, core = self._partner(), int(self._current())
            threads = [int(path.name) for path in Path(f"/proc/{partner}/task").iterdir()]
            if core in self._all and len(threads) == 1:
                self._pinned = partner
                os.sched_setaffinity(partner, {core})
                os.sched_setaffinity(0, {core})
            elif partner == self._pinned:
                self._pinned = 0
                for thread in threads:  # those that began since were born on the one core
                    os.sched_setaffinity(thread, self._all)
