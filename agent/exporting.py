"""A run's trained actor as a verified bundle: the newest checkpoint's network is the reference of the parity gate.

Shape legend: N observations, n real ones among them, O observation entries, A action entries.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agent import algorithms, checkpoint
from agent.algorithms.config import AlgorithmConfig
from agent.errors import ConfigError, RunError
from agent.evaluation import evaluate, evaluation_rng, make_matching_env
from agent.exploration import Exploration, critic_of
from agent.files import write_atomic
from agent.lockstep import split_acting
from agent.networks import Actor, CandidatePolicy
from agent.policies import env_spec_of
from agent.policy_contract import make_contract
from agent.preparation import Preparation
from agent.run_directory import RunDirectory
from export.bundle import write_bundle
from export.candidates import LARGEST_COUNT, Candidates
from export.contract import Contract
from export.onnx_writer import export_policy
from export.quantize import dynamic_int8, weight_fp16
from export.runner import PolicyRunner
from replay.store import Store

REAL_OBSERVATIONS = 4096
REFERENCE_BLOCK = 1024
"""Observations that the reference runs at a time: one that chooses makes many rows of each."""


@dataclass(frozen=True, kw_only=True)
class DevicePromises:
    """What a training run does not know and a device needs; fills the contract. None and "" leave it unsaid."""

    hz: float | None = None
    """Rate at which the policy is to act, in Hz."""
    deadline_ms: float | None = None
    """A decision that takes longer, in ms, is counted as late."""
    max_obs_age_ms: float | None = None
    """An observation older than this, in ms, is a fault."""
    on_fault: str = "hold"
    """`hold`: repeat the last executed action for some steps, then stop safely; `safe`: stop at once."""
    rate_limit: tuple[float, ...] = ()
    """Largest change of each action entry per second, in the environment's units; one number is for all entries."""
    action_names: tuple[str, ...] = ()
    """Name of each action entry, e.g. the joints, in the policy's order."""
    robot_model: str = ""
    """Robot that the policy drives."""
    robot_revision: str = ""
    """Its revision or configuration."""

    def fill(self, contract: Contract) -> Contract:
        """`contract` with these promises. Raises ContractError where they contradict it or each other."""
        action, limit = contract.action, self.rate_limit
        return dataclasses.replace(
            contract,
            action=dataclasses.replace(
                action,
                names=self.action_names or action.names,
                rate_limit=(limit * len(action.low) if len(limit) == 1 else limit) or action.rate_limit,
            ),
            control=dataclasses.replace(
                contract.control,
                hz=self.hz,
                deadline_ms=self.deadline_ms,
                max_obs_age_ms=self.max_obs_age_ms,
                on_fault=self.on_fault,
            ),
            robot=dataclasses.replace(
                contract.robot, model=self.robot_model or None, revision=self.robot_revision or None
            ),
        )


def export_run(
    path: Path,
    out: Path,
    *,
    seed: int = 0,
    promises: DevicePromises | None = None,
    int8: bool = False,
    best_of_n: int = 0,
    episodes: int = 0,
    sign_key: Path | None = None,
) -> dict[str, Any]:
    """Write the bundle `out` of run `path`'s newest checkpoint; returns what was compared and how it agreed.

    `int8` adds that variant; `best_of_n` makes the policy choose by Q, in the graph, between its mean and N − 1
    actions under noise of `seed`, instead of acting by its mean (0); `episodes` > 0 scores every variant in the
    run's environment; `sign_key` is an Ed25519 private key file. Raises ParityError when graph and network differ,
    RunError when there is no checkpoint, ConfigError for a choice that cannot be; nothing is left behind.
    """
    run = RunDirectory(path)
    config = run.load_config()
    if best_of_n:
        check_choice(config.algorithm, best_of_n, int8=int8)
    store = run.open_data(config)
    saved = checkpoint.load_latest(
        run.checkpoints, on_fallback=lambda message: run.event("checkpoint_fallback", message)
    )
    if saved is None:
        raise RunError(f"run {path} has no checkpoint to export: let `slipway train` save one first")
    preparation = Preparation.from_json(json.loads(run.preparation.read_text()))
    spec = store.spec
    algorithm = algorithms.make(
        config.algorithm,
        observation_size=spec.observation_size,
        action_size=spec.action_size,
        offline_steps=config.pretrain_steps,
        generator=torch.Generator(),
    )
    tensors = Exploration(algorithm, config).load(split_acting(saved.tensors)[0])
    algorithm.load_state_dict({"tensors": tensors, "numbers": saved.state["numbers"]})
    policy: Actor | CandidatePolicy = algorithm.actor
    if best_of_n:
        candidates = Candidates(count=best_of_n, seed=seed)
        policy = CandidatePolicy(algorithm.actor, critic_of(algorithm), candidates, action_size=spec.action_size)
    contract = dataclasses.replace(
        make_contract(
            spec, preparation, stochastic=policy.stochastic, candidates=policy.candidates,
            run=path.resolve().name, algorithm=algorithm.name, env=json.loads(run.env.read_text()),
        ),
        policy_id=f"{path.resolve().name}-{algorithm.updates}" + (f"-best-of-{best_of_n}" if best_of_n else ""),
        policy_version=int(saved.state["policy_version"]),
        step=algorithm.updates,
    )  # fmt: skip
    contract = (promises or DevicePromises()).fill(contract)
    network, log_std = policy.to_export()
    model = export_policy(network, log_std=log_std, contract=contract)
    rng = np.random.default_rng(seed)
    latest = {record["label"]: record for record in run.evaluations()}
    # The run scored the mean action, not this choice.
    evaluation = None if best_of_n else latest.get("finetuned") or latest.get("pretrained")
    bundle = write_bundle(
        out,
        model,
        reference=network_reference(policy, preparation),
        rng=rng,
        observations=real_observations(store, rng),
        evaluation=evaluation,
        variants={} if best_of_n else smaller_variants(model, int8=int8),
        evaluate=scorer(contract, episodes, seed) if episodes else None,
        sign_key=sign_key,
    )
    manifest = dict(bundle.manifest or {})
    outcome = {
        "bundle": str(out),
        "policy": contract.policy_id,
        "step": algorithm.updates,
        "best_of_n": best_of_n,
        "parity": manifest["variants"]["float32"]["parity"],
        "variants": manifest["variants"],
        "left_out": manifest["left_out"],
        "signed": sign_key is not None,
    }
    write_atomic(run.export, json.dumps({"time": time.time(), **outcome}).encode())
    return outcome


