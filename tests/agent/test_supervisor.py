"""The supervisor with real child processes that die, hang, refuse and dawdle."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from agent import supervisor
from agent.board import Slot
from agent.child import Child
from agent.config import TrainConfig
from agent.errors import RunError
from agent.files import read_lines
from agent.run_directory import RunDirectory
from agent.supervisor import RESTARTS_WITHOUT_PROGRESS, Supervisor

ROOT = Path(__file__).parents[2]
BACKOFF = 0.03


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """A run directory, and the supervisor's times shortened."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(supervisor, "FIRST_BACKOFF_SECONDS", BACKOFF)
    monkeypatch.setattr(supervisor, "POLL_SECONDS", 0.005)
    run = RunDirectory(tmp_path / "run")
    run.save_config(TrainConfig())
    return run


def starts_of(run: RunDirectory) -> list[float]:
    return [float(line) for line in (run.path / "starts").read_text().splitlines()]


def supervise(run: RunDirectory, behaviour: str, *, seconds: float = 60.0) -> tuple[bool, Supervisor]:
    """Train with a learner of the given behaviour; asks to stop after `seconds` at the latest."""
    deadline = time.monotonic() + seconds
    supervising = Supervisor(run, TrainConfig(), stopping=lambda: time.monotonic() > deadline)
    supervising.learner = Child(
        name="learner",
        command=["tests.agent.child", str(run.board), str(run.path / "starts"), behaviour],
        log=run.logs / "learner.log",
    )
    return supervising.train(lambda board: None), supervising


def test_a_child_that_always_dies_ends_in_one_error_with_log_count_and_last_words(run: RunDirectory) -> None:
    with pytest.raises(RunError) as raised:
        supervise(run, "dies")
    message = str(raised.value)
    deaths = RESTARTS_WITHOUT_PROGRESS + 1
    assert f"learner died {deaths} times without progress, last with exit code 3 (failure {deaths})" in message
    assert f"see {run.logs / 'learner.log'}" in message
    assert "\n" not in message
    assert len(starts_of(run)) == deaths
    assert (run.logs / "learner.log").read_text().count("about to fail") == deaths
    events = read_lines(run.events)
    assert [event["kind"] for event in events] == ["restart"] * RESTARTS_WITHOUT_PROGRESS
    assert {(event["process"], event["exit_code"]) for event in events} == {("learner", 3)}


def test_last_words_are_those_of_the_last_start(run: RunDirectory) -> None:
    log = run.logs / "learner.log"
    log.write_text("the words of an earlier start\n")
    child = Child(name="learner", command=["tests.agent.child", str(run.board), str(run.path / "starts"), ""], log=log)
    for command, words in ((["json.nothing"], "json.nothing"), (child.command, "no message")):
        child.command = command
        child.start()
        assert child.process is not None
        child.process.wait()
        assert words in child.last_words()


def test_the_wait_before_each_restart_doubles(run: RunDirectory) -> None:
    with pytest.raises(RunError):
        supervise(run, "dies")
    waits = np.diff(starts_of(run))
    least = BACKOFF * 2.0 ** np.arange(RESTARTS_WITHOUT_PROGRESS)
    assert (waits >= least).all(), waits
    assert waits[-1] > waits[0] + 0.5 * least[-1]


def test_a_child_that_gets_on_between_deaths_is_restarted_without_end(run: RunDirectory) -> None:
    finished, supervising = supervise(run, "gets on")
    assert finished
    assert len(starts_of(run)) == 9 > RESTARTS_WITHOUT_PROGRESS + 1
    assert supervising.board[Slot.LEARNER_DEATHS] == 1  # since the last of its checkpoints


def test_updates_that_no_checkpoint_keeps_are_no_progress(run: RunDirectory) -> None:
    with pytest.raises(RunError, match=f"died {RESTARTS_WITHOUT_PROGRESS + 1} times without progress"):
        supervise(run, "updates and loses them")


