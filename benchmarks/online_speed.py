"""Concurrent fine-tuning beside the fastest serial loop with the same learner, and what the runtime costs.

    python -m benchmarks.online_speed [--quick] [--json FILE] [--only TASK ...] [--executor eager|compiled]

`overlap_TASK` is the share of the ideal overlap (t_env + t_update) / max(t_env, t_update) that the real command's
processes reach. Both times are per environment step, measured in a serial loop in turns with the running command,
whose processes stand still meanwhile; one collector, one learner thread, 2 cores. Beside it whole steps a second of
Stable-Baselines3's SAC, an orientation only: another algorithm.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agent.config import TrainConfig
from agent.config_files import load_preset, merge
from agent.run_directory import RunDirectory
from agent.setup_run import set_up
from benchmarks.measure import Contender, Process, Results, Timed, interleave, machine
from benchmarks.online_run import OnlineRun
from benchmarks.peers import peer_python, peer_versions
from envs.catalog import lookup

HERE = Path(__file__).parent
SB3 = ["torch", "stable-baselines3", "gymnasium[mujoco]", "gymnasium-robotics>=1.4.2", "mujoco<3.12"]
RANDOM_STEPS = 2000
IMPORTS = ("agent.cli, agent.commands.train", "agent.learner", "agent.collector, gymnasium_robotics, mujoco")
PUBLISH_MS, STALENESS_S, COLLECTOR_MB, FIRST_STEP_S = 5.0, 2.0, 250.0, 5.0
"""What issue 5 allows."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One row of the overlap."""

    env: str
    utd: float


TASKS = {
    "halfcheetah": Task(env="HalfCheetah-v5", utd=1.0),
    "adroit": Task(env="AdroitHandPen-v1", utd=0.05),
    "kitchen": Task(env="FrankaKitchen-v1", utd=0.25),
}


def import_seconds() -> float:
    """What the three processes up to the first online step spend one after another on imports alone; medians."""
    total = 0.0
    for modules in IMPORTS:
        taken = []
        for _ in range(3):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", f"import {modules}"], check=True, stderr=subprocess.DEVNULL)
            taken.append(time.perf_counter() - began)
        total += float(np.median(taken))
    return total


def measure(
    results: Results, name: str, task: Task, folder: Path, *, executor: str, quick: bool, peer: bool
) -> dict[str, float]:
    """The rows of one task; returns its overheads."""
    store = folder / f"{name}.zarr"
    collect = ["collect", "--env", task.env, "--policy", "random", "--steps", str(RANDOM_STEPS), "--out", str(store)]
    subprocess.run([sys.executable, "-m", "agent.cli", *collect], check=True, capture_output=True)
    flags: list[object] = [
        "--replay", store, "--pretrain-steps", 0, "--online-steps", 10**8, "--online.utd", task.utd,
        "--online.warmup-steps", 500, "--evaluation.final-episodes", 1, "--evaluation.every-steps", 0,
        "--executor", executor,
    ]  # fmt: skip
    serial = serial_run(folder / f"{name}-serial", store, task, executor)
    overheads = {}
    with OnlineRun(folder / name, flags, utd=task.utd) as ours:
        overheads["first_step_s"] = ours.first_step_seconds()
        ours.settle()
        with contextlib.ExitStack() as stack:
            loop = stack.enter_context(Process([sys.executable, "-m", "benchmarks.online_serial", serial.path]))
            contenders: dict[str, Contender] = {
                "env": loop.named("env"), "update": loop.named("update"), "update ahead": loop.named("update ahead"),
                "ours": Timed(ours.time_steps),
            }  # fmt: skip
            if peer:
                contenders["sb3"] = sb3 = stack.enter_context(
                    Process([peer_python("sb3", SB3), HERE / "online_peers.py", task.env, task.utd])
                )
            seconds = interleave(contenders, rounds=5, budget_s=0.5 if quick else 2.0, most=200_000)
            publish_ms = 1e3 * float(np.median([loop.time_calls(1, "publish") for _ in range(20)]))
        print(f"  {name}: {ours.where_time_went()}", flush=True)
        stale = ours.staleness(2.0 if quick else 10.0)
        overheads |= {
            "publish_ms": publish_ms,
            "staleness_s_p99": float(np.quantile(stale, 0.99)),
            "collector_mb": ours.collector_mb(),
        }
        if ours.loads_torch():
            raise RuntimeError("the collector has loaded torch")
    t_env, t_update = seconds["env"], task.utd * min(seconds["update"], seconds["update ahead"])
    print(f"  {name}: {1e3 * t_env:.3f} ms an environment step, {1e3 * t_update:.3f} ms of updates for it", flush=True)
    serial_rate, rate = 1.0 / (t_env + t_update), 1.0 / seconds["ours"]
    ideal = (t_env + t_update) / max(t_env, t_update)
    results.compare(f"overlap_{name}", rate / serial_rate, ideal, "x serial", "the ideal overlap")
    results.compare(f"steps_{name}_vs_serial", rate, serial_rate, "steps/s", "the fastest serial loop")
    if peer:
        theirs = sb3.about["block_steps"] / seconds["sb3"]
        results.compare(f"steps_{name}_vs_sb3_sac", rate, theirs, "steps/s", "Stable-Baselines3 SAC")
    return overheads


def serial_run(path: Path, store: Path, task: Task, executor: str) -> RunDirectory:
    """A run directory set up as the command sets its own up, for the serial loop."""
    preset = lookup(task.env).preset
    config = merge(TrainConfig(), load_preset(preset) if preset else {}, where="preset")
    config = merge(
        config,
        {
            "replay": str(store), "out": str(path), "pretrain_steps": 0, "online_steps": 10**8, "executor": executor,
            "online": {"utd": task.utd, "warmup_steps": 500},
        },
        where="the benchmark",
    )  # fmt: skip
    run = RunDirectory(path)
    set_up(run, config)
    return run


def main() -> None:
    """Measure, print a table, optionally write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter turns: about a minute")
    parser.add_argument("--only", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--executor", choices=("eager", "compiled"), default="eager", help="of both learners")
    parser.add_argument("--no-peer", action="store_true", help="without Stable-Baselines3")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    versions = {}
    if not args.no_peer:
        versions = peer_versions(peer_python("sb3", SB3), ["stable-baselines3", "gymnasium", "mujoco"])
    results = Results(machine(["torch"], {f"peer {name}": version for name, version in versions.items()}))
    imports = import_seconds()
    worst: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="online_speed-") as folder:
        for name in args.only:
            measured = measure(
                results, name, TASKS[name], Path(folder), executor=args.executor, quick=args.quick,
                peer=not args.no_peer,
            )  # fmt: skip
            worst = {key: max(value, worst.get(key, 0.0)) for key, value in measured.items()}
    for key, value, limit, unit in (
        ("publish_ms", worst["publish_ms"], PUBLISH_MS, "ms"),
        ("staleness_s_p99", worst["staleness_s_p99"], STALENESS_S, "s"),
        ("collector_mb", worst["collector_mb"], COLLECTOR_MB, "MiB"),
        ("first_step_s", worst["first_step_s"] - imports, FIRST_STEP_S, "s"),
    ):
        results.compare(key, value, limit, unit, f"the limit; worst of {', '.join(args.only)}")
    print(f"  imports before the first step: {imports:.1f} s", flush=True)
    results.write(args.json)


if __name__ == "__main__":
    main()
