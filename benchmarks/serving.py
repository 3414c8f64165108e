"""The peer's side of the line protocol (`measure.Process`): runs in any environment, needs the standard library alone.

A peer script ends with `serve(call, ...)`. It writes one JSON line when it is ready, and for each line `N` on its
standard input runs `call()` N times and writes the seconds they took. With a dict of calls, `N NAME` chooses one.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable
from typing import Any


def serve(call: Callable[[], object] | dict[str, Callable[[], object]], **about: Any) -> None:
    """Answer requests until standard input ends; `about` (JSON-able) goes to the parent with "ready"."""
    calls = call if isinstance(call, dict) else {"": call}
    answers = sys.stdout
    sys.stdout = sys.stderr  # a library that prints must not break the protocol
    print(json.dumps({"ready": True, **about}), file=answers, flush=True)
    for line in sys.stdin:
        count, _, name = line.strip().partition(" ")
        print(repr(time_calls(calls[name], int(count))), file=answers, flush=True)


def time_calls(call: Callable[[], object], count: int) -> float:
    """Seconds that `count` calls take, without pauses of the garbage collector."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        began = time.perf_counter()
        for _ in range(count):
            call()
        return time.perf_counter() - began
    finally:
        if enabled:
            gc.enable()
