"""A run's trained actor as a verified bundle: the newest checkpoint's network is the reference of the parity gate."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agent import checkpoint
from agent.algorithms.iql import IQL
from agent.errors import RunError
from agent.policy_contract import make_contract
from agent.preparation import Preparation
from agent.run_directory import RunDirectory
from export.bundle import write_bundle
from export.onnx_writer import export_policy
from replay.store import Store

REAL_OBSERVATIONS = 4096


def export_run(path: Path, out: Path, *, seed: int = 0) -> dict[str, Any]:
    """Write the bundle `out` of run `path`'s newest checkpoint; returns what was compared and how it agreed.

    Raises ParityError when graph and network differ, RunError when there is no checkpoint; nothing is left behind.
    """
    run = RunDirectory(path)
    config = run.load_config()
    store = Store.open(config.replay)
    saved = checkpoint.load_latest(
        run.checkpoints, on_fallback=lambda message: run.event("checkpoint_fallback", message)
    )
    if saved is None:
        raise RunError(f"run {path} has no checkpoint to export: let `slipway train` save one first")
    preparation = Preparation.from_json(json.loads(run.preparation.read_text()))
    spec = store.spec
    algorithm = IQL(
        config.algorithm,
        observation_size=spec.observation_size,
        action_size=spec.action_size,
        offline_steps=config.pretrain_steps,
        generator=torch.Generator(),
    )
    algorithm.load_state_dict({"tensors": saved.tensors, "numbers": saved.state["numbers"]})
    contract = dataclasses.replace(
        make_contract(
            spec, preparation,
            run=path.resolve().name, algorithm=IQL.name, env=json.loads(run.env.read_text()),
        ),
        policy_id=f"{path.resolve().name}-{algorithm.updates}",
        policy_version=int(saved.state["policy_version"]),
        step=algorithm.updates,
    )  # fmt: skip
    actor = algorithm.actor
    model = export_policy(actor.trunk, log_std=actor.clamped_log_std(), contract=contract)
    rng = np.random.default_rng(seed)
    latest = {record["label"]: record for record in run.evaluations()}
    evaluation = latest.get("finetuned") or latest.get("pretrained")
    policy = write_bundle(
        out,
        model,
        reference=network_reference(algorithm, preparation),
        rng=rng,
        observations=real_observations(store, rng),
        evaluation=evaluation,
    )
    return {
        "bundle": str(out),
        "policy": contract.policy_id,
        "step": algorithm.updates,
        "parity": dict(policy.manifest or {})["variants"]["float32"]["parity"],
    }


def network_reference(algorithm: IQL, preparation: Preparation) -> Any:
    """The trained network as a function [N, O] → (action [N, A], raw [N, A]), written from its definition in torch."""
    mean, std = torch.from_numpy(preparation.mean), torch.from_numpy(preparation.std)
    low, high = torch.from_numpy(preparation.action_low), torch.from_numpy(preparation.action_high)

    def reference(observations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with torch.no_grad():
            normalized = (torch.from_numpy(observations) - mean) / std
            if preparation.clip is not None:
                normalized = normalized.clamp(-preparation.clip, preparation.clip)
            raw = algorithm.actor.eval()(normalized)
            action = torch.tanh(raw) * (high - low) / 2 + (high + low) / 2
            return torch.clamp(action, low, high).numpy(), raw.numpy()

    return reference


def real_observations(store: Store, rng: np.random.Generator) -> np.ndarray:
    """Up to 4,096 observations of the data, [n, O] float32."""
    sampler = store.sampler(min(REAL_OBSERVATIONS, max(1, store.num_steps)), rng=rng)
    return np.array(sampler.next().observations)
