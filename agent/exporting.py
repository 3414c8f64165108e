"""A run's trained actor as a verified bundle: the newest checkpoint's network is the reference of the parity gate.

Shape legend: N observations, n real ones among them, O observation entries, A action entries.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from agent import algorithms, checkpoint
from agent.evaluation import evaluate, evaluation_rng, make_matching_env
from agent.exploration import Exploration, critic_of
from agent.export_request import ExportRequest
from agent.files import write_atomic
from agent.lockstep import split_acting
from agent.networks import Actor, CandidatePolicy
from agent.policies import env_spec_of
from agent.policy_contract import make_contract
from agent.preparation import Preparation
from export.bundle import write_bundle
from export.candidates import Candidates
from export.contract import Contract
from export.graph_cache import GRAPHS
from export.onnx_writer import export_policy
from export.quantize import dynamic_int8, weight_fp16
from export.runner import PolicyRunner
from replay.layout import user_cache
from replay.store import Store

REAL_OBSERVATIONS = 4096
REFERENCE_BLOCK = 1024
"""Observations that the reference runs at a time: one that chooses makes many rows of each."""


def export_run(request: ExportRequest) -> dict[str, Any]:
    """Write the bundle that `request` asks for; returns what was compared and how it agreed.

    The policy is the newest checkpoint's. Raises ParityError when graph and network differ; nothing is left behind.
    """
    run, config, best_of_n, seed = request.run, request.config, request.best_of_n, request.seed
    store, preparation = request.store, request.preparation
    saved = checkpoint.load_latest(
        run.checkpoints, on_fallback=lambda message: run.event("checkpoint_fallback", message)
    )
    assert saved is not None, "there was one when the export was requested"
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
            run=run.path.resolve().name, algorithm=algorithm.name, env=request.env,
        ),
        policy_id=request.policy_id(algorithm.updates),
        policy_version=int(saved.state["policy_version"]),
        step=algorithm.updates,
    )  # fmt: skip
    contract = request.promises.fill(contract)
    network, log_std = policy.to_export()
    model = export_policy(network, log_std=log_std, contract=contract, cache=user_cache() / GRAPHS)
    rng = np.random.default_rng(seed)
    # Of these very weights. The run scored the mean action, not a choice by Q.
    scored = [] if best_of_n else [record for record in run.evaluations() if record["updates"] == algorithm.updates]
    bundle = write_bundle(
        request.out,
        model,
        reference=network_reference(policy, preparation),
        rng=rng,
        observations=real_observations(store, rng),
        evaluation=scored[-1] if scored else None,
        variants={} if best_of_n else smaller_variants(model, int8=request.int8),
        evaluate=scorer(contract, request.episodes, seed) if request.episodes else None,
        sign_key=request.sign_key,
    )
    manifest = dict(bundle.manifest or {})
    outcome = {
        "bundle": str(request.out),
        "policy": contract.policy_id,
        "step": algorithm.updates,
        "best_of_n": best_of_n,
        "parity": manifest["variants"]["float32"]["parity"],
        "variants": manifest["variants"],
        "left_out": manifest["left_out"],
        "signed": request.sign_key is not None,
    }
    write_atomic(run.export, json.dumps({"time": time.time(), **outcome}).encode())
    return outcome


def smaller_variants(model: bytes, *, int8: bool) -> dict[str, bytes]:
    """The forms that are tried beside float32, by name."""
    return {"wfp16": weight_fp16(model), **({"int8": dynamic_int8(model)} if int8 else {})}


def scorer(contract: Contract, episodes: int, seed: int) -> Callable[[PolicyRunner], Mapping[str, Any]]:
    """Scores a policy over `episodes` episodes of the contract's environment, the same ones for every variant."""
    spec = env_spec_of(contract, "", 0)

    def score(runner: PolicyRunner) -> Mapping[str, Any]:
        env = make_matching_env(spec, contract, what=f"policy {contract.policy_id}")
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
