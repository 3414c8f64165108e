"""Runs as `slipway train` leaves them, made without training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from agent.config import OnlineConfig, TrainConfig
from agent.files import append_line, write_atomic
from agent.rendering import write_video
from agent.run_directory import RunDirectory
from replay.schema import StoreSpec
from replay.store import Store

START = 1_795_225_000.0
MAZE = {"id": "PointMaze_Medium-v3", "kwargs": {"continuing_task": False}, "max_episode_steps": 200}
TERMS = [{"name": "observation", "offset": 0, "length": 3, "dtype": "float64"}]


def evaluation(label: str, step: int, mean: float, ci: tuple[float, float] | None, **more: Any) -> dict[str, Any]:
    """An evaluation line as `agent.evaluator` writes it."""
    record = {
        "time": START + 100 + step / 10, "kind": "evaluation", "label": label, "online_steps": step,
        "policy_version": 1 + step // 100, "updates": 3000 + step, "seconds": 1.0, "episodes": 100, "mean": mean,
        "std": 0.3, "ci": ci and list(ci), "normalized": 100 * mean, "success": mean, "length": 150.5,
        "steps_to_goal": 99.25,
    }  # fmt: skip
    return record | more


def training(updates: int, phase: str, value_loss: float) -> dict[str, Any]:
    """A learner's line as `agent.training_log` writes it."""
    return {
        "time": START + updates / 100, "kind": "train", "phase": phase, "updates": updates, "value_loss": value_loss,
        "critic_loss": 0.5, "actor_loss": -1.25, "q_mean": -7.0, "q_std": 1.0, "v_mean": -6.5, "v_std": 1.0,
        "advantage_mean": -0.2, "advantage_std": 0.1, "advantage_max": 0.4, "weight_mean": 0.7, "weight_max": 31.0,
        "updates_per_second": 200.0, "wait_seconds": 0.0,
    }  # fmt: skip


def diagnostics(updates: int, phase: str, rank: int, bias: float) -> dict[str, Any]:
    """A line of the critics' and features' health: Q exceeds the return by `bias`."""
    returns = [-50.0 + i for i in range(40)]
    return {
        "time": START + updates / 100, "kind": "diagnostics", "phase": phase, "updates": updates,
        "srank_actor": 60, "srank_critic": rank, "dead_units_actor": 0.0, "dead_units_critic": 0.125,
        "calibration": {"q": [value + bias for value in returns], "return": returns},
    }  # fmt: skip


def pace(online_steps: int, waited: float) -> dict[str, Any]:
    """A line about ten seconds of fine-tuning as `agent.run_status` writes it."""
    return {
        "time": START + 200, "kind": "pace", "online_steps": online_steps, "steps_per_second": 200.0,
        "learner_wait_fraction": 0.0, "collector_wait_fraction": waited, "staleness_versions_p50": 0.0,
        "staleness_versions_p99": 2.0, "staleness_seconds_p50": 0.4, "staleness_seconds_p99": 1.2,
    }  # fmt: skip


def fill(store: Store, stream: str, episode_returns: list[float], version: int = 0) -> None:
    """Episodes of five steps whose last reward is the return."""
    with store.writer(stream, durability="process") as writer:
        for total in episode_returns:
            for step in range(5):
                observation = np.full(3, step, dtype=np.float32)
                writer.append(
                    observation, np.zeros(1, np.float32), total if step == 4 else 0.0,
                    terminated=step == 4 and total > 0, truncated=step == 4 and total <= 0,
                    next_observation=observation + 1, first=step == 0, policy_version=version,
                )  # fmt: skip


