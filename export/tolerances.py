"""How far from the trained network's outputs an export may be, and what its action is under noise.

Shape legend: N observations, A action entries, H entries of a recurrent policy's state, K candidates.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from export.contract import Contract
from export.contract_parts import SQUASHED_NOISE
from export.template import Template

Arrays = Mapping[str, np.ndarray]

TOLERANCE = 1e-5


def noisy_action(template: Template, outputs: Arrays, eps: np.ndarray) -> np.ndarray:
    """The stochastic action [N, A] in float64, from the formula that the contract names, then scaled.

    `outputs` are the network's: `raw` [N, A], and `log_std` [N, A] where that is not a weight of its own.
    """
    constants = template.contract.constants()
    raw = outputs["raw"].astype(np.float64)
    if template.contract.stochastic.form == SQUASHED_NOISE:
        unit = np.tanh(raw + np.exp(outputs["log_std"].astype(np.float64)) * eps)
    else:
        log_std = outputs["log_std"] if "log_std" in outputs else template.weight("log_std")
        std = np.exp(log_std.astype(np.float64))
        unit = np.clip(np.tanh(raw) + std * eps, -1.0, 1.0)
    scaled = unit * constants["action.scale"] + constants["action.shift"]
    return np.asarray(np.clip(scaled, constants["action.low"], constants["action.high"]))


def tolerances(outputs: Arrays, contract: Contract) -> dict[str, np.ndarray]:
    """`NAME_tolerance` of each output: a share of its size, and for the action what raw's becomes behind tanh."""
    action, raw = outputs["action"], outputs["raw"]
    span = np.asarray(contract.action.high) - np.asarray(contract.action.low)
    for_raw = _share_of_size(raw)
    slope = (1.0 - np.tanh(raw.astype(np.float64)) ** 2) * span / 2
    tolerances = {"action_tolerance": TOLERANCE * (np.abs(action) + span) + slope * for_raw, "raw_tolerance": for_raw}
    return tolerances | ({"h_out_tolerance": _share_of_size(outputs["h_out"])} if "h_out" in outputs else {})


def noisy_tolerance(outputs: Arrays, eps: np.ndarray, cases: Arrays, contract: Contract) -> np.ndarray:
    """Of the action with noise: as without where the noise is added behind tanh, else what it becomes behind tanh."""
    allowed = cases["action_tolerance"]
    if contract.stochastic.form != SQUASHED_NOISE:
        return allowed
    log_std = outputs["log_std"].astype(np.float64)
    noise = np.exp(log_std) * eps
    before = outputs["raw"].astype(np.float64) + noise
    error = cases["raw_tolerance"] + np.abs(noise) * _share_of_size(log_std)
    # tanh is steepest at the point nearest to zero that the error reaches.
    nearest = np.maximum(np.abs(before) - error, 0.0)
    span = np.asarray(contract.action.high) - np.asarray(contract.action.low)
    slope = (1.0 - np.tanh(nearest) ** 2) * span / 2
    tolerance: np.ndarray = TOLERANCE * (np.abs(cases["noisy"]) + span) + slope * error
    return tolerance


def candidate_cases(template: Template, outputs: Arrays, allowed: Arrays) -> dict[str, np.ndarray]:
    """What a policy with candidates adds to its cases: `q`, the tolerances of it and of the action, near ties.

    `outputs` are the network's `action`, `raw`, `log_std` [N, A] and `q` [N, K], `allowed` what `tolerances` gave.
    Where candidates are as good as the best but for rounding (`near_ties` [N] bool), any of them may be taken.
    """
    noise_KA = template.weight("network.noise").reshape(outputs["q"].shape[1], -1)
    actions_KNA = np.stack([noisy_action(template, outputs, eps) for eps in noise_KA])
    allowed_KNA = np.stack([
        noisy_tolerance(outputs, eps, {**allowed, "noisy": actions}, template.contract)
        for eps, actions in zip(noise_KA, actions_KNA, strict=True)
    ])  # fmt: skip
    q = outputs["q"].astype(np.float64)
    size = np.abs(q).max(axis=1, keepdims=True)
    # By the row's own size, and for values that cancel by a common one: one extreme row must not excuse all others.
    q_tolerance = np.broadcast_to(TOLERANCE * (size + np.maximum(1.0, np.median(size))), q.shape)
    good_KN1 = (q + 2.0 * q_tolerance >= q.max(axis=1, keepdims=True)).T[..., None]
    # From the best by the gate's own account, not from the reference's action, whose error would else excuse itself.
    best_NA = actions_KNA[q.argmax(axis=1), np.arange(len(q))]
    distance_KNA = np.where(good_KN1, np.abs(actions_KNA - best_NA), 0.0)
    return {
        "q": outputs["q"],
        "q_tolerance": q_tolerance,
        "action_tolerance": np.where(good_KN1, allowed_KNA, 0.0).max(axis=0) + distance_KNA.max(axis=0),
        "near_ties": (distance_KNA > allowed_KNA).any(axis=(0, 2)),
    }


def _share_of_size(values: np.ndarray) -> np.ndarray:
    share: np.ndarray = TOLERANCE * (np.abs(values) + np.maximum(1.0, np.abs(values).max(axis=0)))
    return share
