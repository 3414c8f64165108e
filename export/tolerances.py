"""How far from the trained network's outputs an export may be, and what its action is under noise.

Shape legend: N observations, A action entries, H entries of a recurrent policy's state.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from export.contract import Contract
from export.template import Template

Arrays = Mapping[str, np.ndarray]

TOLERANCE = 1e-5


def noisy_action(template: Template, outputs: Arrays, eps: np.ndarray) -> np.ndarray:
    """The stochastic action [N, A] in float64, from the formula that the contract names, then scaled.

    `outputs` are the network's: `raw` [N, A], and `log_std` [N, A] where the noise is squashed.
    """
    constants = template.contract.constants()
    raw = outputs["raw"].astype(np.float64)
    if template.contract.stochastic.squashed:
        unit = np.tanh(raw + np.exp(outputs["log_std"].astype(np.float64)) * eps)
    else:
        std = np.exp(template.weight("log_std").astype(np.float64))
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
    if "log_std" not in outputs:
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


def _share_of_size(values: np.ndarray) -> np.ndarray:
    share: np.ndarray = TOLERANCE * (np.abs(values) + np.maximum(1.0, np.abs(values).max(axis=0)))
    return share
