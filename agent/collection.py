"""Environments in step with one another, acted on by the published policies, each filling a stream. Torch-free."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from agent.board import CollectorSlot
from agent.env_process import EnvProcess
from agent.interventions import Intervention
from agent.latest_policy import ActingPolicy, LatestPolicy
from agent.rhythm import Rhythm
from envs.errors import EnvFault
from replay.stream import StreamWriter

if TYPE_CHECKING:
    from agent.repeating import LocalEnv, RepeatingWriter


@dataclass(kw_only=True, eq=False)
class Lane:
    """One environment and the stream that it fills, one episode after another."""

    env: EnvProcess | LocalEnv
    writer: StreamWriter | RepeatingWriter
    row: int
    """Of its observation in the batch."""
    built: bool = False
    """Whether its process stands."""
    in_episode: bool = False
    """Whether `row` of the batch holds an observation to act on."""
    intervention: Intervention | None = None
    """Who may act in the policy's place."""
    intervened: bool = False
    """Whether that was so in this round."""
    acting: ActingPolicy | None = None
    """The version that acts in its episode."""


class PolicyFault(EnvFault):
    """The policy's action is not finite: no step was taken, and its episode cannot go on."""

    def __init__(self, version: int) -> None:
        Exception.__init__(self, f"policy v{version} acts NaN: the episode was cut before it")


