"""Does the exported policy compute what the trained network computes? The gate before a bundle is written.

The network's outputs are made here, in the process that has it; the exported files are compared with them in a fresh
process without torch (`export.parity_check`), as a device would run them. Bit equality would be the wrong test: a
network's own float32 differs from its float64 by as much as from onnxruntime. Allowed for float32 are

    raw:     1e-5 * (|raw| + its largest magnitude over all observations)
    action:  1e-5 * (|action| + its range) + what the error allowed in raw becomes behind tanh and scale

Measured: sound exports of nine architectures use 1 to 11 % of it; a wrong normaliser or bound exceeds it a
thousandfold. Smaller variants are not held to it: their error is measured and stated, and LIMITS bounds it, as a share
of the action's range, on ordinary observations. Beyond its limit `wfp16`, which is always tried, is left out of the
bundle; `int8`, which was asked for, fails the export.

Of a policy with candidates their values are compared, too, and its action with that of the best; where several are the
best but for rounding, with the farthest of them (`near_ties` counts such observations).

A recurrent policy is compared from states that its network reaches, each row on its own, and then along one sequence,
whose rows are its golden outputs (`export.sequences`).

Shape legend: N observations, O observation entries, A action entries.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from export.contract import FLOAT32, Contract
from export.errors import ContractError, ExportError, ParityError
from export.golden import run_in_order
from export.parity_observations import OBSERVATIONS, edge_observations, parity_observations
from export.policy import MAX_BATCH, VARIANTS
from export.runner import PolicyRunner
from export.sequences import SEQUENCE_MARGIN, RecurrentReference, Reference, reachable_states, run_sequence
from export.template import Template
from export.tolerances import TOLERANCE, Arrays, candidate_cases, noisy_action, noisy_tolerance, tolerances

LIMITS: Mapping[str, float] = {"wfp16": 2e-4, "int8": 0.1}
BOUND_OBSERVATIONS = 1_000
GOLDEN_ROWS = 64
# A variant's golden tolerance is this times its largest measured error: rounding differs a little between processors.
VARIANT_MARGIN = 1.5
CASES = "cases.npz"


def make_cases(
    model: bytes,
    reference: Reference | RecurrentReference,
    rng: np.random.Generator,
    observations: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Observations with the trained network's outputs and how far from them the float32 export may be.

    `reference` maps observations [N, O] float32 to (action [N, A], raw [N, A]), the mean action in environment
    units, and where the noise is squashed to log_std [N, A] as well. `alone` are the rows to run one by one, all
    edge cases among them; `ordinary` [N] bool those a robot would see. For a stochastic policy `eps`, `noisy` and
    `noisy_tolerance` are noise and the action with it. A recurrent policy's reference maps (observations [N, O], h
    [N, H]) to (action, raw, h_out [N, H]); its cases also have `h_in`, `h_out`, and under `sequence.NAME` the
    outputs of the golden rows run in order. A policy with candidates of its own noise has a reference that gives
    (action, raw, log_std [N, A], q [N, K]), and what `candidate_cases` adds. Raises ParityError when the network
    gives NaN.
    """
    template = Template.from_bytes(model)
    contract = template.contract
    if contract.candidates is not None and contract.stochastic.eps:
        raise ContractError("contract candidates have no seed: a bundle's noise is within its graph; give them one")
    inputs, ordinary = parity_observations(contract, rng, observations)
    recurrent = contract.recurrent

    def step(rows: np.ndarray, states: np.ndarray | None) -> dict[str, np.ndarray]:
        return _reference_outputs(reference, rows, states, contract)

    states = None if recurrent is None else reachable_states(step, recurrent, inputs, rng)
    outputs = step(inputs, states)
    action, raw = outputs["action"], outputs["raw"]
    edges = len(edge_observations(contract))
    cases = {
        "observation": inputs,
        "ordinary": ordinary,
        "alone": np.unique(np.r_[:edges, rng.choice(len(inputs), BOUND_OBSERVATIONS, replace=False)]),
        "golden": np.arange(edges + GOLDEN_ROWS),
        "action": action,
        "raw": raw,
        **tolerances(outputs, contract),
    }
    if contract.candidates is not None:
        cases |= candidate_cases(template, outputs, cases)
    if contract.stochastic.eps:
        eps = rng.standard_normal(action.shape).astype(np.float32)
        eps[::2] = 0.0
        cases |= {"eps": eps, "noisy": noisy_action(template, outputs, eps)}
        cases["noisy_tolerance"] = noisy_tolerance(outputs, eps, cases, contract)
    if recurrent is not None and states is not None:
        cases |= {"h_in": states, "h_out": outputs["h_out"]}
        sequence = run_sequence(step, recurrent, inputs[cases["golden"]])
        allowed = tolerances(sequence, contract)
        if "eps" in cases:
            sequence["action"] = noisy_action(template, sequence, cases["eps"][cases["golden"]])
        sequence |= {name: SEQUENCE_MARGIN * tolerance for name, tolerance in allowed.items()}
        cases |= {f"sequence.{name}": values for name, values in sequence.items()}
    return cases