def make_run_in(
    folder: Path,
    *records: dict[str, Any],
    name: str = "door",
    env: dict[str, Any] = MAZE,
    online_steps: int = 6000,
    seed: int = 3,
    source: dict[str, Any] | None = None,
    successes: int = 11,
) -> RunDirectory:
    """A run with a config and an offline store of 40 episodes, 11 of them successes; metrics as given."""
    spec = StoreSpec.from_terms(TERMS, [-1.0], [1.0], env=env, source=source)
    logged = [1.0] * successes + [0.0] * (40 - successes)
    fill(Store.create(folder / "data.zarr", spec, chunk_rows=1024), "collect", logged)
    run = RunDirectory(folder / name)
    config = TrainConfig(
        replay=folder / "data.zarr", out=run.path, seed=seed, pretrain_steps=3000, online_steps=online_steps,
        online=OnlineConfig(warmup_steps=1000),
    )  # fmt: skip
    run.save_config(config)
    write_atomic(run.env, json.dumps(env).encode())
    for record in records:
        append_line(run.metrics, record)
    return run


FINISHED = (
    *(training(u, "offline", 1.0 / u) for u in range(500, 3001, 500)),
    evaluation("pretrained", 0, 0.41, (0.32, 0.51)),
    diagnostics(3000, "offline", 80, 4.0),
    *(training(u, "online", 0.002) for u in range(3500, 8001, 500)),
    evaluation("curve", 2000, 0.55, (0.34, 0.74), episodes=20),
    *(pace(steps, share) for steps, share in ((2000, 0.25), (4000, 0.5))),
    evaluation("curve", 4000, 0.7, (0.48, 0.855), episodes=20),
    diagnostics(8000, "online", 48, 1.5),
    evaluation("finetuned", 6000, 0.88, (0.802, 0.93)),
)
DEPLOYMENT = {
    "state": "OK", "reason": None, "steps": 8400, "episodes": 50, "policy_id": "door-v000061", "policy_version": 61,
    "latency_us": {"p50": 21.3, "p99": 48.2, "p99.9": 103.1, "max": 911.2}, "target_hz": 50.0, "rate_hz": 49.98,
    "latency_histogram": {"edges_us": [16.0, 32.0, 64.0, 128.0, 1024.0], "counts": [8000, 300, 90, 10]},
    "overruns": 3, "held_steps": 0, "faults": {}, "mean": 0.86, "std": 0.35, "ci": [0.738, 0.93], "normalized": 86.0,
    "success": 0.86, "length": 140.0, "steps_to_goal": 120.0,
}  # fmt: skip


PARITY = {"action_error": 3.1e-7, "observations": 10_000, "tolerance": 1e-5}
EXPORT = {
    "time": START + 850, "bundle": "door.policy", "policy": "door-8000", "step": 8000, "parity": PARITY,
    "variants": {"float32": {"parity": PARITY}, "wfp16": {"parity": {**PARITY, "action_error": 1.7e-4}}},
    "left_out": {"int8": {"limit": 0.02, "parity": {**PARITY, "action_error_ordinary": 0.031}}}, "signed": False,
}  # fmt: skip


def add_video(run: RunDirectory) -> None:
    """A published policy, never loaded, and a video of it: a bar that grows."""
    for name in ("v000001.onnx", "v000001.onnx.sha256"):
        (run.policies / name).write_bytes(b"-")
    run.videos.mkdir()
    frames = np.zeros((25, 240, 320, 3), np.uint8)
    for t in range(len(frames)):
        frames[t, :, : 12 * t + 12] = (200, 60, 20)
    write_video(run.videos / "pretrained-000000000-v000001.mp4", frames, 25.0)


def finish(run: RunDirectory) -> RunDirectory:
    """Give a run everything that a finished one has: online streams, an export, a deployment, a status."""
    online = Store.create(run.replay, Store.open(run.path.parent / "data.zarr").spec, chunk_rows=1024)
    fill(online, "collector-000", [1.0, 0.0, 1.0], version=4)
    fill(online, "collector-001", [0.0, 0.0], version=7)
    write_atomic(run.deployment, json.dumps(DEPLOYMENT).encode())
    write_atomic(run.export, json.dumps(EXPORT).encode())
    status = {
        "time": START + 900, "pid": 1, "phase": "done", "stopped": True, "pretrain_step": 3000, "pretrain_steps": 3000,
        "online_steps": 6000, "planned_online_steps": 6000, "online_updates": 5000, "policy_version": 61,
        "learner_wait_seconds": 0.0, "collectors": [],
    }  # fmt: skip
    write_atomic(run.status, json.dumps(status).encode())
    return run
