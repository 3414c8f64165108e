"""What a run's policies promise: the contract made from the store's layout and the run's preparation of it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from agent.preparation import STD_FLOOR, Preparation
from export.candidates import Candidates
from export.contract import Contract
from export.contract_parts import ActionSpec, Git, Normalizer, ObservationTerm, Stochastic
from replay.schema import StoreSpec

GAUSSIAN = Stochastic(eps=True)


def make_contract(
    spec: StoreSpec,
    preparation: Preparation,
    *,
    stochastic: Stochastic = GAUSSIAN,
    candidates: Candidates | None = None,
    run: str,
    algorithm: str,
    env: dict[str, Any] | None,
) -> Contract:
    """The contract of run `run`'s policies, before any version or step. `stochastic` and `candidates` are its
    own, as `Exploration.policy` has them."""
    digest = (spec.source or {}).get("digest")
    return Contract(
        policy_id=run,
        observation=tuple(
            ObservationTerm(name=term.name, offset=term.offset, length=term.length, dtype=term.dtype)
            for term in spec.observation
        ),
        normalizer=Normalizer(
            mean=tuple(preparation.mean.tolist()),
            std=tuple(preparation.std.tolist()),
            eps=STD_FLOOR,
            clip=preparation.clip,
            count=preparation.count,
        ),
        action=ActionSpec(low=spec.action_low, high=spec.action_high),
        layout_fingerprint=spec.layout_fingerprint,
        algorithm=algorithm,
        run=run,
        dataset=(str(digest),) if digest else (),
        env=env,
        git=source_revision(),
        stochastic=stochastic,
        candidates=candidates,
    )


def source_revision() -> Git:
    """Commit and dirtiness of the checkout that this code runs from; unknown where it is no checkout."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return Git()
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
        status = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=root, capture_output=True, text=True, check=True, timeout=10,
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return Git()
    return Git(commit=commit, dirty=bool(status.strip()))
