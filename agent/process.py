"""What every process of a run does at its start: one thread, a name for its incidents, and dying with its parent."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Self

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
STOPS = (signal.SIGTERM, signal.SIGINT)
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
    """Wherever no StopSignal has them, SIGTERM and SIGINT print `words` and end this process with exit code 0.

    At once, as kill -9 would, which nothing here is hurt by: an exception raised by a handler is printed and forgotten
    wherever Python was in a weak reference's callback, and every import is full of those.
    """

    def leave(number: int, _frame: object) -> None:
        with contextlib.suppress(OSError):  # nobody reads stderr any more
            os.write(2, words.encode())
        os._exit(0)

    for number in STOPS:
        signal.signal(number, leave)


@contextlib.contextmanager
def handling(number: signal.Signals, handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Let `handler` have a signal inside, and who had it before again afterwards; nothing outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, signal.SIG_DFL if before is None else before)


class StopSignal:
    """Turns SIGTERM and SIGINT into a flag that loops look at; a second signal interrupts at once.

    with StopSignal() as stopping:      # in a thread, where no signal arrives, the flag is `also` alone
        while work and not stopping(): ...

    Afterwards who had the signals before has them again, and gets one that came too late for the loop to look.
    """

    def __init__(self, also: Callable[[], bool] = lambda: False, on_signal: Callable[[], None] | None = None) -> None:
        """`also` sets the flag too; `on_signal` is called at the signal, for a loop that looks at a flag of its own."""
        self._received: signal.Signals | None = None
        self._heeded = False
        self._also, self._on_signal = also, on_signal
        self._handlers = contextlib.ExitStack()

    def __enter__(self) -> Self:
        for number in STOPS:
            self._handlers.enter_context(handling(number, self._receive))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        self._handlers.close()
        if self._received is not None and not self._heeded and kind is None:
            signal.raise_signal(self._received)

    def for_good(self) -> Self:
        """Have the signals until the process ends."""
        return self.__enter__()

    def _receive(self, number: int, _frame: object) -> None:
        if self._received is not None:
            raise KeyboardInterrupt
        self._received = signal.Signals(number)
        if self._on_signal is not None:
            self._heeded = True
            self._on_signal()

    def __call__(self) -> bool:
        self._heeded = self._heeded or self._received is not None
        return self._heeded or self._also()
