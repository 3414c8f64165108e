"""Writing a bundle: the parity gate first, then every file in a folder beside, then one rename.

Nothing is left behind by a failing gate, and a reader sees a whole bundle or none.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from export.contract import Contract
from export.errors import ExportError
from export.policy import CARD, FORMAT, GOLDEN, MANIFEST, POLICY, SEAL, Policy, read_policy, seal
from export.verify import Reference, check_parity


def write_bundle(
    path: str | Path,
    model: bytes,
    *,
    reference: Reference,
    rng: np.random.Generator,
    observations: np.ndarray | None = None,
    evaluation: Mapping[str, Any] | None = None,
) -> Policy:
    """Write and verify a bundle folder at `path` for ONNX bytes from `export_policy` or `Template.patch`.

    `reference` maps observations [N, O] float32 to (action [N, A], raw [N, A]) of the trained network: normaliser and
    scaling included, no noise. `rng` draws the observations to compare on; `observations` [n, O] adds real ones.
    `evaluation`, if measured, goes into the manifest as it is. The same arguments give the same bytes; an existing
    path with that content is left alone. Raises ParityError when export and network differ, ExportError when `path`
    exists with other content; in both cases nothing is written.
    """
    path = Path(path)
    parity, golden = check_parity(model, reference, rng, observations)
    files = _files(model, parity, golden, evaluation)
    if path.exists() or path.is_symlink():
        if _same(path, files):
            return read_policy(path)
        raise ExportError(f"{path}: exists with other content; choose another --out or remove it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.partial")
        try:
            partial.mkdir()
            for name, content in files.items():
                _write_synced(partial / name, content)
            _sync_folder(partial)
            read_policy(partial)
            partial.rename(path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        _sync_folder(path.parent)
    except OSError as error:
        raise ExportError(
            f"{path}: cannot be written ({error.strerror}); free the disk or choose another --out"
        ) from error
    return read_policy(path)


def model_card(contract: Contract, parity: Mapping[str, Any], evaluation: Mapping[str, Any] | None) -> str:
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
        f"{parity['observations']} observations against the trained network: largest action error "
        f"{parity['action_error']:.2g} of the range.",
    ]
    if evaluation is not None:
        lines += ["", "Evaluated:", "", *(f"- {key}: {value}" for key, value in evaluation.items())]
    return "\n".join(lines) + "\n"


def _files(
    model: bytes, parity: dict[str, Any], golden: dict[str, np.ndarray], evaluation: Mapping[str, Any] | None
) -> dict[str, bytes]:
    policy = read_policy(model)
    arrays = io.BytesIO()
    np.savez(arrays, **golden)  # type: ignore[arg-type]
    contents = {
        POLICY: model,
        GOLDEN: arrays.getvalue(),
        CARD: model_card(policy.contract, parity, evaluation).encode(),
    }
    manifest = {
        "format": FORMAT,
        "files": {
            name: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
            for name, content in contents.items()
        },
        "contract": policy.contract.to_dict(),
        "contract_sha256": policy.contract.digest(),
        "variants": {
            "float32": {
                "file": POLICY,
                "parity": parity,
                "evaluation": None if evaluation is None else dict(evaluation),
            }
        },
        "made_with": {"onnxruntime": onnxruntime.__version__, "numpy": np.__version__},
    }
    try:
        text = json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False).encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise ExportError(f"evaluation has a value without a JSON form ({error}): pass plain finite data") from error
    return {**contents, MANIFEST: text, SEAL: seal(text, MANIFEST)}


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
