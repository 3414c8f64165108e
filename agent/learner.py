"""The learner process: `python -m agent.learner RUN`. Pretrains, publishes, fine-tunes; resumes.

Everything that the next update depends on is saved together: networks, targets, optimisers, generators, the samplers'
positions, the limiter and the policy version. A checkpoint first makes the online store durable, so that its watermark
never names rows that a power loss could take away.
"""

from __future__ import annotations

import contextlib
import errno
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from agent import algorithms
from agent.batches import Batches
from agent.board import Board, Phase, Slot
from agent.checkpoint import Checkpoint
from agent.checkpoint_writer import CheckpointWriter
from agent.config import TrainConfig
from agent.data_checks import oddities
from agent.diagnostics import Diagnostics
from agent.divergence import check_bounds, check_finite
from agent.errors import CheckpointError, RunError
from agent.execution import Execution, beating
from agent.exploration import Exploration
from agent.feeding import Feed, Sampler, batches_ahead
from agent.finetuning import finetune
from agent.lockstep import Lockstep, SavedWeights, split_acting
from agent.monitoring import Monitor
from agent.oversight import Oversight
from agent.pacer import pause_seconds
from agent.policy_contract import make_contract
from agent.preparation import Preparation
from agent.pretraining import pretrain
from agent.process import StopSignal, keep_freed_memory, run_child
from agent.publication import Publication, probe_of
from agent.ratio import Ratio
from agent.resume import library_versions, load_for
from agent.run_directory import RunDirectory
from agent.seeds import SEED_DIAGNOSTICS, SEED_NETWORKS, generator_of, seed_of
from agent.training_log import TrainingLog
from agent.transitions import Preparer
from replay.statistics import reward_range
from replay.store import Store