def check_choice(config: AlgorithmConfig, best_of_n: int, *, int8: bool) -> None:
    """Raise ConfigError unless a policy of `config` can be exported so that it chooses between so many candidates."""
    if not 2 <= best_of_n <= LARGEST_COUNT:
        raise ConfigError(f"--best-of-n is {best_of_n} but must be 0 or lie in 2 to {LARGEST_COUNT}")
    if why := config.why_no_choice():
        raise ConfigError(f"--best-of-n chooses by Q, but {why}: export the policy without it")
    if int8:
        raise ConfigError(
            "--best-of-n and --quantize int8 exclude each other: rounded values choose other actions, by no error that "
            "could be stated; leave one of them out"
        )


def smaller_variants(model: bytes, *, int8: bool) -> dict[str, bytes]:
    """The forms that are tried beside float32, by name."""
    return {"wfp16": weight_fp16(model), **({"int8": dynamic_int8(model)} if int8 else {})}


def scorer(contract: Contract, episodes: int, seed: int) -> Callable[[PolicyRunner], Mapping[str, Any]]:
    """Scores a policy over `episodes` episodes of the contract's environment, the same ones for every variant."""
    spec = env_spec_of(contract, "", 0)

    def score(runner: PolicyRunner) -> Mapping[str, Any]:
        env = make_matching_env(spec, contract.layout_fingerprint, what=f"policy {contract.policy_id}")
        try:
            return evaluate(runner, env, episodes=episodes, rng=evaluation_rng(seed)).to_json()
        finally:
            env.close()

    return score


def network_reference(policy: Actor | CandidatePolicy, preparation: Preparation) -> Any:
    """The trained policy as a function [N, O] → (action [N, A], raw [N, A]), written from its definition in torch.

    Where its noise is squashed it also gives log σ [N, A]; one that chooses gives log σ and its candidates' q [N, K].
    """
    mean, std = torch.from_numpy(preparation.mean), torch.from_numpy(preparation.std)
    low, high = torch.from_numpy(preparation.action_low), torch.from_numpy(preparation.action_high)
    policy.eval()

    def outputs(normalized: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if isinstance(policy, CandidatePolicy):
            unit, raw, q = policy(normalized)
            return unit, raw, policy.actor.spread(normalized), q
        raw = policy.raw(normalized)
        return torch.tanh(raw), raw, *([policy.spread(normalized)] if policy.stochastic.squashed else [])

    def reference(observations: np.ndarray) -> tuple[np.ndarray, ...]:
        parts = []
        with torch.no_grad():
            for at in range(0, len(observations), REFERENCE_BLOCK):
                normalized = (torch.from_numpy(observations[at : at + REFERENCE_BLOCK]) - mean) / std
                if preparation.clip is not None:
                    normalized = normalized.clamp(-preparation.clip, preparation.clip)
                unit, *others = outputs(normalized)
                action = torch.clamp(unit * (high - low) / 2 + (high + low) / 2, low, high)
                parts.append([each.numpy() for each in (action, *others)])
        return tuple(np.concatenate(each) for each in zip(*parts, strict=True))

    return reference


def real_observations(store: Store, rng: np.random.Generator) -> np.ndarray:
    """Up to 4,096 observations of the data, [n, O] float32."""
    sampler = store.sampler(min(REAL_OBSERVATIONS, max(1, store.num_steps)), rng=rng)
    return np.array(sampler.next().observations)
