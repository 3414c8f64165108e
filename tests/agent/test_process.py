"""What a process of a run does at its start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agent.process import BACKGROUND_NICENESS
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_once_a_stop_signal_has_done_its_work_signals_end_the_process_again(number: signal.Signals) -> None:
    told = "import os; from agent.process import StopSignal, end_at_once; stopping = StopSignal(); "
    told += f"os.kill(os.getpid(), {number:d}); print(stopping(), flush=True); end_at_once(); "
    told += f"os.kill(os.getpid(), {number:d}); print('went on')"
    done = subprocess.run([sys.executable, "-c", told], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("True\n", -number)
