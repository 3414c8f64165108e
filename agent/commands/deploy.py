"""Run a policy in a fixed-rate control loop, on a simulated robot or your own, with an optional recording.

The recording is a replay store of executed actions: `slipway ingest` and `slipway train` take it back. Needs no torch.

Example:
  slipway deploy door.policy --env AdroitHandDoor-v1 --episodes 20 --record flights.zarr
  slipway deploy door.policy --robot my_robot:make_robot --rate 50 --watchdog
  slipway deploy door.policy --robot my_robot:make_robot --rate 50 --watch policies
"""

from __future__ import annotations

import signal
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from agent.console import results, say, table, write_json
from agent.deploying import SimulatedRobot, StoreRecorder, load_robot, start_watchdog
from agent.errors import ConfigError
from agent.own_code import raised
from agent.policies import env_spec_of, resolve_policy
from agent.process import StopSignal, handling
from agent.seeds import check_seed
from export.contract import Contract
from export.control_loop import ControlLoop
from export.policy import read_policy
from export.reload import PolicyWatcher
from export.robot import Robot
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
    watchdog: bool = False
    """With --robot: a second process stops the robot when the loop stalls or dies."""
    watchdog_timeout: float = 0.0
    """Seconds without a write before it does; 0 is ten periods, at least 0.2 s. Longer than a reset takes."""
    watchdog_stop: str = ""
    """What it calls, as module:function; empty takes the robot module's watchdog_stop, or its factory's safe_stop."""
    watch: Path | None = None
    """Folder of bundles or published policies: newer ones are flown once verified. SIGUSR1 returns to the last one."""
    variant: str = ""
    """Variant of the bundle to run: float32, wfp16 or int8; empty takes float32."""
    verify_key: Path | None = None
    """Ed25519 public key (PEM): only bundles signed by its private key are flown, newer ones too."""
    frozen_after: int = 0
    """So many identical observations in a row with new time stamps are a fault; 0 takes the robot's wish, or none."""
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
        latency, steps = report["latency_us"], report["steps"]
        held = f"{report['rate_hz']:.1f} Hz" if report["rate_hz"] else ""
        rows = [
            ["state", report["state"] + (f" ({report['reason']})" if report["reason"] else "")],
            ["steps", f"{steps} in {report['episodes']} episodes"],
            ["mean return", f"{np.mean(report['returns']):.3g}" if report["returns"] else "none finished"],
            [
                "latency",
                ", ".join(f"{name} {latency[name]} µs" for name in ("p50", "p99", "max")) if steps else "no step",
            ],
            ["rate", held or ("none held" if report["target_hz"] else "unpaced")],
            ["overruns", str(report["overruns"])],
            ["faults", ", ".join(f"{name} {count}" for name, count in report["faults"].items()) or "none"],
        ]
        if report["watchdog"]:
            rows.append(["watchdog", "raised the alarm" if report["watchdog"]["alarmed"] else "quiet"])
        if "reloads_refused" in report:
            refused = f", {report['reloads_refused']} refused" if report["reloads_refused"] else ""
            reason = f" ({report['reload_error']})" if report["reload_error"] else ""
            rows.append(["reloads", f"{report['reloads']}{refused}{reason}"])
        if "recorded" in report:
            error = f" ({report['record_error']})" if report["record_error"] else ""
            rows.append(["recorded", f"{report['recorded']} steps, {report['lost']} lost{error}"])
        results.print(table(f"deployed {report['policy_id']}", ["what", "value"], rows))
    return 0 if report["state"] == "OK" else 1


