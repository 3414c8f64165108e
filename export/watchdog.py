"""A second process that stops the robot when the control loop no longer writes. Standard library only.

    with Watchdog("my_robot:watchdog_stop", timeout_s=0.2) as watchdog:
        ControlLoop(robot, runner, hz=50.0, watchdog=watchdog).run()

The loop feeds it after each successful write, by one store into shared memory. Armed by the first feed, it calls the
stop function once no feed has come for `timeout_s` (SIGSTOP, a hung `read`, swapping, Ctrl-Z), or as soon as the loop's
process is gone (kill -9, the memory killer). It is disarmed only after the robot's own `safe_stop` has returned.

Invariant: the alarm is noted in the shared memory before the robot is stopped, and the loop looks there before each
write, so a loop that wakes up again latches instead of driving on. A write that was under way while it slept feeds the
watchdog once more: each feed after an alarm is answered by another stop.

The target is `module:function` with `function() -> None`, which must be able to stop the hardware while the loop's
process holds it; or, with `factory=True`, `module:factory`: the robot is built in the watchdog as well, at its start,
and its `safe_stop` is called.
"""

from __future__ import annotations

import contextlib
import importlib
import mmap
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from export.errors import ExportError

START_SECONDS = 60.0
LONGEST_SECONDS = 3600.0
# Words of the shared memory. Each is written by one store of eight bytes: a process may die at any instant, and a
# struct's pack_into clears what it writes into first, which would read as disarmed.
_FED, _ALARM, _WORDS = 0, 1, 2
_SIZE = 8 * _WORDS
_AGAIN_SECONDS = 0.02  # how often a watchdog that has raised the alarm looks for late writes


class Watchdog:
    """The loop's side: starts the process, feeds it, and learns of an alarm."""

    def __init__(self, target: str, *, timeout_s: float, factory: bool = False) -> None:
        """Start the process and wait until it could import its target.

        Raises ExportError where the target cannot be imported or built, or the timeout is not above 0 and at most an
        hour.
        """
        if not 0 < timeout_s <= LONGEST_SECONDS:
            raise ExportError(
                f"watchdog timeout is {timeout_s} s: give a positive number of seconds, at most {LONGEST_SECONDS:g}"
            )
        self.timeout_s = timeout_s
        self.feeds = 0
        descriptor = os.memfd_create("slipway-watchdog")
        os.ftruncate(descriptor, _SIZE)
        self._words = _map(descriptor)
        # Nobody ever writes into this pipe: its end tells the watchdog that the loop's process is gone.
        gone, self._alive = os.pipe()
        arguments = [target, "factory" if factory else "function", repr(timeout_s), str(descriptor), str(gone)]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "export.watchdog", *arguments],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, pass_fds=(descriptor, gone),
                start_new_session=True,  # Ctrl-C and Ctrl-Z are for the loop
            )  # fmt: skip
        finally:
            os.close(descriptor)
            os.close(gone)
        said = self._first_line()
        if said != "ready":
            self.close()
            raise ExportError(f"the watchdog did not start: {said or 'it ended without a word'}")

    def feed(self) -> None:
        """A write has succeeded: not before `timeout_s` from now is the alarm due."""
        self._words[_FED] = time.monotonic_ns()
        self.feeds += 1

    def disarm(self) -> None:
        """The robot has been stopped by the loop: no feed is expected until the next one."""
        self._words[_FED] = 0

    def reset(self) -> None:
        """Forget an alarm, after a person or program has made sure that the robot may move again."""
        self.disarm()
        self._words[_ALARM] = 0

    def trouble(self) -> str | None:
        """Why the loop must not write: the alarm was raised, or nobody watches any more. None: all is well."""
        if self.alarmed:
            return f"the watchdog stopped the robot: no write for {self.timeout_s:g} s"
        if self._process.poll() is not None:
            return f"the watchdog process ended with code {self._process.returncode}: nobody watches the loop"
        return None

    @property
    def alarmed(self) -> bool:
        """Whether the watchdog has stopped the robot."""
        return bool(self._words[_ALARM])

    def report(self) -> dict[str, Any]:
        """JSON-able: timeout, whether the alarm was raised, how many writes were reported."""
        return {"timeout_s": self.timeout_s, "alarmed": self.alarmed, "feeds": self.feeds}

    def close(self) -> None:
        """End the process. Armed still, because `safe_stop` raised for instance, it stops the robot first."""
        if self._alive < 0:
            return
        os.close(self._alive)
        self._alive = -1
        try:
            self._process.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            # Whoever is stopping the robot is left to it.
            if not self._words[_FED]:
                self._process.kill()
                self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _first_line(self) -> str:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], START_SECONDS)[0]:
            return f"its target was not ready within {START_SECONDS:g} s"
        return self._process.stdout.readline().decode(errors="replace").strip()


