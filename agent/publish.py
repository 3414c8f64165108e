"""Versioned policy publication: weights are patched into a template graph, so publishing *is* exporting.

Invariant: `policies/LATEST` and the board name a version only after its file and checksum are complete. A reader that
sees version N on the board can open vN, until KEEP newer ones are there; versions only grow, also across restarts and
rollbacks.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from agent.board import Board, Slot
from agent.errors import AgentError, DivergenceError
from agent.files import SwappedFile
from export.contract import Contract
from export.policy import Policy, write_policy
from export.session import run_once
from export.template import Template

KEEP = 20


def policy_path(folder: Path, version: int) -> Path:
    """File of one version below RUN/policies."""
    return folder / f"v{version:06d}.onnx"


def published_versions(folder: Path) -> list[int]:
    """Versions whose file and checksum are both there, ascending."""
    return sorted(
        int(path.stem[1:])
        # Six digits or more: a run that publishes twice a second passes a million within a week.
        for path in folder.glob("v[0-9]*.onnx")
        if path.stem[1:].isdecimal() and path.with_name(path.name + ".sha256").exists()
    )


class PolicyRefusedError(AgentError):
    """A policy whose weights are finite but whose actions are not: never handed to collectors.

    Mend: look at the events of the run; `slipway verify RUN` checks its newest policy.
    """


class Publisher:
    """Writes new versions for collectors and evaluation.

    `probe` [B, O] float32 are observations in which each policy must act before it is published.
    """

    def __init__(
        self,
        folder: Path,
        board: Board,
        template: Template,
        contract: Contract,
        *,
        version: int,
        probe: np.ndarray | None = None,
    ) -> None:
        self._probe = probe
        self._folder = folder
        self._board = board
        # Replacing a file costs a millisecond more where the file system then flushes the new one (ext4).
        self._latest = SwappedFile(folder / "LATEST")
        self._template = template
        self._contract = contract
        self._there = published_versions(folder)
        # Past whatever a crashed or rolled back run had already handed to collectors.
        self.version = max([version, *self._there])

    def publish(self, weights: Mapping[str, np.ndarray], *, step: int) -> Path:
        """Publish `weights` as the next version.

        Raises:
            DivergenceError: a weight is not finite; nothing was written.
            PolicyRefusedError: an action is not finite in one of the probe's observations; nothing was written.
        """
        for name, weight in weights.items():
            if not np.isfinite(weight).all():
                raise DivergenceError(f"policy weight {name} is not finite after {step} updates: not published")
        version = self.version + 1
        contract = dataclasses.replace(
            self._contract,
            policy_id=f"{self._contract.run}-v{version:06d}",
            policy_version=version,
            step=step,
        )
        path = policy_path(self._folder, version)
        model = self._template.patch(weights, contract)
        self._try_out(Policy(source=path.name, model=model, contract=contract), step)
        write_policy(path, model)
        self._latest.write(path.name.encode())
        self.version = version
        self._board[Slot.PUBLISHED_NS] = time.monotonic_ns()
        self._board[Slot.POLICY_VERSION] = version
        self._there.append(version)
        self._prune()
        return path

    def _try_out(self, policy: Policy, step: int) -> None:
        if self._probe is None:
            return
        outputs = run_once(policy, self._probe)
        # The clamp to the bounds turns an infinity into an action; the mean before it does not.
        bad = ~np.isfinite(np.concatenate(outputs, axis=1)).all(axis=1)
        if bad.any():
            raise PolicyRefusedError(
                f"the policy after {step} updates gives NaN or infinity in {int(bad.sum())} of {len(bad)} observations "
                "of the data: not published; the version before stays in use"
            )

    def _prune(self) -> None:
        # The first version is the pretrained policy, kept for comparison; the one scored last may still be read.
        scored = self._board[Slot.SCORED_VERSION]
        while len(self._there) > 1 + KEEP:
            path = policy_path(self._folder, self._there.pop(1 if self._there[1] != scored else 2))
            path.with_name(path.name + ".sha256").unlink(missing_ok=True)
            path.unlink(missing_ok=True)
