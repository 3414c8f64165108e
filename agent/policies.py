"""Finding and describing exported policies, for the verbs that take RUN, a bundle or a bare .onnx file. Torch-free."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agent.errors import RunError
from agent.kinds import what_is
from agent.publish import policy_path, published_versions
from agent.run_directory import RunDirectory
from envs.catalog import evaluation_spec
from export.contract import Contract


def resolve_policy(target: Path) -> Path:
    """The policy file or bundle that `target` means: a run's newest published version, or `target` itself."""
    wanted = "give a run directory, a bundle or a .onnx policy"
    if not target.exists():
        raise RunError(f"{target} does not exist: {wanted}")
    if (target / "config.toml").exists():
        folder = RunDirectory(target).policies
        versions = published_versions(folder)
        if not versions:
            raise RunError(f"run {target} has published no policy yet: let `slipway train` finish pretraining first")
        return policy_path(folder, versions[-1])
    if target.is_dir() and not any((target / name).exists() for name in ("manifest.json", "policy.onnx")):
        raise RunError(f"{target} {what_is(target)}, not a policy (no manifest.json): {wanted}")
    if target.is_file() and target.suffix != ".onnx":
        raise RunError(f"{target} is not a .onnx policy: {wanted}; `slipway export RUN` makes a bundle")
    return target


def env_spec_of(contract: Contract, env: str, max_episode_steps: int) -> dict[str, Any]:
    """The environment to run a policy in: `env` where given, else the one that its contract names."""
    if contract.env is None and not env:
        raise RunError(f"policy {contract.policy_id} names no environment: give one with --env, e.g. --env Hopper-v5")
    recorded = {"kwargs": {}, "max_episode_steps": None, **(contract.env or {})}
    spec = recorded if not env or recorded.get("id") == env else {"id": env, "kwargs": {}, "max_episode_steps": None}
    if max_episode_steps:
        spec = {**spec, "max_episode_steps": max_episode_steps}
    return scoring_spec(spec)


def scoring_spec(spec: dict[str, Any]) -> dict[str, Any]:
    """`spec` with rewards as the reference scores count them, under the time limit that it names."""
    limit = spec["max_episode_steps"]
    return {**evaluation_spec(spec), **({"max_episode_steps": limit} if limit else {})}
