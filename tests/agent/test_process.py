"""What a process of a run does at its start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent.process import BACKGROUND_NICENESS, StopSignal, handling
from tests.integration.command import ROOT

SHOWN = "from agent.process import stand_back; stand_back(); import os; print(os.nice(0)); "
SHOWN += "print(open('/proc/self/autogroup').read().split()[-1])"


@pytest.mark.parametrize("own_session", [True, False])
def test_standing_back_lowers_the_own_priority_and_no_one_elses(own_session: bool) -> None:
    autogroup = Path("/proc/self/autogroup")
    if not autogroup.exists() or not autogroup.read_text().strip():
        pytest.skip("this kernel has no autogroups, or has them switched off (an empty file)")
    before = os.nice(0), autogroup.read_text().split()[-1]
    shown = subprocess.run(
        [sys.executable, "-c", SHOWN], cwd=ROOT, capture_output=True, text=True, check=True,
        start_new_session=own_session,
    )  # fmt: skip
    process, group = shown.stdout.split()
    assert int(process) == min(19, before[0] + BACKGROUND_NICENESS)
    assert group == (str(BACKGROUND_NICENESS) if own_session else before[1])
    assert (os.nice(0), autogroup.read_text().split()[-1]) == before


def test_a_stop_before_the_run_begins_exits_0_though_nobody_reads_its_words() -> None:
    told = "import os, signal; from agent.process import stop_early; stop_early('said'); os.close(2); "
    told += "os.kill(os.getpid(), signal.SIGTERM)"
    done = subprocess.run([sys.executable, "-c", told], cwd=ROOT, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("before", [[], ["--log-level", "debug"], ["--log-level=debug"]])
def test_a_stop_at_the_command_s_first_line_exits_0_wherever_the_verb_stands(before: list[str]) -> None:
    told = f"import os, signal, sys; sys.argv[1:] = {[*before, 'train']}; from agent import cli; "
    told += "cli.main = lambda: os.kill(os.getpid(), signal.SIGTERM) or 1; cli.entry()"
    done = subprocess.run([sys.executable, "-c", told], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.partition(";")[0]) == (0, "slipway train: stopped")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_after_a_stop_signal_who_had_the_signals_has_them_again(number: signal.Signals) -> None:
    heard: list[int] = []
    before = signal.signal(number, lambda number, _: heard.append(number))
    try:
        with StopSignal() as stopping:
            signal.raise_signal(number)
            assert stopping() and heard == []
        signal.raise_signal(number)
        assert heard == [number]
        with pytest.raises(KeyboardInterrupt), StopSignal():
            signal.raise_signal(number)
            signal.raise_signal(number)  # the second interrupts at once
        signal.raise_signal(number)
        assert heard == [number, number]
    finally:
        signal.signal(number, before)


def test_a_stop_that_comes_too_late_for_the_loop_is_not_lost() -> None:
    # A shell's background jobs, of which CI may be one, begin with SIGINT ignored.
    python_s = handling(signal.SIGINT, signal.default_int_handler)
    with python_s, pytest.raises(KeyboardInterrupt), StopSignal() as stopping:
        assert not stopping()
        signal.raise_signal(signal.SIGINT)  # the loop has done all its work and looks no more


def test_in_a_thread_there_are_no_signals_and_everything_else_works() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def look() -> bool:
        with StopSignal(also=lambda: True) as stopping:
            return stopping() and signal.getsignal(signal.SIGTERM) is before

    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(look).result()
