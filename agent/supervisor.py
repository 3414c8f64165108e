"""The supervisor: starts learner, collectors and evaluations, watches their signs of life, restarts within a budget.

It holds no torch and no training state, so it can die at any instant: children end with it, and the same command
starts them again from the last checkpoint and the streams' last commits.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from agent.board import Board, CollectorSlot, Phase, Slot
from agent.config import TrainConfig
from agent.errors import RunError
from agent.files import write_atomic
from agent.publish import published_versions
from agent.run_directory import RunDirectory, evaluation_name

RESTARTS_WITHOUT_PROGRESS = 5
RESTART_WINDOW_SECONDS = 600.0
FIRST_BACKOFF_SECONDS = 0.25
HANG_SECONDS = 30.0
EVALUATION_HANG_SECONDS = 300.0
STOP_SECONDS = 9.0
POLL_SECONDS = 0.05
# glibc returns every buffer above 128 KiB to the system and faults it in again at the next update; keeping them makes
# an update at 2×256 a fifth faster (9.5 against 11.7 ms; medians of three interleaved pairs).
MALLOC_ENVIRONMENT = {"MALLOC_TRIM_THRESHOLD_": str(512 << 20), "MALLOC_MMAP_THRESHOLD_": str(32 << 20)}
STATUS_SECONDS = 1.0


@dataclass(kw_only=True)
class Child:
    """One supervised process and its restart budget."""

    name: str
    command: list[str]
    log: Path
    lock: int | None = None
    """File descriptor of the run's lock, inherited: the run stays held until its last process has left."""
    process: subprocess.Popen[bytes] | None = None
    restarts: list[float] = field(default_factory=list)
    progress_at_restart: int = -1
    not_before: float = 0.0
    started: float = 0.0

    def start(self) -> None:
        """Run it in a session of its own, so that Ctrl-C reaches the supervisor alone."""
        self.started = time.monotonic()
        with self.log.open("ab") as log:
            self.log.touch()
            self.process = subprocess.Popen(
                [sys.executable, "-m", *self.command, str(os.getpid())],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, **MALLOC_ENVIRONMENT}, pass_fds=() if self.lock is None else (self.lock,),
            )  # fmt: skip

    def last_words(self) -> str:
        """The last line that it wrote, for the user."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "no message"


class Supervisor:
    """Runs one training to its end, or to a requested stop.

    Ordering: the learner publishes a first version before the phase turns to warm-up; collectors start at warm-up;
    STOP is set before any child is waited for; the final evaluation starts after the learner's last publication.
    """

    def __init__(
        self, run: RunDirectory, config: TrainConfig, *, stopping: Callable[[], bool], lock: int | None = None
    ) -> None:
        self.run, self.config, self.stopping, self.lock = run, config, stopping, lock
        self.board = Board(run.board)
        self.learner = self._child("learner", ["agent.learner", str(run.path)])
        self.collectors: list[Child] = []
        self.evaluations: list[Child] = []
        self._evaluated = {(r["label"], r["online_steps"]) for r in run.evaluations()}
        self._status_at = 0.0

    def _child(self, name: str, command: list[str]) -> Child:
        return Child(name=name, command=command, log=self.run.logs / f"{name}.log", lock=self.lock)

    def train(self, on_tick: Callable[[Board], None]) -> bool:
        """Supervise until done (True) or stopped (False). RunError when a child cannot be kept alive."""
        board = self.board
        board[Slot.STOP] = 0
        board[Slot.PHASE] = Phase.STARTING
        board[Slot.LEARNER_BEAT] = time.monotonic_ns()
        try:
            self.learner.start()
            while not self.stopping():
                done = self.watch_learner()
                if board.phase in (Phase.WARMUP, Phase.ONLINE):
                    self.keep_collectors()
                self.keep_evaluations(final=done)
                self.write_status()
                on_tick(board)
                if done and not self.evaluations:
                    return True
                time.sleep(POLL_SECONDS)
            return False
        finally:
            self.stop()

    # --- watching -------------------------------------------------------------------------------------------------

    def watch_learner(self) -> bool:
        """True once the learner has finished; restarts it when it crashed or hangs."""
        process = self.learner.process
        if process is None:
            return self._restart_when_due(self.learner)
        code = process.poll()
        if code is None:
            # Importing torch and exporting the template take seconds in which the learner cannot beat.
            if self._silent(self.board[Slot.LEARNER_BEAT], self.learner):
                self._kill(self.learner, "learner_hung", "the learner gave no sign of life")
            return False
        if code == 0 and self.board.phase == Phase.DONE:
            return True
        if code == 2:
            raise RunError(self.learner.last_words())
        self._schedule_restart(self.learner, code, self.board[Slot.PRETRAIN_STEP] + self.board[Slot.ONLINE_UPDATES])
        return False

    def keep_collectors(self) -> None:
        """Start missing collectors, restart crashed ones, kill those that hang in their environment."""
        for index in range(len(self.collectors), self.config.online.collectors):
            child = self._child(f"collector-{index:03d}", ["agent.collector", str(self.run.path), str(index)])
            self.board.collector(index)[CollectorSlot.BEAT] = time.monotonic_ns()
            child.start()
            self.collectors.append(child)
        for index, child in enumerate(self.collectors):
            slots = self.board.collector(index)
            if child.process is None:
                self._restart_when_due(child)
                continue
            code = child.process.poll()
            if code is None:
                if self._silent(int(slots[CollectorSlot.BEAT]), child):
                    self._kill(child, "collector_hung", f"collector {index} gave no sign of life")
            elif code == 2:
                raise RunError(child.last_words())
            else:
                self._schedule_restart(child, code, int(slots[CollectorSlot.STEPS]))

    def _silent(self, beat_ns: int, child: Child) -> bool:
        since = max(beat_ns / 1e9, child.started)
        return time.monotonic() - since > HANG_SECONDS

    def _kill(self, child: Child, kind: str, message: str, seconds: float = HANG_SECONDS) -> None:
        assert child.process is not None
        self.run.event(kind, f"{message} for {seconds:.0f} s; killed", process=child.name)
        child.process.kill()
        child.process.wait()

    def _schedule_restart(self, child: Child, code: int, progress: int) -> None:
        """Note the incident and restart after a backoff; RunError once the budget without progress is spent."""
        now = time.monotonic()
        if progress > child.progress_at_restart:
            child.restarts.clear()
        child.progress_at_restart = progress
        child.restarts = [t for t in child.restarts if now - t < RESTART_WINDOW_SECONDS]
        if len(child.restarts) >= RESTARTS_WITHOUT_PROGRESS:
            raise RunError(
                f"{child.name} died {len(child.restarts) + 1} times without progress, last with exit code {code} "
                f"({child.last_words()}): see {child.log}; the same command resumes once the cause is mended"
            )
        child.not_before = now + FIRST_BACKOFF_SECONDS * 2 ** len(child.restarts)
        child.restarts.append(now)
        child.process = None
        self.run.event(
            "restart", f"{child.name} ended with exit code {code}; restarting", process=child.name, exit_code=code
        )

    def _restart_when_due(self, child: Child) -> bool:
        if time.monotonic() >= child.not_before:
            child.start()
        return False

    # --- evaluation -----------------------------------------------------------------------------------------------

    def keep_evaluations(self, *, final: bool) -> None:
        """Collect finished evaluations and start those that are due, one at a time along the curve."""
        for child in list(self.evaluations):
            assert child.process is not None
            code = child.process.poll()
            if code is None and time.time() - child.log.stat().st_mtime > EVALUATION_HANG_SECONDS:
                self._kill(child, "evaluation_hung", "the evaluation finished no episode", EVALUATION_HANG_SECONDS)
                code = child.process.returncode
            if code is not None:
                self.evaluations.remove(child)
                if code != 0:
                    self.run.event("evaluation_failed", f"{child.name}: {child.last_words()}", exit_code=code)
        board, config = self.board, self.config.evaluation
        version = board[Slot.POLICY_VERSION]
        if version == 0 or board.phase < Phase.WARMUP:
            return
        steps = board.online_steps()
        if ("pretrained", 0) not in self._evaluated:
            # The first version is the pretrained policy, also where this starts late or again after a stop.
            first = published_versions(self.run.policies)[0]
            self._evaluate("pretrained", 0, first, config.final_episodes)
        if final and self.config.online_steps and ("finetuned", self.config.online_steps) not in self._evaluated:
            self._evaluate("finetuned", self.config.online_steps, version, config.final_episodes)
        if config.every_steps and not final and board.phase == Phase.ONLINE and not self.evaluations:
            due = steps - steps % config.every_steps
            if 0 < due < self.config.online_steps and ("curve", due) not in self._evaluated:
                self._evaluate("curve", due, version, config.episodes)

    def _evaluate(self, label: str, step: int, version: int, episodes: int) -> None:
        self._evaluated.add((label, step))
        child = self._child(
            evaluation_name(label, step),
            ["agent.evaluator", str(self.run.path), str(version), label, str(step), str(episodes)],
        )
        child.start()
        self.evaluations.append(child)

    # --- stopping and status --------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Ask everyone to finish the current step, save and leave; kill whoever takes longer than the promise."""
        self.board[Slot.STOP] = 1
        deadline = time.monotonic() + STOP_SECONDS
        for child in (*self.evaluations, self.learner, *self.collectors):
            if child.process is None or child.process.poll() is not None:
                continue
            if child in self.evaluations:
                child.process.terminate()
            try:
                child.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.run.event("killed", f"{child.name} did not stop within {STOP_SECONDS:.0f} s", process=child.name)
                child.process.kill()
                child.process.wait()
        self.write_status(force=True)

    def write_status(self, *, force: bool = False) -> None:
        """status.json once a second: what the run is doing now."""
        now = time.monotonic()
        if not force and now - self._status_at < STATUS_SECONDS:
            return
        self._status_at = now
        board = self.board
        collectors = [
            {
                "steps": int(row[CollectorSlot.STEPS]),
                "episodes": int(row[CollectorSlot.EPISODES]),
                "policy_version": int(row[CollectorSlot.POLICY_VERSION]),
                "wait_seconds": round(int(row[CollectorSlot.WAIT_NS]) / 1e9, 2),
                "faults": int(row[CollectorSlot.FAULTS]),
            }
            for row in map(board.collector, range(len(self.collectors)))
        ]
        status = {
            "time": time.time(),
            "pid": os.getpid(),
            "phase": board.phase.name.lower(),
            "stopped": bool(board[Slot.STOP]),
            "pretrain_step": board[Slot.PRETRAIN_STEP],
            "pretrain_steps": self.config.pretrain_steps,
            "online_steps": board.online_steps(),
            "planned_online_steps": self.config.online_steps,
            "online_updates": board[Slot.ONLINE_UPDATES],
            "policy_version": board[Slot.POLICY_VERSION],
            "learner_wait_seconds": round(board[Slot.LEARNER_WAIT_NS] / 1e9, 2),
            "collectors": collectors,
        }
        # On a full disk the old status stands for a while: no reason to end a training.
        with contextlib.suppress(OSError):
            write_atomic(self.run.status, json.dumps(status, indent=1).encode(), durable=False)
