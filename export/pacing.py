"""Time in the control loop: deadlines that never drift, and latencies in bounded memory."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

_SMALLEST_S = 1e-7
_PER_OCTAVE = 64
_BUCKETS = 30 * _PER_OCTAVE


class Pacer:
    """Absolute deadlines on the monotonic clock: start, start + T, start + 2T, …

    `wait` returns at the next deadline. A caller that comes late has overrun: it waits for the next deadline that still
    lies ahead, and the ones in between are skipped and counted. So however late the caller was, no burst
    makes up for it: n periods take at least n - 1 times T. An error in one sleep is not carried into the next.
    """

    def __init__(
        self,
        hz: float | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.overruns = 0
        self.skipped = 0
        self.periods = 0
        self._period = None if hz is None else 1.0 / hz
        self._clock, self._sleep = clock, sleep
        self._start = self._last = 0.0
        self._index = 0

    def wait(self) -> int:
        """Sleep until the next deadline (without a rate: not at all). Returns how many deadlines were skipped."""
        now = self._clock()
        skipped = 0
        if not self.periods:
            self._start = now
        elif self._period is not None:
            planned = self._index + 1
            self._index = planned
            if now > self._start + planned * self._period:
                self._index = math.ceil((now - self._start) / self._period)
                skipped = self._index - planned
                self.overruns += 1
                self.skipped += skipped
            while (ahead := self._start + self._index * self._period - self._clock()) > 0:
                self._sleep(ahead)
            now = self._clock()
        self._last = now
        self.periods += 1
        return skipped

    @property
    def rate(self) -> float | None:
        """Periods per second that were begun, between the first and the last; None before the second."""
        span = self._last - self._start
        return (self.periods - 1) / span if self.periods > 1 and span > 0 else None


class LatencyHistogram:
    """Latencies in logarithmic buckets 1.1 % wide, 0.1 µs to 100 s: a loop that runs for weeks needs no more memory."""

    def __init__(self) -> None:
        self.count = 0
        self.largest = 0.0
        self._buckets = [0] * _BUCKETS

    def add(self, seconds: float) -> None:
        """Count one latency in seconds."""
        bucket = int(math.log2(max(seconds, _SMALLEST_S) / _SMALLEST_S) * _PER_OCTAVE)
        self._buckets[min(bucket, _BUCKETS - 1)] += 1
        self.count += 1
        self.largest = max(self.largest, seconds)

    def quantile(self, share: float) -> float | None:
        """Latency in seconds that `share` of the counted ones do not exceed, rounded up by at most 1.1 %."""
        seen = 0
        for bucket, number in enumerate(self._buckets):
            seen += number
            if number and seen >= share * self.count:
                edge = math.inf if bucket == _BUCKETS - 1 else _SMALLEST_S * 2.0 ** ((bucket + 1) / _PER_OCTAVE)
                return min(edge, self.largest)
        return None

    def to_json(self) -> dict[str, list[float]] | None:
        """`edges_us` [K + 1], ascending, and `counts` [K] of the buckets in use and those between; None without any."""
        used = [bucket for bucket, number in enumerate(self._buckets) if number]
        if not used:
            return None
        first, stop = used[0], used[-1] + 1
        edges = [round(1e6 * _SMALLEST_S * 2.0 ** (bucket / _PER_OCTAVE), 4) for bucket in range(first, stop + 1)]
        return {"edges_us": edges, "counts": list(self._buckets[first:stop])}
