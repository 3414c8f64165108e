"""Does the exported policy compute what the trained network computes?

Two occasions: before a bundle is written (`check_parity` against the network itself) and whenever it is opened
(`check_golden` against outputs recorded then; `verify` adds what a person wants to read). Bit equality would be the
wrong test: a network's own float32 differs from its float64 by as much as from onnxruntime. Allowed are

    raw:     1e-5 * (|raw| + its largest magnitude over all observations)
    action:  1e-5 * (|action| + its range) + what the error allowed in raw becomes behind tanh and scale

Measured: sound exports of nine architectures use 1 to 11 % of it; a wrong normaliser or bound exceeds it a
thousandfold.

Shape legend: N observations, O observation entries, A action entries.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from export.contract import Contract
from export.errors import ExportError, ParityError
from export.policy import read_policy
from export.runner import PolicyRunner, check_golden
from export.template import Template

Reference = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

TOLERANCE = 1e-5
OBSERVATIONS = 10_000
BOUND_OBSERVATIONS = 1_000
GOLDEN_ROWS = 64


def verify(path: str | Path) -> dict[str, Any]:
    """Check a bundle or a bare .onnx: checksums, contract against graph, golden outputs through the bound buffers.

    Returns a JSON-able report. Raises ExportError on the first thing that does not hold.
    """
    policy = read_policy(path)
    runner = PolicyRunner(policy)
    contract = policy.contract
    report: dict[str, Any] = {
        "path": str(path),
        "policy_id": contract.policy_id,
        "policy_version": contract.policy_version,
        "contract_sha256": contract.digest(),
        "observation_size": contract.observation_size,
        "action_size": contract.action_size,
        "stochastic": contract.stochastic.eps,
        "onnxruntime": onnxruntime.__version__,
        "checksums": "ok",
        "contract": "ok",
        "golden": None,
    }
    if policy.golden is not None and policy.manifest is not None:
        share = check_golden(runner, policy.golden, policy.source)
        report["golden"] = {"rows": len(policy.golden["observation"]), "share_of_tolerance": share}
        report["files"] = {name: entry["sha256"] for name, entry in policy.manifest["files"].items()}
    return report


def edge_observations(contract: Contract) -> np.ndarray:
    """Observations [N, O] float32 where an export would go wrong first: constant, tiny, huge, at the clip's edge."""
    normalizer, size = contract.normalizer, contract.observation_size
    mean = np.asarray(normalizer.mean)
    std = np.maximum(normalizer.std, normalizer.eps)
    # Without a clip a huge observation overflows in any float32 network, so there the edge is 1,000 deviations.
    reach = 1e3 if normalizer.clip is None else normalizer.clip
    rows = [mean, *(np.full(size, value) for value in (0.0, -0.0, 1.0, -1.0, 1e-3, 1e-30, 1e-42, -1e-42))]
    for sign in (1.0, -1.0):
        edge = (mean + sign * reach * std).astype(np.float32)
        rows += [
            mean + sign * std,
            edge,
            np.nextafter(edge, np.float32(np.inf)),
            np.nextafter(edge, np.float32(-np.inf)),
        ]
        rows += [
            mean + sign * 0.999 * reach * std,
            mean + sign * reach * std * np.where(np.arange(size) % 2, 1.0, -1.0),
        ]
        if normalizer.clip is not None:
            rows += [mean + sign * 1e2 * std, *(np.full(size, sign * value) for value in (1e3, 1e6, 1e30, 3.4e38))]
        for entry in range(0, size, max(1, size // 8)):
            alone = mean.copy()
            alone[entry] += sign * reach * std[entry]
            rows.append(alone)
    return np.asarray(rows, dtype=np.float32)


def parity_observations(
    contract: Contract, rng: np.random.Generator, observations: np.ndarray | None = None, count: int = OBSERVATIONS
) -> np.ndarray:
    """At least `count` observations [N, O] float32: the edge cases, up to half real ones, the rest drawn.

    Drawn ones are normal around the normaliser's mean with 1, 3 and 10 deviations. `observations` [n, O] are real ones.
    """
    edges = edge_observations(contract)
    real = np.empty((0, contract.observation_size), np.float32)
    if observations is not None and len(observations):
        if observations.ndim != 2 or observations.shape[1] != contract.observation_size:
            raise ExportError(f"observations are {list(observations.shape)}, the policy takes [N, {edges.shape[1]}]")
        finite = observations[np.isfinite(observations).all(axis=1)]
        real = finite[rng.permutation(len(finite))[: count // 2]].astype(np.float32)
    drawn = max(count - len(edges) - len(real), 0)
    std = np.maximum(contract.normalizer.std, contract.normalizer.eps)
    spread = np.asarray([1.0, 3.0, 10.0])[rng.integers(3, size=(drawn, 1))]
    noise = rng.standard_normal((drawn, contract.observation_size))
    random = (np.asarray(contract.normalizer.mean) + spread * std * noise).astype(np.float32)
    return np.concatenate([edges, real, random])


def check_parity(
    model: bytes, reference: Reference, rng: np.random.Generator, observations: np.ndarray | None = None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Compare an exported policy with the network that it came from, on at least 10,000 observations.

    `reference` maps observations [N, O] float32 to (action [N, A], raw [N, A]), the mean action in environment units.
    Every row runs as one batch, at least 1,000 (all edge cases among them) one by one through the bound buffers, and
    for a stochastic policy the noise is checked against its formula. Returns (report, golden arrays). Raises
    ParityError naming the worst row.
    """
    runner = PolicyRunner(model)
    contract = runner.contract
    inputs = parity_observations(contract, rng, observations)
    action, raw = _reference_outputs(reference, inputs, contract)
    span = np.asarray(contract.action.high) - np.asarray(contract.action.low)
    allowed = _tolerance(action, raw, contract)

    outputs = runner.infer(inputs)
    shares = [_compare(inputs, outputs, (action, raw), allowed, "as one batch")]

    edges = len(edge_observations(contract))
    some = np.unique(np.r_[:edges, rng.choice(len(inputs), BOUND_OBSERVATIONS, replace=False)])
    single = [np.stack(column) for column in zip(*(runner.infer(inputs[i]) for i in some), strict=True)]
    expected = (action[some], raw[some])
    shares.append(
        _compare(inputs[some], (single[0], single[1]), expected, (allowed[0][some], allowed[1][some]), "alone")
    )

    kept = slice(0, edges + GOLDEN_ROWS)
    golden = {"observation": inputs[kept], "action": action[kept], "raw": raw[kept]}
    golden |= {"action_tolerance": allowed[0][kept], "raw_tolerance": allowed[1][kept]}
    if contract.stochastic.eps:
        eps = rng.standard_normal(action.shape).astype(np.float32)
        eps[::2] = 0.0
        noisy = noisy_action(Template.from_bytes(model), raw, eps)
        shares.append(_compare(inputs, runner.infer(inputs, eps), (noisy, raw), allowed, "with noise"))
        golden |= {"eps": eps[kept], "action": noisy[kept]}
    report = {
        "observations": len(inputs),
        "one_by_one": len(some),
        "action_error": float(np.max(np.abs(outputs[0] - action) / span)),
        "raw_error": float(np.max(np.abs(outputs[1] - raw))),
        "tolerance": TOLERANCE,
        "share_of_tolerance": max(shares),
    }
    return report, golden


def noisy_action(template: Template, raw: np.ndarray, eps: np.ndarray) -> np.ndarray:
    """The stochastic action [N, A] in float64, from the formula: clamp(tanh(raw) + exp(log_std) eps), then scaled."""
    constants = template.contract.constants()
    std = np.exp(template.weight("log_std").astype(np.float64))
    unit = np.clip(np.tanh(raw.astype(np.float64)) + std * eps, -1.0, 1.0)
    scaled = unit * constants["action.scale"] + constants["action.shift"]
    return np.asarray(np.clip(scaled, constants["action.low"], constants["action.high"]))


def _reference_outputs(reference: Reference, inputs: np.ndarray, contract: Contract) -> tuple[np.ndarray, np.ndarray]:
    action, raw = (np.asarray(output) for output in reference(inputs.copy()))
    shape = (len(inputs), contract.action_size)
    if action.shape != shape or raw.shape != shape:
        raise ParityError(f"reference gives {action.shape} and {raw.shape} for {len(inputs)} observations, not {shape}")
    bad = ~(np.isfinite(action).all(axis=1) & np.isfinite(raw).all(axis=1))
    if bad.any():
        row = inputs[int(np.argmax(bad))]
        raise ParityError(f"the trained network itself gives NaN or infinity for observation {_show(row)}: train again")
    return action.astype(np.float32), raw.astype(np.float32)


def _tolerance(action: np.ndarray, raw: np.ndarray, contract: Contract) -> tuple[np.ndarray, np.ndarray]:
    span = np.asarray(contract.action.high) - np.asarray(contract.action.low)
    for_raw = TOLERANCE * (np.abs(raw) + np.maximum(1.0, np.abs(raw).max(axis=0)))
    slope = (1.0 - np.tanh(raw.astype(np.float64)) ** 2) * span / 2
    return TOLERANCE * (np.abs(action) + span) + slope * for_raw, for_raw


def _compare(
    inputs: np.ndarray,
    actual: tuple[np.ndarray, np.ndarray],
    expected: tuple[np.ndarray, np.ndarray],
    allowed: tuple[np.ndarray, np.ndarray],
    how: str,
) -> float:
    worst = 0.0
    for name, a, b, tolerance in zip(("action", "raw"), actual, expected, allowed, strict=True):
        share = np.abs(a.astype(np.float64) - b) / tolerance
        if not (share <= 1.0).all():
            row = int(np.argmax(np.nan_to_num(share, nan=np.inf).max(axis=1)))
            raise ParityError(
                f"export differs from the trained network: {name} run {how} for observation {_show(inputs[row])} is "
                f"{_show(a[row])}, the network gives {_show(b[row])}; check that the contract's normaliser and bounds "
                "are the ones it was trained with"
            )
        worst = max(worst, float(share.max(initial=0.0)))
    return worst


def _show(row: np.ndarray) -> str:
    text = ", ".join(f"{value:.7g}" for value in row[:4])
    return f"[{text}{', …' if len(row) > 4 else ''}]"