class Collection:
    """Environments in step with one another: each round acts once in each, with one batch through the policy.

    An episode's last row holds the observation that its last step led to: the next reset overwrites the exchange with
    the environment only after the step has been appended.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        policy: LatestPolicy,
        *,
        on_fault: Callable[[EnvFault], None],
        slots: np.ndarray,
        rng: np.random.Generator,
        patiently: Callable[[Callable[[], object]], object] = lambda write: write(),
        on_stored: Callable[[ActingPolicy], None] = lambda acting: None,
        earlier_steps: int = 0,
    ) -> None:
        """`slots` are this collector's counters on the board; `earlier_steps` stand in streams that no lane fills.

        `patiently(write)` does a write to a stream, None where it gave up; `on_stored(acting)` hears of each stored
        step by whom.
        """
        self._lanes, self._policy, self._on_fault, self._slots, self._rng = lanes, policy, on_fault, slots, rng
        self._patiently, self._on_stored = patiently, on_stored
        self._earlier_steps = earlier_steps
        spec = lanes[0].writer.spec
        self._observations = np.zeros((len(lanes), spec.observation_size), np.float32)
        self._low, self._high = np.asarray(spec.action_low, np.float32), np.asarray(spec.action_high, np.float32)
        self.count()

    @property
    def steps(self) -> int:
        """Steps in all streams of this collector."""
        return self._earlier_steps + sum(lane.writer.steps for lane in self._lanes)

    def round(self, size: int) -> None:
        """One step in each of the first `size` environments; one that faults leaves this round out."""
        lanes = self.begin_episodes(self._lanes[:size])
        if not lanes:
            return
        executed = self._act(lanes)
        if not np.isfinite(executed).all():
            sound = np.isfinite(executed).all(axis=1)
            for lane in (lane for lane, ok in zip(lanes, sound, strict=True) if not ok):
                assert lane.acting is not None
                self._lose_episode(lane, PolicyFault(lane.acting.version))
            lanes, executed = [lane for lane, ok in zip(lanes, sound, strict=True) if ok], executed[sound]
        for lane, action in zip(lanes, executed, strict=True):
            lane.env.ask_step(action)
        for lane, action in zip(lanes, executed, strict=True):
            if self._answered(lane):
                self._store(lane, action)
        self.count()

    def begin(self, size: int) -> bool:
        """Have the first `size` environments within an episode; whether one had to begin."""
        lanes = self._lanes[:size]
        if all(lane.in_episode for lane in lanes):
            return False
        self.begin_episodes(lanes)
        return True

    def build(self) -> None:
        """Have all environments at hand, before the first step is due."""
        self._build(self._lanes)

    def _build(self, lanes: Sequence[Lane]) -> None:
        for lane in (unbuilt := [lane for lane in lanes if not lane.built]):
            lane.env.launch()
        for lane in unbuilt:
            lane.built = self._answered(lane)

    def begin_episodes(self, lanes: Sequence[Lane]) -> list[Lane]:
        """Build and reset where that is due, all at the same time; the lanes that can act."""
        if all(lane.in_episode for lane in lanes):
            return list(lanes)
        self._build(lanes)
        for lane in (waiting := [lane for lane in lanes if lane.built and not lane.in_episode]):
            lane.env.ask_reset(int(self._rng.integers(2**31)))
        for lane in waiting:
            if self._answered(lane):
                self._observations[lane.row] = lane.env.observation
                lane.in_episode = True
                lane.acting = self._policy.newest()
                lane.acting.runner.reset()
                if lane.intervention is not None:
                    lane.intervention.reset()
        return [lane for lane in lanes if lane.in_episode]

    def stand(self, lane: Lane, observation: np.ndarray) -> None:
        """Take `lane` to be within an episode, at `observation`."""
        self._observations[lane.row] = observation
        lane.built = lane.in_episode = True
        lane.acting = self._policy.newest()

    def cut(self) -> None:
        """End the running episodes from outside."""
        for lane in self._lanes:
            self._cut(lane)

    def count(self) -> None:
        """Put the counters on the board."""
        self._slots[CollectorSlot.STEPS] = self.steps
        self._slots[CollectorSlot.POLICY_VERSION] = min(
            (a.version for lane in self._lanes if (a := lane.acting)), default=0
        )

    def _act(self, lanes: Sequence[Lane]) -> np.ndarray:
        """What each lane executes, [len(lanes), A]: the policy's action or an intervention, within the bounds."""
        for lane in lanes:
            assert lane.acting is not None
            lane.acting = self._policy.at_step(lane.acting)
        actions = self._policy_actions(lanes)
        for lane, action in zip(lanes, actions, strict=True):
            if lane.intervention is not None:
                taken = lane.intervention(self._observations[lane.row], action)
                lane.intervened = taken is not None
                if taken is not None:
                    action[:] = taken
        np.maximum(actions, self._low, out=actions)  # np.clip takes three times as long for one action
        np.minimum(actions, self._high, out=actions)
        return actions

    def _policy_actions(self, lanes: Sequence[Lane]) -> np.ndarray:
        """[len(lanes), A]: one batch for each version that acts, which is most often one."""
        first = lanes[0].acting
        assert first is not None
        if all(lane.acting is first for lane in lanes):
            whole = len(lanes) == len(self._lanes)
            return self._policy.act(first, self._observations if whole else self._observations[[x.row for x in lanes]])
        by_version: dict[int, list[int]] = {}
        for index, lane in enumerate(lanes):
            assert lane.acting is not None
            by_version.setdefault(lane.acting.version, []).append(index)
        actions = np.empty((len(lanes), len(self._low)), np.float32)
        for members in by_version.values():
            acting = lanes[members[0]].acting
            assert acting is not None
            actions[members] = self._policy.act(acting, self._observations[[lanes[index].row for index in members]])
        return actions

    def _answered(self, lane: Lane) -> bool:
        """Whether what was asked of the environment came; if not, its episode is cut before the fault."""
        try:
            lane.env.answer()
        except EnvFault as fault:
            lane.built = False
            self._lose_episode(lane, fault)
            return False
        return True

    def _lose_episode(self, lane: Lane, fault: EnvFault) -> None:
        self._cut(lane)
        self._slots[CollectorSlot.FAULTS] += 1
        self._on_fault(fault)

    def _store(self, lane: Lane, action: np.ndarray) -> None:
        """Append the step and go on from where it led; nothing where a stop came before there was space for it."""
        env, writer, row, acting = lane.env, lane.writer, self._observations[lane.row], lane.acting
        assert acting is not None
        terminated, truncated = env.terminated, env.truncated

        def append() -> bool:
            writer.append(
                row, action, env.reward,
                terminated=terminated, truncated=truncated, next_observation=env.observation,
                first=not writer.in_episode, policy_version=acting.version, info=env.info,
                intervention=lane.intervened,
            )  # fmt: skip
            return True

        if self._patiently(append) is None:
            return
        row[:] = env.observation
        lane.in_episode = not (terminated or truncated)
        self._slots[CollectorSlot.EPISODES] += not lane.in_episode
        self._on_stored(acting)

    def _cut(self, lane: Lane) -> None:
        if lane.writer.in_episode:
            self._patiently(lambda: lane.writer.cut(self._observations[lane.row]))
        lane.in_episode = False


def collect(
    collection: Collection,
    *,
    due: Callable[[], int],
    rhythm: Rhythm,
    stopping: Callable[[], bool],
    slots: np.ndarray,
    pause_seconds: float = 0.001,
) -> None:
    """Round after round until told to stop; `due()` says in how many environments a step is due now."""
    slots[CollectorSlot.BEAT] = time.monotonic_ns()
    collection.build()
    while not stopping():
        slots[CollectorSlot.BEAT] = time.monotonic_ns()
        if size := due():
            if rhythm.on and collection.begin(size):
                rhythm.pause()
            rhythm.wait()
            collection.round(size)
        else:
            rhythm.pause()
            started = time.monotonic_ns()
            time.sleep(pause_seconds)
            slots[CollectorSlot.WAIT_NS] += time.monotonic_ns() - started
    collection.cut()
