"""Real time for collectors (`online.rate`): the control loop's absolute deadlines, overruns counted. Torch-free."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from agent.board import CollectorSlot
from export.pacing import Pacer


class Rhythm:
    """One round each period, on deadlines that never drift; late ones are skipped, never made up for in a burst.

        while ...:
            if nothing is due: rhythm.pause()
            if episodes begin: rhythm.pause()       # a reset takes the time that it takes
            rhythm.wait()
            one round

    Without a rate nothing waits.
    """

    def __init__(self, hz: float, slots: np.ndarray, *, make: Callable[[float], Pacer] = Pacer) -> None:
        """`hz`: rounds a second, 0 for as many as there can be; `slots`: the collector's on the board."""
        self._hz, self._slots, self._make = hz, slots, make
        self._pacer: Pacer | None = None
        self._counted = 0

    @property
    def on(self) -> bool:
        """Whether there is a rate."""
        return self._hz > 0

    def pause(self) -> None:
        """The coming round begins a new series of deadlines: it cannot be late."""
        self._pacer, self._counted = None, 0

    def wait(self) -> None:
        """Return at the next deadline that still lies ahead."""
        if not self.on:
            return
        if self._pacer is None:
            self._pacer = self._make(self._hz)
        self._pacer.wait()
        self._slots[CollectorSlot.OVERRUNS] += self._pacer.overruns - self._counted
        self._counted = self._pacer.overruns