class Learner:
    """All state of the learner process and the glue between loops, checkpoints, publication and log."""

    def __init__(self, run: RunDirectory, config: TrainConfig, board: Board, stopping: Callable[[], bool]) -> None:
        self.run, self.config, self.board, self.stopping = run, config, board, stopping
        self.store = Store.open(config.replay)
        self.preparation = Preparation.from_json(json.loads(run.preparation.read_text()))
        self.prepare = Preparer(
            self.preparation, torch.device("cpu"),
            next_action=config.algorithm.needs_next_action, returns=config.algorithm.needs_return_to_go,
        )  # fmt: skip
        spec = self.store.spec
        self.algorithm = algorithms.make(
            config.algorithm,
            observation_size=spec.observation_size,
            action_size=spec.action_size,
            offline_steps=config.pretrain_steps,
            generator=torch.Generator().manual_seed(seed_of(config.seed, SEED_NETWORKS)),
            precision=config.precision,
        )
        self.execution = Execution(run, board, self.algorithm, config)
        self.exploration = Exploration(self.algorithm, config)
        self.batches = Batches(run, config, self.store, self.prepare)
        self.publication: Publication | None = None
        self._saved_version = 0
        self.log = TrainingLog(run, weight_clip=self.algorithm.weight_clip())
        self.ratio = Ratio(config, board, self.algorithm, self.log)
        self.monitor = Monitor(
            config, board, self.algorithm, self.log, execution=self.execution,
            diagnostics=Diagnostics(self.store, self.prepare, generator_of(config.seed, SEED_DIAGNOSTICS)),
        )  # fmt: skip
        self.writer = CheckpointWriter(run.checkpoints, keep=config.checkpoint.keep)
        # A learner that is killed more often than it saves would never get on.
        self.save_every = max(1, config.checkpoint.every_updates >> board[Slot.LEARNER_DEATHS])
        self.oversight = Oversight(
            run, config.guard, board, self.algorithm, self.log, self.writer, lockstep=not config.online.collectors
        )
        self.feed: Feed | None = None
        self.lockstep: Lockstep | None = None
        self._lockstep_state: dict[str, Any] | None = None
        self._acting: SavedWeights = {}, {}
        self._result: dict[str, Tensor] = {}
        self.blocked_ms = 0.0

    # --- the two phases -------------------------------------------------------------------------------------------

    def train(self) -> bool:
        """Both phases from wherever the run stands; False if asked to stop before the end."""
        config, board = self.config, self.board
        if self.algorithm.updates == 0:
            for kind, message in oddities(
                self.preparation, transitions=self.store.num_steps, batch_size=config.algorithm.batch_size,
                largest_reward=self.prepare.largest_reward,
            ):  # fmt: skip
                self.log.event(kind, message)
        if pretraining := self.algorithm.updates < config.pretrain_steps:
            self.choose_executor()
            board[Slot.PHASE] = Phase.PRETRAIN
            with self.feeding(self.batches.offline) as feed:
                finished = pretrain(
                    self.algorithm, feed,
                    steps=config.pretrain_steps, stopping=self.stopping, after_update=self.after_offline_update,
                )  # fmt: skip
                if finished:
                    self.monitor.diagnose("offline")
                self.save(wait=not finished or not config.online_steps)
            if not finished:
                return False
        board[Slot.PRETRAIN_STEP] = config.pretrain_steps
        self.publication = self.start_publishing()
        if config.online_steps:
            with contextlib.ExitStack() as stack:
                if config.online.collectors:
                    self.oversight.begin(
                        online_updates=self.ratio.online_updates(),
                        online_steps=board.online_steps(),
                        publish=self.publication.publish,
                    )
                    self.open_to_collectors()
                    if not pretraining:
                        self.choose_executor()  # may measure and compile, while the warm-up is collected
                    self.await_warmup()
                    feed = stack.enter_context(
                        self.feeding(self.batches.mix(), follow=self.batches.online_reader.refresh)
                    )
                    finished = finetune(
                        self.algorithm, feed,
                        limiter=self.ratio.limiter,
                        collected_steps=board.online_steps,
                        first_update=config.pretrain_steps,
                        last_update=config.pretrain_steps + self.ratio.last_update(),
                        publication=self.publication,
                        stopping=self.stopping,
                        waiting=self.waiting,
                        after_update=self.after_online_update,
                        pause_seconds=pause_seconds(config.online.tolerance_steps),
                    ) and self.await_last_steps()  # fmt: skip
                else:
                    if not pretraining:
                        self.choose_executor()
                    self.lockstep = stack.enter_context(Lockstep(self, self._lockstep_state, self._acting))
                    self.ratio.show()
                    feed = stack.enter_context(self.feeding(self.batches.mix(), ahead=0))
                    finished = self.lockstep.train(feed)
                if finished:
                    # First the version, so that the checkpoint, and what is exported from it, bears the evaluated
                    # one's number.
                    self.publication.publish()
                    self.monitor.diagnose("online")
                self.save(wait=True)
            if not finished:
                return False
        board[Slot.PHASE] = Phase.DONE
        return True

    def choose_executor(self) -> None:
        """Settle how the updates to come are executed."""
        self.execution.choose(to_come=self.config.pretrain_steps + self.ratio.last_update() - self.algorithm.updates)

    def start_publishing(self) -> Publication:
        """Publish the present policy, and hand over what goes on publishing; evaluations are looked at beside it."""
        policy = self.exploration.begin()
        contract = make_contract(
            self.store.spec,
            self.preparation,
            stochastic=policy.stochastic,
            candidates=policy.candidates,
            run=self.run.path.resolve().name,
            algorithm=self.algorithm.name,
            env=json.loads(self.run.env.read_text()),
        )
        with self.execution.alive():
            publication = Publication(
                self.run, self.config, self.board, self.algorithm, self.log,
                policy=policy, contract=contract, version=self._saved_version,
                probe=probe_of(self.batches.offline.reader, self.store.spec.observation_size),
                beside=lambda: self.oversight.look(
                    online_steps=self.board.online_steps(), save=self.save, publish=publication.publish
                ),
            )  # fmt: skip
        publication.begin(self.stopping)
        return publication

    @contextlib.contextmanager
    def feeding(
        self, sampler: Sampler, follow: Callable[[], object] = lambda: None, ahead: int | None = None
    ) -> Iterator[Feed]:
        """Batches of `sampler`, prepared ahead of the updates; checkpoints hold its state at the last consumed one."""
        with Feed(sampler, self.prepare, ahead=batches_ahead() if ahead is None else ahead, follow=follow) as feed:
            self.feed = feed
            try:
                yield feed
            finally:
                self.feed = None

    def open_to_collectors(self) -> None:
        """Let collectors step, for now with the pretrained policy.

        Targets, optimisers and normaliser go on as they are; only the actor's cosine schedule has ended.
        """
        board = self.board
        # The board is a hint that a power loss may take back; the streams' commits are not.
        collected = max(board.online_steps(), Store.open(self.run.replay).num_steps)
        self.ratio.resume(collected)
        board[Slot.PHASE] = Phase.WARMUP

    def await_warmup(self) -> None:
        """Wait, without updates, until `warmup_steps` are collected."""
        board = self.board
        assert self.publication is not None
        while board.online_steps() < self.config.online.warmup_steps:
            if self.stopping():
                return
            board.beat()
            time.sleep(0.01)
        # From now on collectors stand still where the newest version is old, and the warm-up may have been long.
        self.publication.publish()
        board[Slot.PHASE] = Phase.ONLINE
        # The shortest warm-up leaves no step whose successor is known; the limiter lets more come.
        while self.config.online.offline_fraction < 1.0 and not Store.open(self.run.replay).num_steps:
            if self.stopping():
                return
            self.publication.maybe()
            self.waiting(0.01)
            time.sleep(0.01)

    def await_last_steps(self) -> bool:
        """Wait for the steps by which the updates are ahead, within the tolerance; False if asked to stop before."""
        assert self.publication is not None
        while self.board.online_steps() < self.config.online_steps:
            if self.stopping():
                return False
            self.publication.maybe()  # collectors do not act with what is too old
            time.sleep(0.01)
            self.waiting(0.01)
        return True

    # --- after every update ---------------------------------------------------------------------------------------

    def after_offline_update(self, result: dict[str, Tensor]) -> None:
        """Heartbeat, log and checkpoint of the offline phase."""
        self.board[Slot.PRETRAIN_STEP] = self.algorithm.updates
        self._after_update(result, "offline")

    def after_online_update(self, result: dict[str, Tensor]) -> None:
        """Heartbeat, log and checkpoint of the online phase."""
        self.board[Slot.ONLINE_UPDATES] = self.ratio.online_updates()
        self._after_update(result, "online")

    def _after_update(self, result: dict[str, Tensor], phase: str) -> None:
        self.board.beat()
        self._result = result
        updates = self.algorithm.updates
        if updates % self.config.log_every == 0:
            self.check(result)
            assert self.feed is not None
            self.monitor.training(result, self.feed, phase=phase, blocked_ms=self.blocked_ms)
            self.blocked_ms = 0.0
            if failure := self.writer.failure():
                self.log.event("checkpoint_failed", f"{failure}; training goes on, the next checkpoint is the next try")
        self.monitor.diagnose_if_due(phase)
        if updates % self.save_every == 0:
            self.save()

    def waiting(self, seconds: float) -> None:
        """The limiter holds the learner back: collectors are behind."""
        self.board[Slot.LEARNER_WAIT_NS] += int(seconds * 1e9)
        self.board.beat()

    # --- checkpoints ----------------------------------------------------------------------------------------------

    def save(self, *, wait: bool = False) -> None:
        """Checkpoint everything in the background; with `wait`, RunError if it does not get to the disk.

        DivergenceError instead where a value is not finite or out of all bounds: the last good checkpoint is never
        replaced by a bad one.
        """
        started = time.perf_counter()
        updates = self.algorithm.updates
        self.check(self._result)
        state = self.algorithm.state_dict()
        check_finite(state["tensors"], updates=updates, checkpoints=self.run.checkpoints)
        assert self.feed is not None
        self.writer.submit(
            updates,
            {
                **state["tensors"],
                **self.exploration.tensors(),
                **(self.lockstep.tensors() if self.lockstep else {}),
            },
            {
                "algorithm": self.algorithm.name,
                "numbers": state["numbers"],
                **self.batches.state_dict(self.feed),
                "limiter": self.ratio.state_dict(),
                "lockstep": self.lockstep.state_dict() if self.lockstep else None,
                "policy_version": self.publication.version if self.publication else self._saved_version,
                "layout_fingerprint": self.store.spec.layout_fingerprint,
                "versions": library_versions(),
                "execution": self.execution.state_dict(),
                "largest_reward": self.prepare.largest_reward,
                "guard": self.oversight.state_dict(),
            },
            # What the checkpoint has seen must outlive it, so the store is made durable before the checkpoint is.
            first=lambda: {"watermark": Store.open(self.run.replay).sync()},
        )
        self.blocked_ms = max(self.blocked_ms, 1e3 * (time.perf_counter() - started))
        if wait:
            with beating(self.board):  # a slow disk
                failure = self.writer.wait()
            if failure:
                raise RunError(f"{failure}; the same command then resumes from the checkpoint before")

    def check(self, result: dict[str, Tensor]) -> None:
        """DivergenceError if the last update's values are not finite or out of all bounds."""
        updates, checkpoints = self.algorithm.updates, self.run.checkpoints
        check_finite(result, updates=updates, checkpoints=checkpoints)
        check_bounds(
            result, largest_reward=self.prepare.largest_reward, discount=self.preparation.discount, updates=updates
        )

    def restore(self) -> bool:
        """Continue from the newest loadable checkpoint; False where there is none.

        CheckpointError where it lacks a part, as one of another version of Slipway does.
        """
        saved = load_for(self.run, self.store.spec, self.config.replay)
        if saved is None or "largest_reward" not in saved.state:
            self.prepare.note_rewards(*reward_range(self.batches.offline.reader))
        if saved is None:
            return False
        try:
            self._take_up(saved)
        except KeyError as error:
            raise CheckpointError(
                f"checkpoint {saved.name} of {self.run.path} has no {error}, so another version of Slipway wrote it: "
                "resume with that one, or begin a new run with another --out"
            ) from error
        self.log.event("resumed", f"resumed from checkpoint {saved.name}", updates=self.algorithm.updates)
        return True

    def _take_up(self, saved: Checkpoint) -> None:
        state = saved.state
        # Not by another look at all rewards: a large store may be cold on disk.
        self.prepare.largest_reward = max(self.prepare.largest_reward, float(state.get("largest_reward", 0.0)))
        tensors, self._acting = split_acting(saved.tensors)
        tensors = self.exploration.load(tensors)
        self.algorithm.load_state_dict({"tensors": tensors, "numbers": state["numbers"]})
        if self.batches.load_state_dict(state):
            self.ratio.load_state_dict(state["limiter"])
        self._lockstep_state = state.get("lockstep")
        self._saved_version = int(state["policy_version"])
        self.execution.resume(state.get("execution"))
        if "guard" in state:
            self.oversight.load_state_dict(state["guard"])


def run_learner(run: RunDirectory) -> None:
    """Train `run` from wherever it stands until done or stopped."""
    board = Board(run.board)
    stopping = StopSignal(also=lambda: board.stopping).for_good()
    config = run.load_config()
    torch.set_num_threads(config.threads or 1)  # until they are chosen
    keep_freed_memory()
    with beating(board):  # a large store may be cold
        learner = Learner(run, config, board, stopping)
    try:
        with beating(board):
            learner.restore()
        learner.log.open()
        learner.train()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise RunError(f"no space left for {run.path} ({error}): free some; the same command then resumes") from error
    finally:
        learner.writer.close()
    learner.log.close()


def main(run_path: str, parent: str) -> int:
    """Entry point of the process."""
    return run_child(parent, lambda: run_learner(RunDirectory(Path(run_path))))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
