"""The learner process: `python -m agent.learner RUN`. Pretrains, publishes, fine-tunes; resumes.

Everything that the next update depends on is saved together: networks, targets, optimisers, generators, the samplers'
positions, the limiter and the policy version. A checkpoint first makes the online store durable, so that its watermark
never names rows that a power loss could take away.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agent import checkpoint
from agent.algorithms.iql import IQL
from agent.board import Board, Phase, Slot
from agent.config import TrainConfig
from agent.errors import CheckpointError, DivergenceError, RunError
from agent.finetune import finetune
from agent.policy_contract import make_contract
from agent.preparation import Preparation
from agent.pretrain import pretrain
from agent.process import StopSignal, run_child
from agent.publish import Publisher
from agent.run_directory import RunDirectory
from agent.training_log import TrainingLog
from agent.transitions import Preparer
from export.onnx_writer import export_policy
from export.template import Template
from replay.limiter import Limiter
from replay.sampler import MixedSampler, UniformSampler
from replay.store import Store

SEED_NETWORKS, SEED_OFFLINE, SEED_ONLINE = 0, 1, 2
REFRESH_UPDATES = 10


class Learner:
    """All state of the learner process and the glue between loops, checkpoints, publication and log."""

    def __init__(self, run: RunDirectory, config: TrainConfig, board: Board, stopping: Callable[[], bool]) -> None:
        self.run, self.config, self.board, self.stopping = run, config, board, stopping
        self.store = Store.open(config.replay)
        self.preparation = Preparation.from_json(json.loads(run.preparation.read_text()))
        self.prepare = Preparer(self.preparation, torch.device("cpu"))
        spec = self.store.spec
        self.algorithm = IQL(
            config.algorithm,
            observation_size=spec.observation_size,
            action_size=spec.action_size,
            offline_steps=config.pretrain_steps,
            generator=torch.Generator().manual_seed(seed_of(config.seed, SEED_NETWORKS)),
        )
        self.offline = UniformSampler(
            self.store.reader(), config.algorithm.batch_size, rng=generator_of(config.seed, SEED_OFFLINE)
        )
        self.mixed: MixedSampler | None = None
        self.limiter = Limiter(
            utd=config.online.utd,
            tolerance_steps=config.online.tolerance_steps,
            base_steps=config.online.warmup_steps,
        )
        self.publisher: Publisher | None = None
        self._saved_version = 0
        self._online_state: dict[str, Any] | None = None
        self._published_at = 0.0
        self.log = TrainingLog(run)

    def online_updates(self) -> int:
        """Gradient steps since the switch."""
        return max(0, self.algorithm.updates - self.config.pretrain_steps)

    # --- the two phases -------------------------------------------------------------------------------------------

    def train(self) -> bool:
        """Both phases from wherever the run stands; False if asked to stop before the end."""
        config, board = self.config, self.board
        if self.algorithm.updates < config.pretrain_steps:
            board[Slot.PHASE] = Phase.PRETRAIN
            if not pretrain(
                self.algorithm, self.offline, self.prepare,
                steps=config.pretrain_steps, stopping=self.stopping, after_update=self.after_offline_update,
            ):  # fmt: skip
                self.save()
                return False
            self.save()
        board[Slot.PRETRAIN_STEP] = config.pretrain_steps
        self.start_publishing()
        if config.online_steps:
            self.switch_to_online()
            if not finetune(
                self.algorithm, self.mixed_sampler(), self.prepare,
                limiter=self.limiter,
                collected_steps=board.online_steps,
                first_update=config.pretrain_steps,
                last_update=config.pretrain_steps + self.last_online_update(),
                publication=self,
                stopping=self.stopping,
                waiting=self.waiting,
                after_update=self.after_online_update,
            ):  # fmt: skip
                self.save()
                return False
            # First the version, so that the checkpoint, and what is exported from it, bears the evaluated one's number.
            self.publish()
            self.save()
        board[Slot.PHASE] = Phase.DONE
        return True

    def last_online_update(self) -> int:
        """Online updates at the end of the run: the ratio times the steps left since the limiter's base."""
        steps_left = self.config.online_steps - self.limiter.base_steps
        return self.limiter.base_updates + max(0, round(self.config.online.utd * steps_left))

    def switch_to_online(self) -> None:
        """Collect `warmup_steps` with the pretrained policy and no updates, then open the online stream to sampling.

        Targets, optimisers and normaliser go on as they are; only the actor's cosine schedule has ended.
        """
        board, config = self.board, self.config
        # The board is a hint that a power loss may take back; the streams' commits are not.
        collected = max(board.online_steps(), Store.open(self.run.replay).num_steps)
        if collected > self.limiter.base_steps:
            # Updates lost since the checkpoint (pretraining's too) are forgiven, not made up for in a burst.
            forgiven = self.limiter.rebase(collected, self.online_updates())
            self.run.event("limiter_rebased", f"forgave a deficit of {forgiven:.0f} updates", deficit=forgiven)
        board[Slot.LIMITER_STEPS], board[Slot.LIMITER_UPDATES] = self.limiter.base_steps, self.limiter.base_updates
        board[Slot.ONLINE_UPDATES] = self.online_updates()
        board[Slot.PHASE] = Phase.WARMUP
        while not self.stopping() and board.online_steps() < config.online.warmup_steps:
            board.beat()
            time.sleep(0.01)
        board[Slot.PHASE] = Phase.ONLINE

    def mixed_sampler(self) -> MixedSampler:
        """Offline and online rows in fixed shares of every batch."""
        size = self.config.algorithm.batch_size
        offline_rows = round(size * self.config.online.offline_fraction)
        self.online_reader = Store.open(self.run.replay).reader()
        online = UniformSampler(
            self.online_reader, max(1, size - offline_rows), rng=generator_of(self.config.seed, SEED_ONLINE)
        )
        mixed = MixedSampler([(self.offline, offline_rows), (online, size - offline_rows)])
        if self._online_state is not None:
            mixed.load_state_dict(self._online_state)
        self.mixed = mixed
        return mixed

    # --- after every update ---------------------------------------------------------------------------------------

    def after_offline_update(self, result: dict[str, Tensor]) -> None:
        """Heartbeat, log and checkpoint of the offline phase."""
        self.board[Slot.PRETRAIN_STEP] = self.algorithm.updates
        self._after_update(result, "offline")

    def after_online_update(self, result: dict[str, Tensor]) -> None:
        """Heartbeat, log, checkpoint and fresh rows of the online phase."""
        updates = self.online_updates()
        self.board[Slot.ONLINE_UPDATES] = updates
        if updates % REFRESH_UPDATES == 0:
            self.online_reader.refresh()
        self._after_update(result, "online")

    def _after_update(self, result: dict[str, Tensor], phase: str) -> None:
        self.board.beat()
        updates = self.algorithm.updates
        if updates % self.config.log_every == 0:
            self.log.training(
                result, phase=phase, updates=updates, online_steps=self.board.online_steps(),
                policy_version=self.board[Slot.POLICY_VERSION],
                wait_seconds=self.board[Slot.LEARNER_WAIT_NS] / 1e9,
            )  # fmt: skip
        if updates % self.config.checkpoint.every_updates == 0:
            self.save()

    def waiting(self, seconds: float) -> None:
        """The limiter holds the learner back: collectors are behind."""
        self.board[Slot.LEARNER_WAIT_NS] += int(seconds * 1e9)
        self.board.beat()
        self.online_reader.refresh()

    # --- publication ----------------------------------------------------------------------------------------------

    def start_publishing(self) -> None:
        """Export the actor once as the template of all versions and publish it."""
        contract = make_contract(
            self.store.spec,
            self.preparation,
            run=self.run.path.resolve().name,
            algorithm=IQL.name,
            env=json.loads(self.run.env.read_text()),
        )
        actor = self.algorithm.actor
        model = export_policy(actor.trunk, log_std=actor.clamped_log_std(), contract=contract)
        self.publisher = Publisher(
            self.run.policies, self.board, Template.from_bytes(model), contract, version=self._saved_version
        )
        self.publish()

    def publish(self) -> None:
        """Hand the present weights to collectors and evaluation."""
        assert self.publisher is not None
        self.publisher.publish(actor_weights(self.algorithm), step=self.algorithm.updates)
        self._published_at = time.monotonic()

    def maybe(self) -> None:
        """Publish if `publish_seconds` have passed."""
        if time.monotonic() - self._published_at >= self.config.online.publish_seconds:
            self.publish()

    # --- checkpoints ----------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Checkpoint everything, unless a value is not finite: the last good checkpoint is never replaced by a bad."""
        state = self.algorithm.state_dict()
        for name, tensor in state["tensors"].items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise DivergenceError(
                    f"{name} is not finite after {self.algorithm.updates} updates; the last good checkpoint in "
                    f"{self.run.checkpoints} stands: lower --algorithm.learning-rate or check the rewards' scale"
                )
        # First: what the checkpoint has seen must outlive it.
        watermark = Store.open(self.run.replay).sync()
        online = self.mixed.state_dict() if self.mixed is not None else self._online_state
        checkpoint.save(
            self.run.checkpoints,
            self.algorithm.updates,
            state["tensors"],
            {
                "algorithm": IQL.name,
                "numbers": state["numbers"],
                "offline_sampler": self.offline.state_dict(),
                "mixed_sampler": online,
                "limiter": self.limiter.state_dict(),
                "policy_version": self.publisher.version if self.publisher else self._saved_version,
                "layout_fingerprint": self.store.spec.layout_fingerprint,
                "watermark": watermark,
                "versions": library_versions(),
            },
            keep=self.config.checkpoint.keep,
        )

    def restore(self) -> bool:
        """Continue from the newest loadable checkpoint; False where there is none."""

        def say(message: str) -> None:
            self.run.event("checkpoint_fallback", f"{message}; falling back to the one before")

        saved = checkpoint.load_latest(self.run.checkpoints, on_fallback=say)
        if saved is None:
            return False
        state = saved.state
        if state["layout_fingerprint"] != self.store.spec.layout_fingerprint:
            raise CheckpointError(
                f"checkpoint {saved.name} of {self.run.path} was trained on another observation or action layout than "
                f"{self.config.replay} has: give the store that the run was started with"
            )
        self.algorithm.load_state_dict({"tensors": saved.tensors, "numbers": state["numbers"]})
        self.offline.load_state_dict(state["offline_sampler"])
        self._online_state = state["mixed_sampler"]
        self._saved_version = int(state["policy_version"])
        self._check_watermark(state["watermark"])
        if self._online_state is not None:
            self.limiter.load_state_dict(state["limiter"])
        differing = {
            name: f"{state['versions'].get(name)} → {version}"
            for name, version in library_versions().items()
            if state["versions"].get(name) != version
        }
        if differing:
            self.run.event("versions_differ", f"resumed under other libraries, so not bit-exactly: {differing}")
        self.run.event("resumed", f"resumed from checkpoint {saved.name}", updates=self.algorithm.updates)
        return True

    def _check_watermark(self, watermark: dict[str, int]) -> None:
        if not watermark:
            return
        if not self.run.replay.exists():
            raise RunError(f"{self.run.replay} is gone but checkpoints name its rows: restore it or start a new run")
        heads = Store.open(self.run.replay).reader().heads
        for stream, head in watermark.items():
            if int(heads.get(stream, 0)) < head:
                raise RunError(
                    f"stream {stream} of {self.run.replay} ends at row {int(heads.get(stream, 0))}, before row {head} "
                    "that the checkpoint has seen: restore the store that belongs to this run"
                )