def check(args: Args) -> None:
    """ConfigError for arguments that contradict each other or name no number of things."""
    if args.env and args.robot:
        raise ConfigError("--env and --robot exclude each other: give one of them")
    if args.watchdog and not args.robot:
        raise ConfigError("--watchdog needs --robot: a simulation stands still between steps")
    for flag, value in (("--watchdog-timeout", args.watchdog_timeout), ("--watchdog-stop", args.watchdog_stop)):
        if value and not args.watchdog:
            raise ConfigError(f"{flag} needs --watchdog: without it nothing watches the loop")
    for flag, value in (("--steps", args.steps), ("--episodes", args.episodes)):
        if value < 0:
            raise ConfigError(f"{flag} is {value} but must be 0 or more")
    check_seed(args.seed)


def deploy(args: Args) -> dict[str, Any]:
    """Run the loop and return its report, with successes (simulation), what was recorded and what was refused."""
    check(args)
    read = partial(read_policy, variant=args.variant or None, verify_key=args.verify_key)
    policy = read(resolve_policy(args.policy))
    trained = policy.contract.control.hz
    rate = args.rate or trained or 0.0
    if args.robot and rate <= 0:
        raise ConfigError("--robot needs --rate: the frequency in Hz at which it is to be driven")
    if trained and abs(rate - trained) > RATE_TOLERANCE * trained:
        raise ConfigError(f"--rate is {rate:g} Hz but the policy's contract says {trained:g} Hz: leave --rate out")
    with ExitStack() as signals, ExitStack() as cleanup:  # a stop must not cost what was recorded
        robot = make_robot(args, policy.contract)
        cleanup.callback(close, robot)
        expect = getattr(robot, "contract", None)
        frozen_after = args.frozen_after or getattr(robot, "frozen_after", None)
        runner = PolicyRunner(policy, expect=expect, frozen_after=frozen_after)
        watcher = watchdog = recorder = None
        if args.watch is not None:
            # The loading thread gives way to the control thread every half millisecond, not every five.
            cleanup.callback(sys.setswitchinterval, sys.getswitchinterval())
            sys.setswitchinterval(5e-4)
            watcher = cleanup.enter_context(PolicyWatcher(args.watch, runner, expect=expect, read=read))
        if args.watchdog:
            timeout = args.watchdog_timeout or max(10 / rate, 0.2)
            watchdog = start_watchdog(args.robot, stop=args.watchdog_stop, timeout_s=timeout)
            cleanup.callback(watchdog.close)
        if args.record is not None:
            recorder = StoreRecorder(args.record, runner.contract)
            cleanup.callback(recorder.close)
        unlimited = not args.steps and not args.episodes
        loop = ControlLoop(
            robot, runner, hz=rate or None, recorder=recorder, watchdog=watchdog, reloader=watcher,
            max_steps=args.steps or None,
            max_episodes=10 if unlimited and not args.robot else args.episodes or None,
        )  # fmt: skip
        signals.enter_context(StopSignal(on_signal=loop.stop))
        if watcher is not None:
            signals.enter_context(handling(signal.SIGUSR1, lambda _number, _frame: loop.rollback()))
        report = loop.run()
    if isinstance(robot, SimulatedRobot):
        report["successes"] = robot.successes
    if recorder is not None:
        report |= {"recorded": recorder.recorded, "lost": recorder.lost, "record_error": recorder.error}
    if watcher is not None:
        report |= {"reloads_refused": watcher.refused, "reload_error": watcher.reason}
    return report


def close(robot: Robot) -> None:
    """Release the robot; what its own code raises then costs neither the report nor the recording."""
    try:
        robot.close()
    except Exception as error:  # noqa: BLE001 - the user's code
        say(f"the robot's close() raised {raised(error)}", "warning")


def make_robot(args: Args, contract: Contract) -> Robot:
    """The user's robot, or a simulated one whose layout matches the policy."""
    if args.robot:
        return load_robot(args.robot)
    # Only here: a device without the simulation extra can still drive --robot.
    from agent.evaluation import evaluation_rng, make_matching_env

    spec = env_spec_of(contract, args.env, args.max_episode_steps)
    env = make_matching_env(spec, contract, what=f"policy {contract.policy_id}")
    return SimulatedRobot(env, rng=evaluation_rng(args.seed))
