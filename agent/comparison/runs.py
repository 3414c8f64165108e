"""Trains the runs of a plan in parallel processes, resumes those that were stopped, and remembers those that failed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.comparison.plan import Run
from agent.comparison.worker import STOPPED
from agent.config_files import to_toml
from agent.files import Follower, append_line, last_line, read_lines, write_atomic
from agent.run_directory import RunDirectory, evaluation_name, last_evaluation
from agent.training import is_complete

POLL_SECONDS = 0.2
STOP_SECONDS = 20.0
LOGS = "logs"


@dataclass(kw_only=True)
class Job:
    """One training that is under way."""

    run: Run
    process: subprocess.Popen[bytes]
    log: Path
    log_start: int
    """Where its own lines begin in the log, which has those of earlier starts."""
    events: Follower
    """Of the run, from this start on."""
    started: float


class Runner:
    """Works through a plan with at most `cores` trainings at a time.

    `out` keeps `seconds.jsonl` (how long each training took, over all its starts) and a log for each run.
    """

    def __init__(self, plan: Sequence[Run], *, out: Path, cores: int) -> None:
        self.out, self.cores = out, cores
        self.waiting = [run for run in plan if not done(run)]
        self.jobs: list[Job] = []
        self.failures: dict[Path, str] = {}
        """Last words of the trainings that ended with an error or without a score, by run directory."""
        out.mkdir(parents=True, exist_ok=True)

    def work(self, on_tick: Callable[[Runner], None], stopping: Callable[[], bool]) -> bool:
        """Train until all runs have ended (True), or save and leave when asked to stop (False)."""
        try:
            while self.waiting or self.jobs:
                if stopping():
                    return False
                while self.waiting and len(self.jobs) < self.cores:
                    self.jobs.append(self._start(self.waiting.pop(0)))
                self._reap()
                on_tick(self)
                time.sleep(POLL_SECONDS)
            return True
        finally:
            self._stop()

    def _start(self, run: Run) -> Job:
        folder = self.out / LOGS
        folder.mkdir(exist_ok=True)
        stem = f"{run.task}-{run.variant}-{run.seed}"
        config = folder / f"{stem}.toml"
        write_atomic(config, to_toml(run.config).encode())
        log = folder / f"{stem}.log"
        events = Follower(RunDirectory(run.config.out).events, from_end=True)
        with log.open("ab") as file:
            log_start = file.tell()
            process = subprocess.Popen(
                [sys.executable, "-m", "agent.comparison.worker", str(config), str(os.getpid())],
                stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
            )  # fmt: skip
        return Job(run=run, process=process, log=log, log_start=log_start, events=events, started=time.monotonic())

    def _reap(self) -> None:
        for job in list(self.jobs):
            code = job.process.poll()
            if code is None:
                continue
            self.jobs.remove(job)
            self._note(job)
            config = job.run.config
            # Nobody here has asked it to stop: without a score it has failed, however it ended.
            if code not in (0, STOPPED) or RunDirectory(config.out).final_evaluation(config) is None:
                self.failures[config.out] = last_words(job, code)

    def _note(self, job: Job) -> None:
        seconds = time.monotonic() - job.started
        append_line(self.out / "seconds.jsonl", {"run": self._name(job.run), "seconds": round(seconds, 1)})

    def _stop(self) -> None:
        for job in self.jobs:
            job.process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for job in self.jobs:
            try:
                job.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                job.process.kill()
                job.process.wait()
            self._note(job)
        self.jobs.clear()

    def _name(self, run: Run) -> str:
        return f"{run.task}/{run.variant}/{run.seed}"

    def seconds(self, run: Run) -> float:
        """Wall time of a run over all its starts, evaluation included."""
        noted = read_lines(self.out / "seconds.jsonl")
        return float(sum(line["seconds"] for line in noted if line["run"] == self._name(run)))


def last_words(job: Job, code: int) -> str:
    """Why `job` has failed, which ended with exit code `code`: what it, or its final evaluation, said in this start."""
    if code == STOPPED:
        return "stopped from outside; the same command goes on with it"
    if code == 0:
        name = evaluation_name(*last_evaluation(job.run.config))
        said = [event["message"] for event in job.events.new() if event.get("process") == name]
        return str(said[0]) if said else "ended without its final evaluation"
    return last_line(job.log, job.log_start) or f"ended with exit code {code} and said nothing"


def has_runs(out: Path) -> bool:
    """Whether a comparison has trained in folder `out`: it keeps the configuration of each run beside its log."""
    return any((out / LOGS).glob("*.toml"))


def done(run: Run) -> bool:
    """Whether it has come to its end."""
    directory = RunDirectory(run.config.out)
    if not directory.preparation.exists():
        return False
    directory.check_belongs_to(run.config)
    return is_complete(directory, run.config)


def progress_of(run: Run) -> tuple[int, int]:
    """(offline updates, online steps) done, as its status says."""
    try:
        status: dict[str, Any] = json.loads(RunDirectory(run.config.out).status.read_text())
    except (OSError, ValueError):
        return 0, 0
    return int(status["pretrain_step"]), int(status["online_steps"])
