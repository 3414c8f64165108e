"""A collector process: `python -m agent.collector RUN INDEX`. Environments, the newest policy, a live stream for each.

Torch-free. It acts with the published ONNX policy, one batch for all its environments, appends every step with the
version that acted, pauses at the limiter, and survives its environments' faults: each runs in a process of its own,
the episode is cut before the fault and the process replaced.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from agent import staleness
from agent.board import Board, CollectorSlot, Pause, Phase
from agent.collection import Collection, Lane, PolicyFault, collect
from agent.config import TrainConfig
from agent.env_child import EnvSpec
from agent.env_process import EnvHung, EnvProcess, EnvServer
from agent.faults import FaultBudget
from agent.full_disk import DiskPatience
from agent.incidents import Incidents
from agent.interventions import Intervention
from agent.latest_policy import ActingPolicy, LatestPolicy
from agent.pacer import Pacer
from agent.process import StopSignal, run_child
from agent.rhythm import Rhythm
from agent.run_directory import RunDirectory
from agent.shared_core import SharedCore
from envs.errors import EnvFault
from replay.store import Store

COLLECTOR_BRANCH = 1_000
STOP_SECONDS = 2.0
"""How long a stop waits for an environment that is in mid-step."""


def stream_name(collector: int, env: int) -> str:
    """The stream of a collector's environment; the first bears the collector's name alone."""
    return f"collector-{collector:03d}" + (f"-{env:03d}" if env else "")


def run_collector(run: RunDirectory, number: int) -> None:
    """Drive the environments of collector `number` of `run` until told to stop."""
    board = Board(run.board)
    stopping = StopSignal(also=lambda: board.stopping).for_good()
    config = run.load_config()
    store, slots = Store.open(run.replay), board.collector(number)
    stopped_at: list[float] = []
    overdue: list[int] = []

    def tick() -> bool:
        """A sign of life while an environment computes; False once a stop has waited long enough for it."""
        slots[CollectorSlot.BEAT] = time.monotonic_ns()
        if stopping():
            stopped_at.append(time.monotonic())
        return not stopped_at or time.monotonic() - stopped_at[0] < STOP_SECONDS

    def note(fault: EnvFault) -> None:
        if stopped_at or stopping():
            return  # not given the time to answer, or asked to stop as we are
        if isinstance(fault, EnvHung):
            incidents.event("env_hung", str(fault), collector=number)
        elif isinstance(fault, PolicyFault):
            incidents.event("policy_fault", str(fault), collector=number)
        else:
            incidents.event("env_fault", str(fault), collector=number)
        budget.spend(fault, collection.steps)

    def measure(acting: ActingPolicy) -> None:
        age = acting.age_seconds() if board.phase == Phase.ONLINE else 0.0
        staleness.note(ages, versions=policy.versions_behind(acting), seconds=age)
        if core is not None:
            core.keep()

    def note_overdue(old: int, new: int) -> None:
        if not overdue:  # said once: every such episode to come would say it again
            incidents.event(
                "policy_overdue",
                f"an episode has outlasted its policy v{old} by online.max_staleness_seconds: v{new} goes on in it, "
                "and likewise in every such episode; raise the limit if episodes last longer",
                collector=number,
            )
        overdue.append(new)

    budget, incidents, ages = FaultBudget(), Incidents(run), board.staleness[number]
    patiently = DiskPatience(incidents, slots, stopping)
    slots[CollectorSlot.PAUSE] = Pause.NONE
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(EnvServer(tick))
        lanes = []
        for index in range(config.online.envs_per_collector):
            env = EnvProcess(
                server, env_spec(run, store), deadline_seconds=config.online.step_deadline_seconds, tick=tick
            )
            stack.callback(env.close)
            name = stream_name(number, index)
            writer = patiently(lambda name=name: store.writer(name, durability=config.online.durability))  # type: ignore[misc]
            if writer is None:
                return
            intervention = intervention_of(config, store.spec.action_size)
            lanes.append(Lane(env=env, writer=stack.enter_context(writer), row=index, intervention=intervention))
        # Several compute side by side; one at a given rate must be free to start on whichever core is.
        alone = len(lanes) == 1 and not config.online.rate
        core = SharedCore(lambda: env.pid) if alone else None
        earlier = steps_of_idle_streams(store, number, [lane.writer.name for lane in lanes])
        # A restarted collector must not repeat the noise and resets of its predecessor.
        stored = earlier + sum(lane.writer.steps for lane in lanes)
        rng = np.random.default_rng(np.random.SeedSequence([config.seed, COLLECTOR_BRANCH + number, stored]))
        policy = LatestPolicy(
            run.policies, board, noise=config.online.exploration_noise, rng=rng,
            by_episode=config.online.swap == "episode", limit_seconds=config.online.max_staleness_seconds,
            on_overdue=note_overdue,
        )  # fmt: skip
        collection = Collection(
            lanes, policy,
            on_fault=note, patiently=patiently, on_stored=measure, slots=slots, rng=rng, earlier_steps=earlier,
        )  # fmt: skip
        pacer = Pacer(board, config, incidents, slots)
        collect(
            collection, due=pacer.due, rhythm=Rhythm(config.online.rate, slots), stopping=stopping, slots=slots,
            pause_seconds=pacer.pause_seconds,
        )  # fmt: skip
        incidents.flush()


def intervention_of(config: TrainConfig, action_size: int) -> Intervention | None:
    """Who may act in the policy's place, made anew for each environment."""
    spec = config.online.intervention
    return Intervention(spec, action_size) if spec else None


def env_spec(run: RunDirectory, store: Store) -> EnvSpec:
    """The run's environment, to be built by a child."""
    return EnvSpec(
        **json.loads(run.env.read_text()), observation_size=store.spec.observation_size,
        action_size=store.spec.action_size, columns=store.spec.info,
    )  # fmt: skip


def steps_of_idle_streams(store: Store, collector: int, driven: Sequence[str]) -> int:
    """Steps in this collector's streams from a start with more environments."""
    name = stream_name(collector, 0)
    idle = [stream for stream in store.stream_names() if stream.startswith(f"{name}-") and stream not in driven]
    steps = 0
    for stream in idle:
        with store.writer(stream) as writer:
            steps += writer.steps
    return steps


def main(run_path: str, index: str, parent: str) -> int:
    """Entry point of the process."""
    return run_child(parent, lambda: run_collector(RunDirectory(Path(run_path)), int(index)))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