def compare(runner: PolicyRunner, cases: Arrays) -> dict[str, Any]:
    """Compare an opened policy with the network's outputs: as one batch, one by one, and with noise.

    A variant that takes one observation at a time runs all of them one by one. Returns a JSON-able report. Raises
    ParityError naming the worst row when float32 leaves its tolerance, or any variant gives NaN or leaves its bounds.
    """
    contract, variant = runner.contract, runner.policy.variant
    one_by_one = variant in MAX_BATCH
    everything = np.arange(len(cases["observation"]))
    runs: list[tuple[str, np.ndarray, str, np.ndarray | None]] = [
        ("alone", everything if one_by_one else cases["alone"], "action", None)
    ]
    if not one_by_one:
        runs.insert(0, ("as one batch", everything, "action", None))
    if "eps" in cases:
        runs.append(("with noise", everything, "noisy", cases["eps"]))
    span = np.asarray(contract.action.high) - np.asarray(contract.action.low)
    shares, worst = [], {"action": np.zeros(len(span)), "raw": np.zeros(len(span))}
    if contract.recurrent is not None:
        worst["h_out"] = np.zeros(contract.recurrent.size)
    ordinary_error = 0.0
    for how, rows, action, eps in runs:
        inputs, states = cases["observation"][rows], cases["h_in"][rows] if "h_in" in cases else None
        outputs = _outputs(runner, inputs, states, eps, alone=one_by_one or how == "alone")
        as_case = {name: action if name == "action" else name for name in outputs}
        expected = {name: cases[case][rows] for name, case in as_case.items()}
        allowed = {name: cases[f"{case}_tolerance"][rows] for name, case in as_case.items()}
        if variant == FLOAT32:
            shares.append(_check(inputs, outputs, expected, allowed, how))
        _check_sound(inputs, outputs, contract, f"{variant} run {how}")
        errors = {name: np.abs(outputs[name].astype(np.float64) - expected[name]) for name in outputs}
        worst |= {name: np.maximum(worst.get(name, 0.0), errors[name].max(axis=0)) for name in outputs}
        within = errors["action"][cases["ordinary"][rows]] / span
        ordinary_error = max(ordinary_error, float(within.max(initial=0.0)))
    if contract.recurrent is not None:
        rows = cases["golden"]
        inputs, eps = cases["observation"][rows], cases["eps"][rows] if "eps" in cases else None
        outputs = run_in_order(runner, inputs, eps)
        expected = {name: cases[f"sequence.{name}"] for name in outputs}
        allowed = {name: cases[f"sequence.{name}_tolerance"] for name in outputs}
        shares.append(_check(inputs, outputs, expected, allowed, "in sequence"))
        _check_sound(inputs, outputs, contract, f"{variant} run in sequence")
    report: dict[str, Any] = {
        "observations": len(everything),
        "one_by_one": len(everything) if one_by_one else len(cases["alone"]),
        "largest_batch": 1 if one_by_one else min(len(everything), _block(contract)),
        "ordinary": int(cases["ordinary"].sum()),
        "action_error": float(np.max(worst["action"] / span)),
        "action_error_ordinary": ordinary_error,
        "action_error_units": worst["action"].tolist(),
        "raw_error": float(worst["raw"].max()),
        "raw_error_entries": worst["raw"].tolist(),
    }
    if "near_ties" in cases:
        report |= {"q_error": float(worst["q"].max()), "near_ties": int(cases["near_ties"].sum())}
    if contract.recurrent is not None:
        report |= {"sequence": len(cases["golden"]), "state_error": float(worst["h_out"].max())}
    return report | ({"tolerance": TOLERANCE, "share_of_tolerance": max(shares)} if shares else {})


