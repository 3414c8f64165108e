"""onnxruntime sessions of a policy: one thread, no spinning; and a single run without what makes many fast."""

from __future__ import annotations

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from export.errors import IntegrityError
from export.policy import Policy

# onnxruntime's errors share no base but Exception.
ORT_ERRORS: tuple[type[Exception], ...] = (
    RuntimeError,
    ValueError,
    *(error for error in vars(ort_state).values() if isinstance(error, type) and issubclass(error, Exception)),
)


def open_session(policy: Policy, *, once: bool = False) -> onnxruntime.InferenceSession:
    """A session of one thread; `once` opens sooner and runs slower. IntegrityError where onnxruntime refuses it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    for kind in ("intra_op", "inter_op"):
        options.add_session_config_entry(f"session.{kind}.allow_spinning", "0")
    if once:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_prepacking", "1")
    try:
        return onnxruntime.InferenceSession(policy.model, options, providers=["CPUExecutionProvider"])
    except ORT_ERRORS as error:
        raise IntegrityError(
            f"{policy.source}: onnxruntime cannot open it ({error}); export the policy again"
        ) from error


def run_once(policy: Policy, observations: np.ndarray) -> list[np.ndarray]:
    """All outputs [B, ...] of a memoryless policy for observations [B, O] float32 without noise."""
    feed = {"observation": observations}
    if policy.contract.stochastic.eps:
        feed["eps"] = np.zeros((len(observations), policy.contract.noise_size), np.float32)
    return [np.asarray(output) for output in open_session(policy, once=True).run(None, feed)]
