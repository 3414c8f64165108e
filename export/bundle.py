"""Writing a bundle: the parity gate first, then every file in a folder beside, then one rename.

Nothing is left behind by a failing gate, and a reader sees a whole bundle or none.

Shape legend: N observations, n real ones among them, O observation entries, A action entries.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from export.contract import FLOAT32, Contract
from export.errors import ContractError, ExportError
from export.parity import LIMITS, beyond_limit, check_parity, golden_of, make_cases
from export.policy import (
    CARD,
    FORMAT,
    GOLDEN,
    MANIFEST,
    MAX_BATCH,
    SEAL,
    SIGNATURE,
    VARIANTS,
    Policy,
    read_policy,
    seal,
)
from export.runner import PolicyRunner
from export.sequences import RecurrentReference, Reference
from export.signing import sign
from export.template import Template
from export.tolerances import Arrays


def write_bundle(
    path: str | Path,
    model: bytes,
    *,
    reference: Reference | RecurrentReference,
    rng: np.random.Generator,
    observations: np.ndarray | None = None,
    evaluation: Mapping[str, Any] | None = None,
    variants: Mapping[str, bytes] | None = None,
    evaluate: Callable[[PolicyRunner], Mapping[str, Any]] | None = None,
    sign_key: str | Path | None = None,
) -> Policy:
    """Write and verify a bundle folder at `path` for ONNX bytes from `export_policy` or `Template.patch`.

    `reference` maps observations [N, O] float32 to (action [N, A], raw [N, A]) of the trained network: normaliser and
    scaling included, no noise; a recurrent policy's maps (observations, h [N, H]) to (action, raw, h_out [N, H]).
    `rng` draws the observations to compare on; `observations` [n, O] adds real ones.
    `evaluation`, if measured, goes into the manifest as it is; `evaluate`, if given, scores every variant instead.
    `variants` are smaller forms of the same policy by name (`export.quantize` makes them), shipped with their measured
    error; `wfp16` is left out, and the manifest says so, where that is above its limit. `sign_key` is the PEM file of
    an Ed25519 private key. The same arguments give the same bytes; an existing path with that content is left alone.
    Raises ParityError when export and network differ or int8 is useless, ExportError when `path` exists with other
    content or the key cannot sign; in each case nothing is written.
    """
    path = Path(path)
    # Both are refused before the minutes that the gate may take.
    if sign_key is not None:
        sign(b"", sign_key)
    if bundled_contract(path) != Template.from_bytes(model).contract.to_dict():
        refuse_other_content(path)
    models = {FLOAT32: model, **(variants or {})}
    cases = make_cases(model, reference, rng, observations)
    reports = check_parity(models, cases)
    left_out = {}
    for variant in [name for name, report in reports.items() if beyond_limit(name, report)]:
        left_out[variant] = {"limit": LIMITS[variant], "parity": reports.pop(variant)}
        del models[variant]
    scores = {variant: evaluate(PolicyRunner(data)) for variant, data in models.items()} if evaluate else {}
    if evaluation is not None:
        scores.setdefault(FLOAT32, evaluation)
    files = _files(models, cases, reports, left_out, scores, sign_key)
    if _same(path, files):
        return read_policy(path)
    refuse_other_content(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.partial")
        try:
            partial.mkdir()
            for name, content in files.items():
                _write_synced(partial / name, content)
            _sync_folder(partial)
            for variant in models:
                PolicyRunner(partial, variant=variant)  # also the golden outputs, as whoever opens it will
            partial.rename(path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        _sync_folder(path.parent)
    except OSError as error:
        raise ExportError(
            f"{path}: cannot be written ({error.strerror}); free the disk or choose another --out"
        ) from error
    return read_policy(path)


def bundled_contract(path: Path) -> dict[str, Any] | None:
    """The contract in the manifest of the bundle `path`, unchecked; None where there is no such file."""
    try:
        contract = json.loads((path / MANIFEST).read_bytes())["contract"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return contract if isinstance(contract, dict) else None


def refuse_other_content(path: Path) -> None:
    """ExportError where something lies at `path`."""
    if path.exists() or path.is_symlink():
        raise ExportError(f"{path}: exists with other content; choose another --out or remove it")


def model_card(contract: Contract, variants: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown that tells a person what the contract tells a program."""
    action, control = contract.action, contract.control
    lines = [
        f"# {contract.policy_id}",
        "",
        f"{contract.algorithm or 'Unknown algorithm'}, run `{contract.run or '-'}`, step {contract.step}, "
        f"version {contract.policy_version}. Commit `{contract.git.commit or 'unknown'}`"
        + (" with local changes." if contract.git.dirty else "."),
        "",
        "    slipway verify THIS_FOLDER",
        "    slipway deploy THIS_FOLDER --env ID --rate HZ",
        "",
        f"## Observation: float32 [batch, {contract.observation_size}]",
        "",
        "| term | entries | unit | measured as |",
        "|---|---|---|---|",
        *(
            f"| {term.name} | {term.offset}:{term.offset + term.length} | {term.unit or '-'} | {term.dtype} |"
            for term in contract.observation
        ),
        "",
        f"Normalised inside the graph with {contract.normalizer.count} observations' mean and deviation, "
        f"clipped at {contract.normalizer.clip}. Feed raw observations.",
        "",
        f"## Action: float32 [batch, {contract.action_size}]",
        "",
        "| entry | low | high | unit |",
        "|---|---|---|---|",
        *(
            f"| {name} | {low!r} | {high!r} | {unit or '-'} |"
            for name, low, high, unit in zip(action.names, action.low, action.high, action.units, strict=True)
        ),
        "",
        "Bounds are applied inside the graph. "
        + (f"Noise enters as the input `eps`: {contract.stochastic.form}." if contract.stochastic.eps else "No noise."),
        *_choice(contract),
        *_memory(contract),
        "",
        "## Control",
        "",
        f"Rate {control.hz} Hz; observation at most {control.max_obs_age_ms} ms old; step within "
        f"{control.deadline_ms} ms; on a fault: {control.on_fault} ({control.hold_steps} steps), then safe stop.",
        "",
        "## Trained on and for",
        "",
        f"Data: {', '.join(contract.dataset) or 'unknown'}. Environment: {(contract.env or {}).get('id', 'none')}. "
        f"Robot: {contract.robot.model or 'none'} {contract.robot.revision or ''}".rstrip()
        + ".",
        "",
        "## Checked",
        "",
        f"{variants[FLOAT32]['parity']['observations']} observations against the trained network. Largest action errors"
        " in shares of the action's range, on ordinary observations and on all, extremes included:",
        "",
        "| variant | file | bytes | batch | ordinary | all |",
        "|---|---|---|---|---|---|",
        *(
            f"| {name} | {entry['file']} | {entry['size']} | {entry['max_batch'] or 'any'} "
            f"| {entry['parity']['action_error_ordinary']:.2g} | {entry['parity']['action_error']:.2g} |"
            for name, entry in variants.items()
        ),
    ]
    for name, entry in variants.items():
        if entry["evaluation"] is not None:
            lines += [
                "",
                f"Evaluated, {name}:",
                "",
                *(f"- {key}: {value}" for key, value in entry["evaluation"].items()),
            ]
    return "\n".join(lines) + "\n"