def check_parity(models: Mapping[str, bytes], cases: Arrays) -> dict[str, dict[str, Any]]:
    """`compare` for every variant, in a fresh process in which neither torch nor onnx can be imported.

    Returns the reports by variant. Raises ParityError as `compare` does, ExportError when the process fails otherwise.
    """
    root = str(Path(__file__).resolve().parent.parent)
    paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    try:
        with tempfile.TemporaryDirectory(prefix="slipway-parity-") as folder:
            np.savez(Path(folder) / CASES, **cases)  # type: ignore[arg-type]
            for variant, model in models.items():
                (Path(folder) / VARIANTS[variant]).write_bytes(model)
            done = subprocess.run(
                [sys.executable, "-P", "-m", "export.parity_check", folder, *models],
                capture_output=True,
                text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            )
    except OSError as error:
        raise ExportError(
            f"parity gate's process cannot start ({error}); free the temporary disk and export again"
        ) from error
    try:
        said = json.loads(done.stdout)
    except ValueError as error:
        last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise ExportError(f"parity gate's process failed ({last}); mend the installation and export again") from error
    if "refused" in said:
        raise ParityError(said["refused"])
    reports: dict[str, dict[str, Any]] = said
    return reports


def beyond_limit(variant: str, report: Mapping[str, Any]) -> bool:
    """Whether a variant is to be left out. Raises ParityError for one that was asked for and is useless."""
    error, limit = report["action_error_ordinary"], LIMITS.get(variant, np.inf)
    if error > limit and variant == "int8":
        raise ParityError(
            f"variant int8 moves an action by {error:.2g} of its range on ordinary observations, more than {limit:g}: "
            "export without it"
        )
    return bool(error > limit)


