"""A collector and its environment on one core: followed, chosen anew, and never where it would cost parallel work."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent import shared_core
from agent.shared_core import SharedCore

SINGLE = "import sys; sys.stdin.read()"
SEVERAL = "import sys, threading, time; sys.stdin.readline(); threading.Thread(target=time.sleep, args=(60,)).start()"

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")


@pytest.fixture
def partner() -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []

    def start(body: str) -> subprocess.Popen[bytes]:
        started.append(process := subprocess.Popen([sys.executable, "-c", body], stdin=subprocess.PIPE))
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(autouse=True)
def a_thread_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_core, "CHOICE_SECONDS", 0.05)


def affinities(core: SharedCore, pid: int, *, seconds: float) -> list[tuple[frozenset[int], frozenset[int]]]:
    """(of this thread, of the other process) after each of many steps, in a thread that ends with its affinity."""
    seen: list[tuple[frozenset[int], frozenset[int]]] = []

    def step() -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            core.keep()
            seen.append((frozenset(os.sched_getaffinity(0)), frozenset(os.sched_getaffinity(pid))))
            time.sleep(0.001)

    thread = threading.Thread(target=step)
    thread.start()
    thread.join()
    return seen


def test_both_keep_to_one_core_which_the_kernel_chooses_anew_now_and_then(
    partner: Callable[[str], subprocess.Popen[bytes]],
) -> None:
    everywhere = frozenset(os.sched_getaffinity(0))
    pid = partner(SINGLE).pid
    seen = affinities(SharedCore(lambda: pid), pid, seconds=0.6)
    together = [mine for mine, theirs in seen if len(mine) == 1 and mine == theirs]
    assert len(together) > 0.7 * len(seen)
    chosen_anew = [mine for mine, _ in seen if mine == everywhere]
    assert 2 <= len(chosen_anew) < 0.2 * len(seen)
    assert frozenset(os.sched_getaffinity(0)) == everywhere, "another thread of the process was pinned"


def test_a_partner_that_is_replaced_is_followed(partner: Callable[[str], subprocess.Popen[bytes]]) -> None:
    pids = [partner(SINGLE).pid, partner(SINGLE).pid]
    core = SharedCore(lambda: pids[0])
    affinities(core, pids[0], seconds=0.2)
    os.kill(gone := pids.pop(0), 9)
    os.waitid(os.P_PID, gone, os.WEXITED | os.WNOWAIT)
    mine, theirs = affinities(core, pids[0], seconds=0.3)[-1]
    assert len(theirs) == 1
    assert mine == theirs or len(mine) > 1


def test_a_process_of_several_threads_is_left_alone(partner: Callable[[str], subprocess.Popen[bytes]]) -> None:
    everywhere = frozenset(os.sched_getaffinity(0))
    process = partner(SEVERAL)
    core = SharedCore(lambda: process.pid)
    assert len(affinities(core, process.pid, seconds=0.2)[-1][1]) == 1
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.flush()
    while len(threads := [int(path.name) for path in Path(f"/proc/{process.pid}/task").iterdir()]) < 2:
        time.sleep(0.01)
    # Which it became only later: all of its threads may go where they like again.
    affinities(core, process.pid, seconds=0.2)
    assert [frozenset(os.sched_getaffinity(thread)) for thread in threads] == [everywhere] * 2