def actor_weights(algorithm: IQL) -> dict[str, np.ndarray]:
    """The exported parameters by their names in the graph."""
    weights = {f"network.{k}": v.detach().numpy() for k, v in algorithm.actor.trunk.state_dict().items()}
    weights["log_std"] = algorithm.actor.clamped_log_std().detach().numpy()
    return weights


def library_versions() -> dict[str, str]:
    """What a bit-exact resume depends on."""
    return {"torch": torch.__version__, "numpy": np.__version__}


def seed_of(seed: int, branch: int) -> int:
    """A 63-bit seed of its own for each use."""
    return int(np.random.SeedSequence([seed, branch]).generate_state(1, np.uint64)[0] >> 1)


def generator_of(seed: int, branch: int) -> np.random.Generator:
    """A generator of its own for each use."""
    return np.random.default_rng(np.random.SeedSequence([seed, branch]))


def run_learner(run: RunDirectory) -> None:
    """Train `run` from wherever it stands until done or stopped."""
    board = Board(run.board)
    stopping = StopSignal(also=lambda: board.stopping)
    config = run.load_config()
    torch.set_num_threads(config.threads)
    learner = Learner(run, config, board, stopping)
    learner.restore()
    learner.train()
    learner.log.close()


def main(run_path: str, parent: str) -> int:
    """Entry point of the process."""
    return run_child(parent, lambda: run_learner(RunDirectory(Path(run_path))))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
