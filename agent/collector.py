"""A collector process: `python -m agent.collector RUN INDEX`. One environment, the newest policy, its own live stream.

Torch-free. It acts with the published ONNX policy, appends every step with the version that acted, pauses at the
limiter, and survives its environment's faults: the episode is cut before the fault and the environment replaced.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from agent.board import Board, CollectorSlot, Phase, Slot
from agent.config import TrainConfig
from agent.faults import FaultBudget
from agent.process import StopSignal, run_child
from agent.publish import policy_path
from agent.run_directory import RunDirectory
from envs.errors import EnvFault
from envs.make import make_env
from envs.wrappers import FlatEnv
from export.runner import PolicyRunner
from replay.limiter import Limiter
from replay.store import Store
from replay.stream import StreamWriter

COLLECTOR_BRANCH = 1_000
PAUSE_SECONDS = 0.001


class LatestPolicy:
    """The newest published policy, swapped at step boundaries; acts by sampling its Gaussian."""

    def __init__(self, folder: Path, board: Board, *, noise: float, rng: np.random.Generator) -> None:
        self._folder, self._board, self._noise, self._rng = folder, board, noise, rng
        self.version = 0
        self._runner: PolicyRunner | None = None

    def refresh(self) -> None:
        """Load the newest version if it is newer than the present one."""
        newest = self._board[Slot.POLICY_VERSION]
        if newest != self.version:
            self._runner = PolicyRunner(policy_path(self._folder, newest))
            self.version = newest

    def reset(self) -> None:
        """An episode begins: a policy with a state starts from its initial one."""
        if self._runner is not None:
            self._runner.reset()

    def act(self, observation: np.ndarray) -> np.ndarray:
        """[O] float32 → [A] float32, environment units."""
        assert self._runner is not None
        noise = self._rng.standard_normal(self._runner.action_size, dtype=np.float32) * np.float32(self._noise)
        return self._runner.act(observation, noise)


class Pacer:
    """Holds a collector back when it is ahead of the update-to-data ratio, or when the run has all its steps."""

    def __init__(self, board: Board, config: TrainConfig) -> None:
        self._board, self._config = board, config
        self._limiter = Limiter(utd=config.online.utd, tolerance_steps=config.online.tolerance_steps)

    def may_step(self) -> bool:
        """Whether one more environment step is due now."""
        board, online = self._board, self._config.online
        steps = board.online_steps()
        if steps >= self._config.online_steps or board[Slot.POLICY_VERSION] == 0:
            return False
        if board.phase == Phase.WARMUP:
            return steps < online.warmup_steps
        # The learner owns the base: it moves after a rollback.
        self._limiter.base_steps = board[Slot.LIMITER_STEPS]
        self._limiter.base_updates = board[Slot.LIMITER_UPDATES]
        return board.phase == Phase.ONLINE and self._limiter.may_collect(steps, board[Slot.ONLINE_UPDATES])


def collect(
    env: FlatEnv,
    replace_env: Callable[[EnvFault], FlatEnv],
    policy: LatestPolicy,
    writer: StreamWriter,
    *,
    may_step: Callable[[], bool],
    stopping: Callable[[], bool],
    columns: tuple[str, ...],
    slots: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Step until told to stop. `columns` are the stored infos, `slots` this collector's counters on the board."""
    observation: np.ndarray | None = None
    first = True
    while not stopping():
        slots[CollectorSlot.BEAT] = time.monotonic_ns()
        if not may_step():
            time.sleep(PAUSE_SECONDS)
            slots[CollectorSlot.WAIT_NS] += int(PAUSE_SECONDS * 1e9)
            continue
        policy.refresh()
        try:
            if observation is None:
                observation, _ = env.reset(seed=int(rng.integers(2**31)))
                policy.reset()
                first = True
            action = policy.act(observation)
            following, reward, terminated, truncated, info = env.step(action)
        except EnvFault as fault:
            if observation is not None and not first:
                writer.cut(observation)
            slots[CollectorSlot.FAULTS] += 1
            with contextlib.suppress(Exception):
                # A faulty environment may fail to close as well; it is gone either way.
                env.close()
            env, observation = replace_env(fault), None
            continue
        writer.append(
            observation, np.clip(action, env.action_low, env.action_high), reward,
            terminated=terminated, truncated=truncated, next_observation=following, first=first,
            policy_version=policy.version, info={name: float(info.get(name, 0.0)) for name in columns},
        )  # fmt: skip
        slots[CollectorSlot.STEPS] = writer.steps
        slots[CollectorSlot.POLICY_VERSION] = policy.version
        first = terminated or truncated
        slots[CollectorSlot.EPISODES] += first
        observation = None if first else following
    if observation is not None and not first:
        writer.cut(observation)


def run_collector(run: RunDirectory, number: int) -> None:
    """Drive environment `number` of `run` until told to stop."""
    board = Board(run.board)
    stopping = StopSignal(also=lambda: board.stopping)
    config = run.load_config()
    spec = json.loads(run.env.read_text())

    def build() -> FlatEnv:
        return make_env(spec["id"], kwargs=spec["kwargs"], max_episode_steps=spec["max_episode_steps"])

    def replace(fault: EnvFault) -> FlatEnv:
        run.event("env_fault", str(fault), collector=number)
        budget.spend(fault, writer.steps)
        return build()

    env, budget = build(), FaultBudget()
    store = Store.open(run.replay)
    with store.writer(f"collector-{number:03d}", durability=config.online.durability) as writer:
        slots = board.collector(number)
        slots[CollectorSlot.STEPS] = writer.steps
        # A restarted collector must not repeat the noise and resets of its predecessor.
        rng = np.random.default_rng(np.random.SeedSequence([config.seed, COLLECTOR_BRANCH + number, writer.steps]))
        policy = LatestPolicy(run.policies, board, noise=config.online.exploration_noise, rng=rng)
        collect(
            env, replace, policy, writer,
            may_step=Pacer(board, config).may_step, stopping=stopping, columns=store.spec.info, slots=slots, rng=rng,
        )  # fmt: skip


def main(run_path: str, index: str, parent: str) -> int:
    """Entry point of the process."""
    return run_child(parent, lambda: run_collector(RunDirectory(Path(run_path)), int(index)))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
