"""What every process of a run does at its start: one thread, a name for its incidents, and dying with its parent."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
PR_SET_PDEATHSIG = 1
BACKGROUND_NICENESS = 6
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 32 << 20  # the largest that glibc takes for M_MMAP_THRESHOLD


def die_with_parent(parent: int, how: signal.Signals = signal.SIGTERM) -> None:
    """Receive the signal `how` when process `parent` ends for whatever reason, kill -9 included (Linux)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, how) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        # The parent died before the request was in place.
        os.kill(os.getpid(), how)


def stand_back() -> None:
    """Leave the cores to the run's other processes where there are not enough: about a quarter of their share stays.

    The kernel may schedule a whole session as a group (Linux, `sched_autogroup`): then the group's niceness counts, and
    is set where this process leads its session, as every process of a run does.
    """
    os.nice(BACKGROUND_NICENESS)
    if os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(BACKGROUND_NICENESS))


def keep_freed_memory() -> None:
    """Let glibc keep freed blocks instead of returning each to the kernel: every update frees and takes the same ones.

    Without it an update pays hundreds of page faults; other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def return_freed_memory() -> None:
    """Give freed blocks back to the kernel now (glibc; other C libraries are left as they are)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def run_child(parent: str, body: Callable[[], None]) -> int:
    """Run `body` in a child process of the agent with pid `parent`; returns the exit code.

    0 when `body` returns, 2 with one line on stderr when it finds the user's input at fault; a crash is a traceback.
    """
    # Only here: the thread variables of this module must be set before anything heavier is imported.
    from agent.errors import SLIPWAY_ERRORS

    die_with_parent(int(parent))
    try:
        body()
    except SLIPWAY_ERRORS as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def stop_early(words: str) -> None:
    """From here until a StopSignal takes over, SIGTERM and SIGINT print `words` and end this process with exit code 0.

    At once, as kill -9 would, which nothing here is hurt by: an exception raised by a handler is printed and forgotten
    wherever Python was in a weak reference's callback, and every import is full of those.
    """

    def leave(number: int, _frame: object) -> None:
        with contextlib.suppress(OSError):  # nobody reads stderr any more
            os.write(2, words.encode())
        os._exit(0)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)


def end_at_once() -> None:
    """Where a StopSignal has done its work: SIGTERM and Ctrl-C do again what they do to any program."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


class StopSignal:
    """Turns SIGTERM and SIGINT into a flag that loops look at; a second signal interrupts at once."""

    def __init__(self, also: Callable[[], bool] = lambda: False, on_signal: Callable[[], None] = lambda: None) -> None:
        self._received = False
        self._also = also
        self._on_signal = on_signal
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)

    def _receive(self, number: int, _frame: object) -> None:
        if self._received:
            raise KeyboardInterrupt
        self._received = True
        self._on_signal()

    def __call__(self) -> bool:
        return self._received or self._also()