def load_attribute(path: str) -> Any:
    """What `module:name` means. Raises ExportError, in one line, for what cannot be imported."""
    module_name, colon, name = path.partition(":")
    if not colon or not module_name or not name:
        raise ExportError(f"{path!r} must be module:name, e.g. examples.my_robot:make_robot")
    try:
        return getattr(importlib.import_module(module_name), name)
    except ModuleNotFoundError as error:
        raise ExportError(f"{path}: no module named {error.name}; run where it can be imported") from error
    except AttributeError as error:
        raise ExportError(f"{path}: module {module_name} has no {name}") from error


def watch(words: memoryview[int], gone: int, timeout_s: float, stop: Callable[[], None]) -> None:
    """Call `stop` when an armed loop does not feed for `timeout_s`; return when its process is gone."""
    timeout_ns = int(timeout_s * 1e9)
    poller = select.poll()
    poller.register(gone, select.POLLIN | select.POLLHUP)
    answered = 0
    ended = False
    while not ended:
        alarmed, fed = words[_ALARM], words[_FED]
        left_ns = fed + timeout_ns - time.monotonic_ns() if fed else timeout_ns
        wait_s = min(_AGAIN_SECONDS, timeout_s) if alarmed else max(left_ns, 0) / 1e9
        ended = bool(poller.poll(wait_s * 1e3))
        fed = words[_FED]
        due = fed != answered if alarmed else ended or time.monotonic_ns() - fed >= timeout_ns
        if fed and due:
            words[_ALARM] = 1
            _stop(stop)
            answered = fed


def _stop(stop: Callable[[], None]) -> None:
    """Try three times: there is nobody else left to stop the robot."""
    for attempt in range(3):
        try:
            stop()
            return
        except Exception as error:  # noqa: BLE001 - the user's code; whatever it raises, the next attempt is due
            sys.stderr.write(f"slipway watchdog: attempt {attempt + 1} to stop the robot failed: {error}\n")
            time.sleep(_AGAIN_SECONDS)


def main(target: str, kind: str, timeout: str, memory: str, gone: str) -> int:
    """Entry point of the process."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # The first line is for the parent; what the user's code prints goes where a person reads it.
    parent, sys.stdout = sys.stdout, sys.stderr
    try:
        stop = load_attribute(target)
        if kind == "factory":
            stop = stop().safe_stop
    except Exception as error:  # noqa: BLE001 - the user's code; the parent refuses to start and says why
        parent.write(" ".join(f"{target} ({kind}): {error}".split()) + "\n")
        return 2
    parent.write("ready\n")
    parent.flush()
    rise_above_the_loop()
    watch(_map(int(memory)), int(gone), float(timeout), stop)
    return 0


def rise_above_the_loop() -> None:
    """Run on every core that the system allows, and where the loop has a real-time priority above it.

    Both are inherited. A loop that spins at a real-time priority on one core would never let an equal run there.
    """
    take_every_core()
    if (scheduler := os.sched_getscheduler(0)) in (os.SCHED_FIFO, os.SCHED_RR):
        above = min(os.sched_getparam(0).sched_priority + 1, os.sched_get_priority_max(scheduler))
        with contextlib.suppress(OSError):  # without the right to it another core must do
            os.sched_setparam(0, os.sched_param(above))


def take_every_core() -> None:
    """Let the calling thread run on every core that the system allows."""
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, range(os.cpu_count() or 1))


def _map(descriptor: int) -> memoryview[int]:
    return memoryview(mmap.mmap(descriptor, _SIZE)).cast("q")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