def test_each_death_before_a_checkpoint_has_the_next_learner_save_twice_as_often(run: RunDirectory) -> None:
    # This one lives for some 20 updates and saves every 100, at first.
    finished, _ = supervise(run, "dies before it saves")
    assert finished
    assert len(starts_of(run)) >= 9 > RESTARTS_WITHOUT_PROGRESS + 1


def test_steps_of_the_warm_up_are_progress_of_a_learner_that_waits_for_them(run: RunDirectory) -> None:
    finished, _ = supervise(run, "dies in the warm-up")
    assert finished
    assert len(starts_of(run)) == 9 > RESTARTS_WITHOUT_PROGRESS + 1


def test_a_child_that_refuses_the_users_input_is_quoted_and_not_restarted(run: RunDirectory) -> None:
    with pytest.raises(RunError, match=r"^store x holds no transition: ingest or collect some first$"):
        supervise(run, "is refused")
    assert len(starts_of(run)) == 1


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ("hangs once", "the learner gave no sign of life, its first, for 8 s; killed"),
        ("beats, then hangs once", "the learner gave no sign of life for 2 s; killed"),
    ],
)
def test_a_child_without_a_sign_of_life_is_killed_after_the_time_that_its_event_says(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, behaviour: str, message: str
) -> None:
    monkeypatch.setattr(supervisor, "HANG_SECONDS", 2.0)
    finished, _ = supervise(run, behaviour)
    assert finished
    assert len(starts_of(run)) == 2
    hung, restart = read_lines(run.events)[:2]
    assert (hung["kind"], restart["kind"]) == ("learner_hung", "restart")
    assert hung["message"] == message
    first, second = starts_of(run)
    assert second - first > float(message.split()[-3]) - 1.0  # its interpreter had started before


def test_a_child_that_never_gives_a_sign_of_life_is_not_restarted_for_ever() -> None:
    patience = supervisor.STARTING_FACTOR * supervisor.HANG_SECONDS
    waits = sum(supervisor.FIRST_BACKOFF_SECONDS * 2**death for death in range(RESTARTS_WITHOUT_PROGRESS))
    assert (RESTARTS_WITHOUT_PROGRESS + 1) * patience + waits < supervisor.RESTART_WINDOW_SECONDS


def test_a_stop_is_obeyed_without_force(run: RunDirectory) -> None:
    finished, supervising = supervise(run, "stops when asked", seconds=1.0)
    assert not finished
    assert supervising.learner.process is not None
    assert supervising.learner.process.returncode == 0
    assert read_lines(run.events) == []
    assert json.loads(run.status.read_text())["stopped"] is True


def test_a_child_that_does_not_stop_is_killed_within_the_promise(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "STOP_SECONDS", 0.3)
    finished, supervising = supervise(run, "never stops", seconds=1.5)
    assert not finished
    assert supervising.learner.process is not None
    assert supervising.learner.process.returncode == -signal.SIGKILL
    assert [event["kind"] for event in read_lines(run.events)] == ["killed"]


def test_no_child_outlives_an_error(run: RunDirectory) -> None:
    def broken(board: object) -> None:
        raise ZeroDivisionError

    supervising = Supervisor(run, TrainConfig(), stopping=lambda: False)
    supervising.learner.command = ["tests.agent.child", str(run.board), str(run.path / "starts"), "stops when asked"]
    with pytest.raises(ZeroDivisionError):
        supervising.train(broken)
    assert supervising.learner.process is not None
    assert supervising.learner.process.poll() is not None


def test_a_child_ends_with_its_parent_even_when_that_is_killed() -> None:
    child = (
        "import os, sys, time; from agent.process import die_with_parent; die_with_parent(os.getppid()); "
        "print(os.getpid(), flush=True); time.sleep(600)"
    )
    parent = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", parent], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert alive(pid)
        process.kill()
    deadline = time.monotonic() + 10
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(pid)


def alive(pid: int) -> bool:
    try:
        # Where nobody reaps an orphan it stays as a zombie, which is dead enough.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
