"""Make logged data: episodes by a scripted expert, at random, or by an exported policy, into a replay store.

Example:
  slipway collect --env PointMaze_Medium-v3 --policy expert --steps 50000 --out maze.zarr
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from agent.console import figure, plural, progress, results, say, write_json
from agent.errors import ConfigError
from agent.evaluation import check_layout
from agent.faults import FaultBudget
from agent.policies import resolve_policy
from agent.process import StopSignal
from agent.seeds import check_seed
from envs.catalog import lookup
from envs.errors import EnvFault
from envs.experts import EXPERTS, Expert, WaypointExpert
from envs.experts.waypoint import WaypointConfig
from envs.make import describe, make_env
from envs.rollout import Step, rollout
from envs.wrappers import FlatEnv
from export.candidates import draw_noise
from export.runner import PolicyRunner
from replay.schema import StoreSpec
from replay.store import Store
from replay.stream import StreamWriter

STREAM = "collect"


@dataclass(frozen=True, kw_only=True)
class Args:
    env: str
    """Gymnasium environment id."""
    steps: int
    """Environment steps to store; the last episode is finished beyond them."""
    out: Path
    """Store to make."""
    policy: str = "expert"
    """expert (where the environment has one), random, or the path of a bundle, run or .onnx policy."""
    max_episode_steps: int = 0
    """Time limit in steps; 0 takes the environment's own."""
    seed: int = 0
    """Seeds resets, noise and the expert's choices."""
    expert: WaypointConfig = field(default_factory=WaypointConfig)
    """The scripted expert's quality."""
    json: bool = False
    """Print one JSON object at the end."""


def run(args: Args) -> int:
    """Collect, with progress; on Ctrl-C what was collected stays, its last episode marked as interrupted."""
    outcome = collect(args)
    if args.json:
        write_json(outcome)
    else:
        counts = f"{plural(outcome['steps'], 'step')}, {plural(outcome['episodes'], 'episode')}"
        results.print(f"{args.out}: {counts}, mean return {figure(outcome['mean'])}")
    return 0


def collect(args: Args) -> dict[str, Any]:
    """Collect `args.steps` steps into a new store; returns steps, episodes and mean return."""
    if args.steps < 1:
        raise ConfigError(f"--steps is {args.steps} but must be 1 or more")
    check_seed(args.seed)
    env = make_env(args.env, max_episode_steps=args.max_episode_steps or None)
    actor_seed, reset_seed = np.random.SeedSequence(args.seed).spawn(2)
    act, on_reset = make_policy(args, env, np.random.default_rng(actor_seed))
    described = describe(env)
    info = ("success",) if lookup(args.env).success_key else ()
    spec = StoreSpec.from_terms(
        described["observation"], described["action_low"], described["action_high"], info=info, env=described["env"],
        source={"kind": "collect", **requested(args)},
    )  # fmt: skip
    with StopSignal() as stopping, Store.create(args.out, spec).writer(STREAM) as writer, progress() as bars:
        episodes = Recording(writer, env, info)
        bar = bars.add("collect", args.steps)
        reset_rng = np.random.default_rng(reset_seed)
        budget = FaultBudget()
        while not episodes.complete(args.steps) and not stopping():
            try:
                for step in rollout(env, act, seed_rng=reset_rng, on_reset=on_reset):
                    episodes.add(step)
                    if step.terminated or step.truncated:
                        bar(min(episodes.steps, args.steps), note=f"mean return {figure(episodes.mean)}")
                    if episodes.complete(args.steps) or stopping():
                        break
            except EnvFault as fault:
                # What came before the fault is kept, cut there; the next reset begins another episode.
                say(f"{fault}; the episode is cut there", "warning")
                budget.spend(fault, episodes.steps)
            episodes.cut()
        if not episodes.complete(args.steps):
            say(f"stopped after {plural(episodes.steps, 'step')}; they are in {args.out}")
    return {"steps": episodes.steps, "episodes": len(episodes.returns), "mean": episodes.mean}


def requested(args: Args) -> dict[str, Any]:
    """What made the data, for its provenance; the environment and its time limit are recorded beside it."""
    expert = {"expert": asdict(args.expert)} if args.policy == "expert" else {}
    return {"policy": args.policy, "seed": args.seed, "steps": args.steps, **expert}


class Recording:
    """Steps going into a stream, and the returns of the episodes that they finish."""

    def __init__(self, writer: StreamWriter, env: FlatEnv, info: tuple[str, ...]) -> None:
        self._writer, self._env, self._info = writer, env, info
        env.columns = info
        self._last: Step | None = None
        self._return = 0.0
        self.returns: list[float] = []
        self.steps = 0

    @property
    def mean(self) -> float:
        """Mean return of the finished episodes, 0 without any."""
        return float(np.mean(self.returns)) if self.returns else 0.0

    def complete(self, steps: int) -> bool:
        """Whether at least `steps` steps are stored and the last episode is finished."""
        return self.steps >= steps and not self._writer.in_episode

    def add(self, step: Step) -> None:
        """Store one step, its action as the environment executed it."""
        self._writer.append(
            step.observation, np.clip(step.action, self._env.action_low, self._env.action_high), step.reward,
            terminated=step.terminated, truncated=step.truncated, next_observation=step.next_observation,
            first=step.first, info={name: float(step.info[name]) for name in self._info},
        )  # fmt: skip
        self.steps += 1
        self._last = step
        self._return = step.reward if step.first else self._return + step.reward
        if step.terminated or step.truncated:
            self.returns.append(self._return)

    def cut(self) -> None:
        """End an episode that did not come to its end."""
        if self._last is not None and self._writer.in_episode:
            self._writer.cut(self._last.next_observation)


def make_policy(
    args: Args, env: FlatEnv, rng: np.random.Generator
) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], None] | None]:
    """What acts, and what hears of resets."""
    expert: Expert
    if args.policy == "random":
        expert = EXPERTS["random"](env, rng)
    elif args.policy == "expert":
        name = lookup(args.env).expert
        if name is None:
            raise ConfigError(f"{args.env} has no scripted expert: use --policy random or the path of a bundle")
        expert = WaypointExpert(env, rng, args.expert) if name == "waypoint" else EXPERTS[name](env, rng)
    else:
        if not Path(args.policy).exists():
            raise ConfigError(
                f"--policy {args.policy} is neither expert nor random, and no bundle, run or .onnx policy"
            )
        runner = PolicyRunner(resolve_policy(Path(args.policy)))
        check_layout(env, runner.contract, what=f"policy {runner.contract.policy_id}")

        def restart(first: np.ndarray) -> None:
            runner.reset()

        if not runner.stochastic:
            return runner.act, restart

        def sample(observation: np.ndarray) -> np.ndarray:
            return runner.act(observation, draw_noise(runner.contract, rng, 1)[0])

        return sample, restart
    return expert.act, expert.reset
