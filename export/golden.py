"""Recorded outputs recomputed by the processor at hand, through the buffers that will drive the robot.

Shape legend: N rows, O observation entries, A action entries, H entries of a recurrent policy's state.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from export.errors import IntegrityError, ParityError

if TYPE_CHECKING:
    from export.runner import PolicyRunner


def check_golden(runner: PolicyRunner, golden: Mapping[str, np.ndarray], where: str) -> float:
    """Recompute recorded outputs through the bound buffers. Returns the largest error as a share of the tolerance.

    The rows of a recurrent policy are one sequence from its initial state, at which it is left again. Raises
    ParityError when one differs by more than its recorded tolerance (another processor or onnxruntime that
    computes something else), IntegrityError when the arrays are not golden outputs.
    """
    names = ("action", "raw") if runner.contract.recurrent is None else ("action", "raw", "h_out")
    try:
        inputs, eps = golden["observation"], golden.get("eps")
        expected = np.concatenate([golden[name] for name in names], axis=1)
        tolerance = np.concatenate([golden[f"{name}_tolerance"] for name in names], axis=1)
        outputs = run_in_order(runner, inputs, eps)
        share = np.abs(np.concatenate([outputs[name] for name in names], axis=1) - expected) / tolerance
    except (KeyError, IndexError, ValueError) as error:
        raise IntegrityError(f"{where}: golden outputs are malformed ({error}); export the policy again") from error
    if not (share <= 1.0).all():
        row = int(np.argmax(~(share <= 1.0).all(axis=1)))
        raise ParityError(
            f"{where}: golden row {row} comes out {float(np.max(share[row])):.3g} times its tolerance off; "
            "this onnxruntime computes another policy: install the version that the manifest names"
        )
    return float(share.max())


def run_in_order(runner: PolicyRunner, inputs: np.ndarray, eps: np.ndarray | None) -> dict[str, np.ndarray]:
    """`action` [N, A] and `raw` [N, A] of observations [N, O] run one by one; a recurrent policy's as one sequence.

    That also gives `h_out` [N, H], and begins and ends at the initial state.
    """
    recurrent = runner.contract.recurrent is not None
    if recurrent:
        runner.reset()
    rows = []
    for i, row in enumerate(inputs):
        outputs = runner.infer(row, None if eps is None else eps[i])
        rows.append((*outputs, runner.state) if recurrent else outputs)
    if recurrent:
        runner.reset()
    return {name: np.stack(values) for name, *values in zip(("action", "raw", "h_out"), *rows, strict=False)}
