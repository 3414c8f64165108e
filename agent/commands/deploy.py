"""Run a policy in a fixed-rate control loop, on a simulated robot or your own, with an optional recording.

The recording is a replay store of executed actions: `slipway ingest` and `slipway train` take it back. Needs no torch.

Example:
  slipway deploy door.policy --env AdroitHandDoor-v1 --episodes 20 --record flights.zarr
  slipway deploy door.policy --robot my_robot:make_robot --rate 50
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from agent.console import results, table, write_json
from agent.deploy import SimulatedRobot, StoreRecorder, load_robot
from agent.errors import ConfigError
from agent.policies import env_spec_of, resolve_policy
from agent.process import StopSignal
from export.control_loop import ControlLoop, Robot
from export.runner import PolicyRunner

RATE_TOLERANCE = 0.01


@dataclass(frozen=True, kw_only=True)
class Args:
    policy: Annotated[Path, tyro.conf.Positional]
    """Bundle, .onnx policy, or run (its newest policy)."""
    env: str = ""
    """Simulate in this Gymnasium environment; empty without --robot takes the contract's."""
    robot: str = ""
    """Your own robot, as module:factory."""
    rate: float = 0.0
    """Control rate in Hz; 0 takes the contract's, and without one runs as fast as possible (simulation only)."""
    episodes: int = 0
    """End after this many episodes; 0 with --steps 0 means 10 in simulation, for ever on a robot."""
    steps: int = 0
    """End after this many actions; 0 is no limit."""
    record: Path | None = None
    """Store to record executed steps into; made or continued."""
    max_episode_steps: int = 0
    """Time limit in simulation; 0 takes the contract's."""
    seed: int = 0
    """Seeds the simulation's episodes."""
    json: bool = False
    """Print one JSON object."""


def run(args: Args) -> int:
    """Deploy until the given end, Ctrl-C or SIGTERM; exit code 1 where the loop latched after a fault."""
    report = deploy(args)
    if args.json:
        write_json(report)
    else:
        latency = report["latency_us"]
        rows = [
            ["state", report["state"] + (f" ({report['reason']})" if report["reason"] else "")],
            ["steps", f"{report['steps']} in {report['episodes']} episodes"],
            ["mean return", f"{np.mean(report['returns']):.3g}" if report["returns"] else "none finished"],
            ["latency", f"p50 {latency['p50']} µs, p99 {latency['p99']} µs, max {latency['max']} µs"],
            ["rate", f"{report['rate_hz']:.1f} Hz" if report["rate_hz"] else "unpaced"],
            ["overruns", str(report["overruns"])],
            ["faults", str(report["faults"] or "none")],
        ]
        if "recorded" in report:
            rows.append(["recorded", f"{report['recorded']} steps, {report['lost']} lost"])
        results.print(table(f"deployed {report['policy_id']}", ["what", "value"], rows))
    return 0 if report["state"] == "OK" else 1


def deploy(args: Args) -> dict[str, Any]:
    """Run the loop and return its report, with successes (simulation) and what was recorded."""
    if args.env and args.robot:
        raise ConfigError("--env and --robot exclude each other: give one of them")
    runner = PolicyRunner(resolve_policy(args.policy))
    trained = runner.contract.control.hz
    rate = args.rate or trained or 0.0
    if args.robot and rate <= 0:
        raise ConfigError("--robot needs --rate: the frequency in Hz at which it is to be driven")
    if trained and abs(rate - trained) > RATE_TOLERANCE * trained:
        raise ConfigError(f"--rate is {rate:g} Hz but the policy's contract says {trained:g} Hz: leave --rate out")
    robot = make_robot(args, runner)
    try:
        recorder = StoreRecorder(args.record, runner.contract) if args.record else None
        unlimited = not args.steps and not args.episodes
        loop = ControlLoop(
            robot, runner, hz=rate or None, recorder=recorder, max_steps=args.steps or None,
            max_episodes=10 if unlimited and not args.robot else args.episodes or None,
        )  # fmt: skip
        StopSignal(on_signal=loop.stop)
        try:
            report = loop.run()
        finally:
            if recorder is not None:
                recorder.close()
    finally:
        robot.close()
    if isinstance(robot, SimulatedRobot):
        report["successes"] = robot.successes
    if recorder is not None:
        report |= {"recorded": recorder.recorded, "lost": recorder.lost, "record_error": recorder.error}
    return report


def make_robot(args: Args, runner: PolicyRunner) -> Robot:
    """The user's robot, or a simulated one whose layout matches the policy."""
    if args.robot:
        return load_robot(args.robot)
    # Only here: a device without the simulation extra can still drive --robot.
    from agent.evaluate import evaluation_rng, make_matching_env

    contract = runner.contract
    spec = env_spec_of(contract, args.env, args.max_episode_steps)
    env = make_matching_env(spec, contract.layout_fingerprint, what=f"policy {contract.policy_id}")
    return SimulatedRobot(env, rng=evaluation_rng(args.seed))
