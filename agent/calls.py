"""What the verbs of the command do, as Python calls without a terminal: `from agent import train, evaluate, export`.

Paths may be strings. Each raises the errors of `agent.errors.SLIPWAY_ERRORS`, with the message that the command prints.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.config import TrainConfig
from agent.errors import ConfigError
from agent.policies import env_spec_of, resolve_policy
from agent.resolving import continued
from agent.run_directory import RunDirectory
from agent.seeds import check_seed
from envs.catalog import lookup
from export.runner import PolicyRunner
from export.verify import verify as verify_policy

if TYPE_CHECKING:
    from agent.export_request import DevicePromises


def collect(
    env: str, out: str | Path, *, steps: int, policy: str | Path = "expert", **options: Any
) -> dict[str, float]:
    """`slipway collect`: at least `steps` environment steps into a new store `out`, its last episode finished.

    `policy` is "expert", "random", or the path of a bundle, run or .onnx file; `options` are the other fields of
    `agent.commands.collect.Args` (seed, max_episode_steps, expert). Returns steps, episodes and mean return.
    """
    from agent.commands import collect as verb

    return verb.collect(verb.Args(env=env, out=Path(out), steps=steps, policy=str(policy), **options))


def ingest(source: str | Path, out: str | Path, **options: Any) -> dict[str, Any]:
    """`slipway ingest`: logged data into a store, whole or not at all; episodes end as the recorded task asks.

    Slipway's own stores tell exactly how each episode ended, those of a policy that never reaches its goal included.
    `options` are those of `replay.ingest.ingest` (env, terminate_on, clip_actions, columns, dry_run, ...); its
    docstring tells what is returned.
    """
    from replay.ingest import ingest as read
    from replay.ingest import recorded_environment, slipway

    if "terminate_on" not in options and not slipway.matches(str(source)):
        # A spec that gives the time limit alone leaves the environment to what the source records.
        env_id = (options.get("env") or {}).get("id") or (recorded_environment(source) or {}).get("id")
        if env_id:
            options["terminate_on"] = lookup(env_id).terminate_on
    return read(source, out, **options)


def pretrain(config: TrainConfig) -> dict[str, Any]:
    """`slipway pretrain`: the offline phase alone; `finetune(config.out, ...)` goes on from it. Returns as `train`."""
    from agent.training import train

    return train(dataclasses.replace(config, online_steps=0))


def finetune(run: str | Path, *, online_steps: int = 0) -> dict[str, Any]:
    """`slipway finetune`: run `run` online for `online_steps` environment steps in all, warm-up included.

    0 keeps what the run was started with. Returns as `train`.
    """
    from agent.training import train

    return train(continued(Path(run), online_steps))


def evaluate(
    target: str | Path,
    *,
    env: str = "",
    episodes: int = 100,
    seed: int = 0,
    variant: str = "",
    max_episode_steps: int = 0,
    on_episode: Callable[[int, str], None] = lambda done, env_id: None,
) -> dict[str, Any]:
    """`slipway eval`: score a run's newest policy, a bundle or a .onnx file by its mean action.

    Empty `env`, `variant` and 0 `max_episode_steps` take the policy's own environment, float32 and its time limit.
    `on_episode(done, env id)` is called after each episode. Returns the fields of `agent.scores.Score`, beside "policy"
    (its id) and "env" (its spec): returns are undiscounted sums, intervals are of 95%, lengths are in steps.
    """
    from agent.evaluation import evaluate as evaluate_policy  # needs gymnasium, which a device may lack
    from agent.evaluation import evaluation_rng, make_matching_env

    if episodes < 1:
        raise ConfigError(f"--episodes is {episodes} but must be 1 or more")
    check_seed(seed)
    runner = PolicyRunner(resolve_policy(Path(target)), variant=variant or None)
    contract = runner.contract
    spec = env_spec_of(contract, env, max_episode_steps)
    world = make_matching_env(spec, contract, what=f"policy {contract.policy_id}")
    try:
        score = evaluate_policy(
            runner, world, episodes=episodes, rng=evaluation_rng(seed),
            on_episode=lambda done: on_episode(done, spec["id"]),
        )  # fmt: skip
    finally:
        world.close()
    return {"policy": contract.policy_id, "env": spec, **score.to_json()}


def export(
    run: str | Path,
    out: str | Path,
    *,
    promises: DevicePromises | None = None,
    int8: bool = False,
    best_of_n: int = 0,
    episodes: int = 0,
    sign_key: str | Path | None = None,
) -> dict[str, Any]:
    """`slipway export`: the run's trained actor as bundle `out`, compared with the network; see `request_export`.

    Returns what was compared, and how it agreed. What cannot be is refused before torch is loaded.
    """
    from agent.export_request import request_export

    key = None if sign_key is None else Path(sign_key)
    request = request_export(
        Path(run), Path(out), promises=promises, int8=int8, best_of_n=best_of_n, episodes=episodes, sign_key=key
    )
    from agent.exporting import export_run  # loads torch

    return export_run(request)


def verify(policy: str | Path, *, verify_key: str | Path | None = None) -> dict[str, Any]:
    """`slipway verify`: checksums, contract and golden outputs of a bundle, a .onnx file or a run's newest policy."""
    return verify_policy(resolve_policy(Path(policy)), verify_key=None if verify_key is None else Path(verify_key))


def deploy(policy: str | Path, *, record: str | Path | None = None, **options: Any) -> dict[str, Any]:
    """`slipway deploy`: a policy in the fixed-rate control loop, on a simulated robot or your own. Loads no torch.

    `record` is the store to record executed steps into; `options` are the other fields of
    `agent.commands.deploy.Args` (env, robot, rate in Hz, episodes, steps, seed, watch, ...). Returns the loop's report:
    state, steps, returns, latencies in µs, overruns, faults.
    """
    from agent.commands import deploy as verb

    paths = {"policy": policy, "record": record, **{name: options.pop(name, None) for name in ("watch", "verify_key")}}
    given: dict[str, Any] = {name: Path(path) for name, path in paths.items() if path is not None}
    return verb.deploy(verb.Args(**given, **options))


def write_report(run: str | Path, out: str | Path | None = None) -> Path:
    """`slipway report`: one self-contained HTML page, RUN/report.html where `out` is None. Returns its path."""
    from agent.report import write_report as write

    return write(Path(run), None if out is None else Path(out))


def status(run: str | Path) -> dict[str, Any]:
    """`slipway status --json`: what a run is doing now."""
    from agent.commands.status import Watched

    return Watched(RunDirectory(Path(run))).status()
