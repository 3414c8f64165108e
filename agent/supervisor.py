"""The supervisor: starts learner, collectors and evaluations, watches their signs of life, restarts within a budget.

It holds no torch and no training state, so it can die at any instant: children end with it, and the same command
starts them again from the last checkpoint and the streams' last commits.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterable

from agent import checkpoint
from agent.board import Board, CollectorSlot, Phase, Slot
from agent.child import Child
from agent.config import TrainConfig
from agent.errors import RunError
from agent.evaluations import Evaluations
from agent.incidents import Incidents
from agent.run_directory import RunDirectory
from agent.run_status import RunStatus

RESTARTS_WITHOUT_PROGRESS = 5
FIRST_BACKOFF_SECONDS = 0.25
HANG_SECONDS = 30.0
STARTING_FACTOR = 4
RESTART_WINDOW_SECONDS = 2 * RESTARTS_WITHOUT_PROGRESS * STARTING_FACTOR * HANG_SECONDS
"""Longer than a child takes that is killed that often for want of any sign of life."""
STOP_SECONDS = 9.0
STARTING_SECONDS = 2.0
POLL_SECONDS = 0.05


class Supervisor:
    """Runs one training to its end, or to a requested stop.

    Ordering: the learner publishes a first version before the phase turns to warm-up; collectors may start before it
    but step only from then on; STOP is set before any child is waited for; the final evaluation starts after the
    learner's last publication.
    """

    def __init__(
        self, run: RunDirectory, config: TrainConfig, *, stopping: Callable[[], bool], lock: int | None = None
    ) -> None:
        self.run, self.config, self.stopping, self.lock = run, config, stopping, lock
        self.board = Board(run.board)
        self.learner = self._child("learner", ["agent.learner", str(run.path)])
        self.collectors: list[Child] = []
        self.incidents = Incidents(run)
        self.evaluations = Evaluations(run, config, self.board, self.incidents, self._child)
        self.status = RunStatus(run, config, self.board)

    def _child(self, name: str, command: list[str]) -> Child:
        return Child(name=name, command=command, log=self.run.logs / f"{name}.log", lock=self.lock)

    def train(self, on_tick: Callable[[Board], None]) -> bool:
        """Supervise until done (True) or stopped (False). RunError when a child cannot be kept alive."""
        board = self.board
        board[Slot.STOP] = 0
        board[Slot.PHASE] = Phase.STARTING
        board[Slot.LEARNER_BEAT] = time.monotonic_ns()
        board[Slot.LEARNER_DEATHS] = board[Slot.SCORE_WANTED] = board[Slot.SCORE_ENDED] = 0
        board.staleness[:] = 0
        # With nothing left to pretrain, collectors import and build while the learner does.
        early = self._saved_updates() >= self.config.pretrain_steps and board.online_steps() < self.config.online_steps
        try:
            self.learner.start()
            while not self.stopping():
                done = self.watch_learner()
                if early or board.phase in (Phase.WARMUP, Phase.ONLINE):
                    self.keep_collectors()
                self.evaluations.keep(final=done)
                self.write_status()
                on_tick(board)
                if done and not self.evaluations.running:
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
            # Importing torch takes seconds in which the learner cannot beat.
            self._kill_if_hung(self.learner, "learner_hung", "the learner", self.board[Slot.LEARNER_BEAT])
            return False
        if code == 0 and self.board.phase == Phase.DONE:
            return True
        if code == 2:
            raise RunError(self.learner.last_words())
        self._schedule_restart(self.learner, code, self._learner_progress())
        self.board[Slot.LEARNER_DEATHS] = len(self.learner.restarts)
        # In lockstep: the policy that stood there to be scored is gone; who gets there again asks again.
        self.board[Slot.SCORE_WANTED] = self.board[Slot.SCORE_ENDED]
        return False

    def _learner_progress(self) -> int:
        """What would outlive the learner: saved updates, and the steps of a warm-up, which only waits for them."""
        warmed_up = min(self.board.online_steps(), self.config.online.warmup_steps)
        return warmed_up + self._saved_updates()

    def _saved_updates(self) -> int:
        saved = checkpoint.complete(self.run.checkpoints)
        return int(saved[-1].name) if saved else 0

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
                self._kill_if_hung(child, "collector_hung", f"collector {index}", int(slots[CollectorSlot.BEAT]))
            elif code == 2:
                raise RunError(child.last_words())
            else:
                self._schedule_restart(child, code, int(slots[CollectorSlot.STEPS]))

    def _kill_if_hung(self, child: Child, kind: str, who: str, beat_ns: int) -> None:
        beat = beat_ns / 1e9
        # Before its first sign of life a process imports, which a busy machine draws out.
        alive = beat > child.started
        patience = HANG_SECONDS if alive else STARTING_FACTOR * HANG_SECONDS
        if time.monotonic() - max(beat, child.started) > patience:
            first = "" if alive else ", its first,"
            self.incidents.event(
                kind, f"{who} gave no sign of life{first} for {patience:.0f} s; killed", process=child.name
            )
            child.kill()

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
        self.incidents.event(
            "restart", f"{child.name} ended with exit code {code}; restarting", process=child.name, exit_code=code
        )

    def _restart_when_due(self, child: Child) -> bool:
        if time.monotonic() >= child.not_before:
            child.start()
        return False

    # --- stopping and status --------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Ask everyone to finish the current step, save and leave; kill whoever takes longer than the promise."""
        self.board[Slot.STOP] = 1
        asked = time.monotonic()
        for child in self.evaluations.running:
            if child.process is not None:
                child.process.terminate()
        others = [self.learner, *self.collectors]
        if self.board.phase == Phase.STARTING:
            # Who still imports does not look at the board, and has nothing to save.
            for process in self._left(others, until=asked + STARTING_SECONDS):
                process.terminate()
        everyone = [*self.evaluations.running, *others]
        left = self._left(everyone, until=asked + STOP_SECONDS)
        for child in everyone:
            if child.process in left:
                self.incidents.event(
                    "killed", f"{child.name} did not stop within {STOP_SECONDS:.0f} s", process=child.name
                )
                child.process.kill()
                child.process.wait()
        self.write_status(force=True)

    @staticmethod
    def _left(children: Iterable[Child], *, until: float) -> list[subprocess.Popen[bytes]]:
        """The processes of `children` that have not ended by `until`."""
        left = []
        for process in (child.process for child in children if child.process is not None):
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                left.append(process)
        return left

    def write_status(self, *, force: bool = False) -> None:
        """status.json once a second: what the run is doing now."""
        self.incidents.flush()
        self.status.write(collectors=len(self.collectors), switch=self.evaluations.switch, force=force)
