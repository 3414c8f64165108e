"""What `slipway export` is asked for, held against the run before torch is loaded: a mistake costs no minutes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent import checkpoint
from agent.algorithms.config import AlgorithmConfig
from agent.config import TrainConfig
from agent.errors import ConfigError, RunError
from agent.policy_contract import make_contract
from agent.preparation import Preparation
from agent.run_directory import RunDirectory
from export.bundle import bundled_contract, refuse_other_content
from export.candidates import LARGEST_COUNT
from export.contract import Contract
from export.signing import sign
from replay.store import Store

NETWORKS_OWN = {"policy_id", "policy_version", "step", "stochastic", "candidates"}
"""What of a contract is known once the network is loaded."""


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


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """A sound request, and what the run says of itself."""

    run: RunDirectory
    """Whose newest checkpoint is exported."""
    out: Path
    """The bundle to write."""
    seed: int
    """Draws observations to compare on, a chooser's noise and the scored episodes."""
    promises: DevicePromises
    """What the contract says beyond the run."""
    int8: bool
    """Whether to add that variant."""
    best_of_n: int
    """The policy chooses by Q between so many actions, in the graph, instead of acting by its mean (0)."""
    episodes: int
    """Every variant is scored over so many episodes; 0 keeps the run's own evaluation of these weights."""
    sign_key: Path | None
    """Ed25519 private key file."""
    config: TrainConfig
    """The run's."""
    store: Store
    """Its data."""
    preparation: Preparation
    """Its view of them."""
    env: dict[str, Any]
    """Its environment."""

    def policy_id(self, updates: int) -> str:
        """Name of the policy after so many updates."""
        return f"{self.run.path.resolve().name}-{updates}" + (f"-best-of-{self.best_of_n}" if self.best_of_n else "")


def request_export(
    path: Path,
    out: Path,
    *,
    seed: int = 0,
    promises: DevicePromises | None = None,
    int8: bool = False,
    best_of_n: int = 0,
    episodes: int = 0,
    sign_key: Path | None = None,
) -> ExportRequest:
    """Ask for the bundle `out` of run `path`; the arguments are `ExportRequest`'s.

    Raises RunError for a run without a checkpoint or with a missing file, ConfigError for a choice that cannot be,
    ContractError for promises that cannot be kept, ExportError for a key that cannot sign or an `out` that is taken.
    """
    run = RunDirectory(path)
    config = run.load_config()
    if best_of_n:
        check_choice(config.algorithm, best_of_n, int8=int8)
    if episodes < 0:
        raise ConfigError(f"--env-episodes is {episodes} but must be 0 or more")
    if not (saved := checkpoint.complete(run.checkpoints)):
        raise RunError(f"run {path} has no checkpoint to export: let `slipway train` save one first")
    try:
        preparation = Preparation.from_json(run.read_record(run.preparation))
    except (TypeError, ValueError) as error:
        raise RunError(f"{run.preparation} is damaged ({error}): restore it from a backup") from error
    request = ExportRequest(
        run=run, out=out, seed=seed, promises=promises or DevicePromises(), int8=int8, best_of_n=best_of_n,
        episodes=episodes, sign_key=sign_key, config=config, store=run.open_data(config), preparation=preparation,
        env=run.read_record(run.env),
    )  # fmt: skip
    spec = request.store.spec
    promised = request.promises.fill(
        make_contract(spec, preparation, run=path.resolve().name, algorithm=config.algorithm.name, env=request.env)
    ).to_dict()
    if sign_key is not None:
        sign(b"", sign_key)
    there = bundled_contract(out) or {}
    other = {name for name, value in promised.items() if there.get(name) != value} - NETWORKS_OWN
    if other or there["policy_id"] not in {request.policy_id(int(each.name)) for each in saved}:
        refuse_other_content(out)
    return request


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
