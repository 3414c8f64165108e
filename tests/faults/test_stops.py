"""A stop at any moment: the first instants of the command, and each phase of a run."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent import checkpoint
from tests.faults.agent import Agent, events
from tests.faults.conftest import SMALL
from tests.integration.command import refusal
from tests.small_disk import mounted

ROOT_MAY_WRITE = "a file system that root cannot write to needs a mount"


def catches_sigterm(pid: int) -> bool:
    """Whether a process has installed a handler for SIGTERM."""
    caught = Path(f"/proc/{pid}/status").read_text().split("SigCgt:")[1].split()[0]
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.parametrize("later", [0.0, 0.3, 0.8])
def test_sigterm_in_the_first_second_exits_0(place: Path, tmp_path: Path, later: float) -> None:
    """From the moment at which Python runs the first line of the command; nothing earlier can be caught."""
    run = tmp_path / "run"
    with Agent("train", "--replay", "data.zarr", "--out", run, *SMALL, cwd=place, run=run) as agent:
        agent.wait_for("a handler", lambda: catches_sigterm(agent.process.pid))
        time.sleep(later)
        code, seconds = agent.stop()
        said = agent.process.communicate()[1]
    assert code == 0, said
    assert seconds < 10.0
    assert "Traceback" not in said
    assert "the same command" in said and "evaluation:" not in said


def test_a_stop_before_the_run_begins_is_not_lost_in_a_weak_reference_s_callback() -> None:
    """Where Python only prints what a signal's handler raises, and goes on: every import has such moments."""
    told = """
import os, signal, weakref
from agent.process import stop_early
stop_early("stopped before it began\\n")
class Module: pass
module = Module()
watched = weakref.ref(module, lambda _: os.kill(os.getpid(), signal.SIGTERM))
del module
print("went on")
"""
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "stopped before it began\n")


@pytest.mark.full
@pytest.mark.parametrize("phase", ["starting", "pretrain", "warmup", "online", "done"])
def test_sigterm_in_each_phase_exits_0_with_everything_saved(place: Path, tmp_path: Path, phase: str) -> None:
    run = tmp_path / "run"
    # A compilation, which comes before the first update, cannot be interrupted: there would be nothing to save.
    long = ("--pretrain-steps", 30_000, "--executor", "eager") if phase == "pretrain" else ()
    many = ("--evaluation.final-episodes", 500) if phase == "done" else ()
    steps = ("--online.warmup-steps", 100_000, "--online-steps", 200_000) if phase == "warmup" else (
        "--online-steps", 300 if phase == "done" else 100_000
    )  # fmt: skip
    command = ("train", "--replay", "data.zarr", "--out", run, *SMALL, *long, *many, *steps, "--json")
    with Agent(*command, cwd=place, run=run) as agent:
        agent.wait_for(f"the phase {phase}", lambda: agent.status().get("phase") == phase)
        code, seconds = agent.stop()
        said = json.loads(agent.process.communicate()[0])
    assert (code, said["finished"]) == (0, False)
    assert seconds < 10.0
    assert not [event for event in events(run) if event["kind"] == "killed"]
    if phase != "starting":
        assert checkpoint.load_latest(run / "checkpoints", on_fallback=pytest.fail) is not None


def test_a_read_only_disk_is_one_clear_refusal(
    place: Path, tmp_path: Path, copy_of_pretrained: Callable[[str], Path]
) -> None:
    (tmp_path / "disk").mkdir()
    with mounted(tmp_path / "disk", "64m", instead=f"; {ROOT_MAY_WRITE}") as disk:
        shutil.copytree(copy_of_pretrained("read_only"), disk / "tuned")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        new = refusal("train", "--replay", "data.zarr", "--out", disk / "run", *SMALL, cwd=place)
        old = refusal("finetune", disk / "tuned", "--online-steps", 500, cwd=place)
    for line, name in ((new, "run"), (old, "tuned")):
        assert f"{disk / name} cannot be written (read-only file system)" in line
        assert "another --out" in line
