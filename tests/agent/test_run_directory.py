"""A run directory belongs to one agent and one configuration at a time; its records survive a crash in mid-line."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent import run_directory
from agent.algorithms.iql_config import IQLConfig
from agent.config import TrainConfig
from agent.errors import RunError
from agent.run_directory import RunDirectory

ROOT = Path(__file__).parents[2]
CONFIG = TrainConfig(replay=Path("/data/x.zarr"), seed=3)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    run = RunDirectory(tmp_path / "run")
    run.save_config(CONFIG)
    return run


@contextmanager
def another_agent(run: RunDirectory) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the run until it is killed."""
    program = (
        "import sys, time; from pathlib import Path; from agent.run_directory import RunDirectory\n"
        "with RunDirectory(Path(sys.argv[1])).exclusive(): print('held', flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(run.path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_second_agent_is_refused_and_told_the_pid_of_the_first(run: RunDirectory) -> None:
    with another_agent(run) as process:
        for _ in range(2):  # asking does not wipe out the answer
            with (
                pytest.raises(RunError, match=rf"in use by the agent with pid {process.pid}: stop that one") as raised,
                run.exclusive(),
            ):
                pytest.fail("two agents hold one run")
            assert "\n" not in str(raised.value)


def test_a_killed_agent_releases_its_run(run: RunDirectory) -> None:
    with another_agent(run) as process:
        process.kill()
        process.wait()
        with run.exclusive():
            assert run.lock.read_text() != str(process.pid)


def test_a_run_whose_agent_was_killed_is_held_until_its_last_child_has_left(run: RunDirectory) -> None:
    child = "import sys, time; sys.stdin.read(); open(sys.argv[1], 'w').write('saved')"
    program = (
        "import subprocess, sys, time; from pathlib import Path; from agent.run_directory import RunDirectory\n"
        "with RunDirectory(Path(sys.argv[1])).exclusive() as lock:\n"
        f"    subprocess.Popen([sys.executable, '-c', {child!r}, sys.argv[2]], pass_fds=[lock])\n"
        "    print('held', flush=True); time.sleep(600)"
    )
    trace = run.path / "trace"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(run.path), str(trace)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        process.kill()
        process.wait()
        # The orphan goes on until its input ends; nobody else may have the run before that.
        threading.Timer(0.5, process.stdin.close).start()
        with run.exclusive():
            assert trace.read_text() == "saved"


def test_an_orphan_that_never_leaves_is_reported_not_waited_for_without_end(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_directory, "ORPHAN_SECONDS", 0.2)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with another_agent(run):
        run.lock.write_text(str(gone.pid))
        with pytest.raises(RunError, match=f"in use by the agent with pid {gone.pid}"), run.exclusive():
            pytest.fail("two agents hold one run")


def test_a_run_that_another_agent_is_setting_up_is_neither_set_up_nor_released(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "runs" / "new")
    with another_agent(run) as process:
        run.check_belongs_to(CONFIG)
        with pytest.raises(RunError, match=f"in use by the agent with pid {process.pid}"), run.exclusive():
            pytest.fail("two agents set up one run")
        assert run.lock.exists()


def test_a_set_up_that_is_refused_leaves_nothing(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "runs" / "new")
    with pytest.raises(ZeroDivisionError), run.exclusive():
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    run.path.mkdir(parents=True)
    run.lock.touch()  # of an agent that was killed while it set up
    run.check_belongs_to(CONFIG)
    with pytest.raises(ZeroDivisionError), run.exclusive():
        raise ZeroDivisionError
    assert list(run.path.iterdir()) == []


def test_the_run_is_free_again_afterwards(run: RunDirectory) -> None:
    with run.exclusive():
        pass
    with pytest.raises(ZeroDivisionError), run.exclusive():
        raise ZeroDivisionError
    with run.exclusive():
        pass


def test_the_same_configuration_may_continue(run: RunDirectory) -> None:
    run.check_belongs_to(CONFIG)
    assert run.load_config() == CONFIG


def test_another_configuration_is_refused_by_field(run: RunDirectory) -> None:
    wanted = dataclasses.replace(CONFIG, seed=4, algorithm=IQLConfig(beta=0.5))
    with pytest.raises(
        RunError, match=r"another configuration \(seed: 3 → 4; algorithm\.beta: 3\.0 → 0\.5\)"
    ) as raised:
        run.check_belongs_to(wanted)
    assert "choose another --out" in str(raised.value)
    assert run.load_config() == CONFIG


def test_a_longer_run_may_continue(run: RunDirectory) -> None:
    run.check_belongs_to(dataclasses.replace(CONFIG, online_steps=50_000))


def test_an_empty_or_absent_folder_is_free(tmp_path: Path) -> None:
    RunDirectory(tmp_path).check_belongs_to(CONFIG)
    RunDirectory(tmp_path / "absent").check_belongs_to(CONFIG)
    assert list(tmp_path.iterdir()) == []


def test_somebody_elses_folder_or_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("\\begin{document}")
    for path in (tmp_path, tmp_path / "thesis.tex"):
        with pytest.raises(RunError, match=r"exists and is not a run directory: choose another --out"):
            RunDirectory(path).check_belongs_to(CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_that_is_no_run_cannot_be_read_as_one(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run directory"):
        RunDirectory(tmp_path).load_config()


def test_records_of_several_processes_stay_whole_and_a_torn_last_line_is_left_out(run: RunDirectory) -> None:
    run.metric("train", updates=1)
    program = (
        "import sys; from pathlib import Path; from agent.run_directory import RunDirectory\n"
        "run = RunDirectory(Path(sys.argv[1]))\n"
        "for i in range(300): run.metric('evaluation', label=sys.argv[2], number=i, padding='x' * 1000)"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", program, str(run.path), label], cwd=ROOT) for label in ("a", "b")
    ]
    assert [writer.wait() for writer in writers] == [0, 0]
    with run.metrics.open("a") as file:
        file.write('{"time": 1.0, "kind": "evalua')
    evaluations = run.evaluations()
    for label in ("a", "b"):
        assert [e["number"] for e in evaluations if e["label"] == label] == list(range(300))
    assert len(evaluations) == 600


def test_a_record_after_a_torn_line_is_not_lost(run: RunDirectory) -> None:
    run.metric("evaluation", label="before")
    with run.metrics.open("a") as file:
        file.write('{"time": 1.0, "kind": "evalua')
    run.metric("evaluation", label="after")
    assert [record["label"] for record in run.evaluations()] == ["before", "after"]