def golden_of(cases: Arrays, reports: Mapping[str, Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """The rows that a bundle keeps, with the network's outputs and every variant's tolerance (`VARIANT.NAME`).

    A recurrent policy's are one sequence in order, with `h_out` after each row; it has no variants.
    """
    rows = cases["golden"]
    if "h_in" in cases:
        prefix = "sequence."
        golden = {name.removeprefix(prefix): values for name, values in cases.items() if name.startswith(prefix)}
        golden |= {name: cases[name][rows] for name in ("observation", "eps") if name in cases}
        return golden
    golden = {name: cases[name][rows] for name in ("observation", "action", "raw", "action_tolerance", "raw_tolerance")}
    if "eps" in cases:
        golden |= {"eps": cases["eps"][rows], "action": cases["noisy"][rows]}
        golden["action_tolerance"] = cases["noisy_tolerance"][rows]
    for variant, report in reports.items():
        if variant != FLOAT32:
            for name, measured in (("action", report["action_error_units"]), ("raw", report["raw_error_entries"])):
                tolerance = golden[f"{name}_tolerance"] + VARIANT_MARGIN * np.asarray(measured)
                golden[f"{variant}.{name}_tolerance"] = tolerance
    return golden


def _outputs(
    runner: PolicyRunner, inputs: np.ndarray, states: np.ndarray | None, eps: np.ndarray | None, *, alone: bool
) -> dict[str, np.ndarray]:
    """`action`, `raw`, of a recurrent policy `h_out`: as one batch or one by one through the bound buffers.

    A batch of a policy with candidates, which makes many rows of each, goes in blocks and also gives `q`.
    """

    def run(rows: Any) -> tuple[np.ndarray, ...]:
        noise = None if eps is None else eps[rows]
        if states is None:
            return runner.infer(inputs[rows], noise)
        return runner.infer_with_state(inputs[rows], states[rows], noise)

    if not alone and runner.contract.candidates is not None:
        block = _block(runner.contract)
        parts = [runner.infer_candidates(inputs[at : at + block]) for at in range(0, len(inputs), block)]
        return {
            name: np.concatenate(p) for name, p in zip(("action", "raw", "q"), zip(*parts, strict=True), strict=True)
        }
    if alone:
        outputs = tuple(np.stack(values) for values in zip(*(run(i) for i in range(len(inputs))), strict=True))
    else:
        outputs = run(slice(None))
    return dict(zip(("action", "raw", "h_out"), outputs, strict=False))


def _block(contract: Contract) -> int:
    """Observations of one run of the graph."""
    return sys.maxsize if contract.candidates is None else max(1, OBSERVATIONS // contract.candidates.count)


def _reference_outputs(
    reference: Reference | RecurrentReference, inputs: np.ndarray, states: np.ndarray | None, contract: Contract
) -> dict[str, np.ndarray]:
    given: tuple[np.ndarray, ...]
    if states is None or contract.recurrent is None:
        given = cast(Reference, reference)(inputs.copy())
        sizes = {"action": contract.action_size, "raw": contract.action_size}
        if contract.stochastic.squashed or contract.candidates is not None:
            sizes["log_std"] = contract.action_size
        if contract.candidates is not None:
            sizes["q"] = contract.candidates.count
    else:
        given = cast(RecurrentReference, reference)(inputs.copy(), states.copy())
        sizes = {"action": contract.action_size, "raw": contract.action_size, "h_out": contract.recurrent.size}
    outputs = [np.asarray(output) for output in given]
    shapes = [(len(inputs), size) for size in sizes.values()]
    if [output.shape for output in outputs] != shapes:
        found = " and ".join(str(output.shape) for output in outputs)
        wanted = shapes[0] if len(set(shapes)) == 1 else " and ".join(map(str, shapes))
        raise ParityError(f"reference gives {found} for {len(inputs)} observations, not {wanted}")
    bad = ~np.all([np.isfinite(output).all(axis=1) for output in outputs], axis=0)
    if bad.any():
        row = inputs[int(np.argmax(bad))]
        raise ParityError(f"the trained network itself gives NaN or infinity for observation {_show(row)}: train again")
    return {name: output.astype(np.float32) for name, output in zip(sizes, outputs, strict=True)}


def _check(inputs: np.ndarray, actual: Arrays, expected: Arrays, allowed: Arrays, how: str) -> float:
    worst = 0.0
    for name, a in actual.items():
        b = expected[name]
        share = np.abs(a.astype(np.float64) - b) / allowed[name]
        if not (share <= 1.0).all():
            row = int(np.argmax(np.nan_to_num(share, nan=np.inf).max(axis=1)))
            raise ParityError(
                f"export differs from the trained network: {name} run {how} for observation {_show(inputs[row])} is "
                f"{_show(a[row])}, the network gives {_show(b[row])}; check that the contract's normaliser and bounds "
                "are the ones it was trained with"
            )
        worst = max(worst, float(share.max(initial=0.0)))
    return worst


def _check_sound(inputs: np.ndarray, outputs: Arrays, contract: Contract, how: str) -> None:
    constants = contract.constants()
    within = (outputs["action"] >= constants["action.low"]) & (outputs["action"] <= constants["action.high"])
    sound = (within & np.isfinite(outputs["raw"])).all(axis=1)
    if not sound.all():
        row = int(np.argmin(sound))
        raise ParityError(
            f"variant {how} gives {_show(outputs['action'][row])} for observation {_show(inputs[row])}, "
            "NaN or outside the bounds; export without it"
        )


def _show(row: np.ndarray) -> str:
    text = ", ".join(f"{value:.7g}" for value in row[:4])
    return f"[{text}{', …' if len(row) > 4 else ''}]"