def _choice(contract: Contract) -> list[str]:
    candidates = contract.candidates
    if candidates is None:
        return []
    return [
        "",
        f"Of {candidates.count} candidates, the actor's mean and actions under noise that is part of the graph (seed "
        f"{candidates.seed}), the one that the critics in the graph value most: the same observation, the same action.",
    ]


def _memory(contract: Contract) -> list[str]:
    if contract.recurrent is None:
        return []
    return [
        "",
        f"## State: float32 [batch, {contract.recurrent.size}]",
        "",
        "Recurrent: the input `h_in` is the output `h_out` of the step before, and at the start of an episode the "
        "contract's `recurrent.initial`. The runner keeps it; call `reset` before each episode.",
    ]


def _files(
    models: Mapping[str, bytes],
    cases: Arrays,
    reports: Mapping[str, dict[str, Any]],
    left_out: Mapping[str, Any],
    scores: Mapping[str, Mapping[str, Any]],
    sign_key: str | Path | None,
) -> dict[str, bytes]:
    """Name and content of every file; the seal, which makes the folder a bundle, comes last."""
    contract = read_policy(models[FLOAT32]).contract
    for variant, model in models.items():
        if read_policy(model, variant=variant).contract != contract:
            raise ContractError(f"variant {variant} carries another contract than the policy: make it from the policy")
    arrays = io.BytesIO()
    np.savez(arrays, **golden_of(cases, reports))  # type: ignore[arg-type]
    variants = {
        variant: {
            "file": VARIANTS[variant],
            "size": len(model),
            "max_batch": MAX_BATCH.get(variant),
            "parity": reports[variant],
            "evaluation": dict(scores[variant]) if variant in scores else None,
        }
        for variant, model in models.items()
    }
    contents = {VARIANTS[variant]: model for variant, model in models.items()}
    contents |= {GOLDEN: arrays.getvalue(), CARD: model_card(contract, variants).encode()}
    manifest = {
        "format": FORMAT,
        "files": {
            name: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
            for name, content in contents.items()
        },
        "contract": contract.to_dict(),
        "contract_sha256": contract.digest(),
        "variants": variants,
        "left_out": dict(left_out),
        "made_with": {"onnxruntime": onnxruntime.__version__, "numpy": np.__version__},
    }
    try:
        text = json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False).encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise ExportError(f"evaluation has a value without a JSON form ({error}): pass plain finite data") from error
    if sign_key is None:
        return {**contents, MANIFEST: text, SEAL: seal(text, MANIFEST)}
    signature = sign(text, sign_key)
    both = seal(text, MANIFEST) + seal(signature, SIGNATURE)
    return {**contents, MANIFEST: text, SIGNATURE: signature, SEAL: both}


def _same(path: Path, files: Mapping[str, bytes]) -> bool:
    return all((path / name).is_file() and (path / name).read_bytes() == content for name, content in files.items())


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
