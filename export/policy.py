"""The policy as files, reading side: a bundle folder, or one ONNX file with its checksum beside it.

A bundle holds `policy.onnx` and perhaps smaller variants of it, `golden.npz` (inputs with the outputs that the trained
network gave), `MODEL_CARD.md`, `manifest.json` (size and sha256 of those, and the contract), `manifest.sig` if signed,
and `manifest.sha256`. onnxruntime notices no flipped bit in a weight, so nothing is parsed before its checksum held,
and what is parsed are the very bytes that were hashed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from export.contract import FLOAT32, Contract
from export.errors import ContractError, ExportError, IntegrityError
from export.signing import check_signature
from export.template import Template

FORMAT = "slipway.bundle/1"
POLICY, GOLDEN, CARD, MANIFEST, SEAL = "policy.onnx", "golden.npz", "MODEL_CARD.md", "manifest.json", "manifest.sha256"
SIGNATURE = "manifest.sig"
# File of each variant. Static int8 and full fp16 are not among them: they round the normaliser, which ruins the policy.
VARIANTS = {FLOAT32: POLICY, "wfp16": "policy.wfp16.onnx", "int8": "policy.int8.onnx"}
# Dynamic int8 takes its scales from the whole batch, so an observation's action would depend on its neighbours.
MAX_BATCH: Mapping[str, int] = {"int8": 1}
AGAIN = "copy it again from where it was exported, or export it again"


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A policy whose bytes agree with their checksums and whose graph agrees with its contract."""

    source: str
    "Path that it was read from, or `bytes`."
    model: bytes
    "The ONNX file."
    contract: Contract
    "The contract inside it."
    variant: str = FLOAT32
    "Which of VARIANTS `model` is."
    golden: Mapping[str, np.ndarray] | None = None
    "Recorded inputs and outputs, with this variant's tolerances; None outside a bundle."
    manifest: Mapping[str, Any] | None = None
    "The manifest; None outside a bundle."


def read_policy(
    source: str | Path | bytes, *, variant: str | None = None, verify_key: str | Path | None = None
) -> Policy:
    """Read and check a bundle folder, a bare `NAME.onnx` with `NAME.onnx.sha256` beside it, or ONNX bytes.

    `variant` is one of VARIANTS, by default a bundle's float32 and whatever a file or bytes are. With `verify_key`, an
    Ed25519 public key file, only a bundle signed by its private key is accepted. Raises ExportError naming the file and
    what to do about it. Bytes have no checksum: whoever passes them vouches.
    """
    if variant is not None and variant not in VARIANTS:
        raise ExportError(f"variant {variant!r} does not exist: choose one of {', '.join(VARIANTS)}")
    if isinstance(source, bytes):
        return _check_bare(_parse(source, "bytes"), variant, verify_key)
    path = Path(source)
    if path.is_dir():
        return _read_bundle(path, variant or FLOAT32, verify_key)
    if not path.exists():
        raise ExportError(f"{path}: no such policy; give a bundle folder or a .onnx file")
    path = path.resolve()
    beside = path.with_name(path.name + ".sha256")
    if not beside.exists() and (path.parent / MANIFEST).exists():
        raise ExportError(f"{source}: is a part of the bundle {Path(source).parent}; give that")
    model = _read_file(path)
    _check_seal(_read_file(beside), model, beside, path.name)
    return _check_bare(_parse(model, str(path)), variant, verify_key)


def write_policy(path: Path, model: bytes) -> None:
    """Write `NAME.onnx` and `NAME.onnx.sha256` so that whoever sees the first also sees the second.

    Each appears whole (temporary file, rename). Not synced to disk: a publication that a power cut takes is published
    again. Raises ExportError if the path exists with other bytes or cannot be written.
    """
    if path.exists():
        if path.read_bytes() == model:
            return
        raise ExportError(f"{path}: exists with other content; a published version never changes, choose another name")
    for target, content in ((path.with_name(path.name + ".sha256"), seal(model, path.name)), (path, model)):
        partial = target.with_name(f".{target.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.partial")
        try:
            partial.write_bytes(content)
            partial.replace(target)
        except OSError as error:
            raise ExportError(f"{target}: cannot be written ({error.strerror}); free or repair the disk") from error
        finally:
            partial.unlink(missing_ok=True)


def _parse(model: bytes, where: str) -> Policy:
    template = Template.from_bytes(model, where=where)
    if template.variant not in VARIANTS:
        raise IntegrityError(f"{where}: variant {template.variant!r} is unknown to this slipway; upgrade it")
    return Policy(source=where, model=model, contract=template.contract, variant=template.variant)


def _check_bare(policy: Policy, variant: str | None, verify_key: str | Path | None) -> Policy:
    if verify_key is not None:
        raise IntegrityError(
            f"{policy.source}: not signed, only bundles are; give a bundle that was exported with --sign"
        )
    if variant not in (None, policy.variant):
        raise ExportError(
            f"{policy.source}: is the variant {policy.variant}, {variant} is wanted; give a bundle that holds it"
        )
    return policy


def _read_bundle(path: Path, variant: str, verify_key: str | Path | None) -> Policy:
    text = _read_file(path / MANIFEST)
    signature = _read_file(path / SIGNATURE) if os.path.lexists(path / SIGNATURE) else None
    found = _read_file(path / SEAL)
    if signature is not None and found.startswith(seal(text, MANIFEST)):
        _check_seal(found[len(seal(text, MANIFEST)) :], signature, path / SEAL, SIGNATURE)
    else:
        _check_seal(found, text, path / SEAL, MANIFEST)
    if verify_key is not None:
        check_signature(signature, text, verify_key, where=path / SIGNATURE)
    manifest, files = _manifest(text, path / MANIFEST)
    contents: dict[str, bytes] = {}
    for name, entry in files.items():
        content = _read_file(path / name)
        if len(content) != entry.get("size"):
            raise IntegrityError(f"{path / name}: has {len(content)} bytes, {entry.get('size')} were written; {AGAIN}")
        if hashlib.sha256(content).hexdigest() != entry.get("sha256"):
            raise IntegrityError(f"{path / name}: bytes differ from the checksum in {MANIFEST}; {AGAIN}")
        contents[name] = content
    shipped = manifest["variants"]
    if variant not in shipped:
        raise ExportError(
            f"{path}: has no variant {variant}, only {', '.join(sorted(shipped))}; export it with that one"
        )
    name = VARIANTS[variant]
    policy = _parse(contents[name], str(path / name))
    if policy.variant != variant:
        raise IntegrityError(f"{path / name}: is the variant {policy.variant}, not {variant}; export the policy again")
    if manifest.get("contract") != policy.contract.to_dict():
        raise ContractError(f"{path / MANIFEST}: its contract is not the one inside {name}; export the policy again")
    return Policy(
        source=str(path) if variant == FLOAT32 else str(path / name),
        model=policy.model,
        contract=policy.contract,
        variant=variant,
        golden=_read_golden(contents[GOLDEN], variant, path / GOLDEN),
        manifest=manifest,
    )


def _manifest(text: bytes, where: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Parse a manifest; every file that it lists must lie directly in the bundle."""
    try:
        manifest = json.loads(text)
        form, files, variants = manifest["format"], dict(manifest["files"]), dict(manifest["variants"])
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{where}: not a bundle manifest ({error!r}); export the policy again") from error
    if form != FORMAT:
        raise IntegrityError(f"{where}: bundle format {form!r} is unknown, this slipway reads {FORMAT!r}; upgrade it")
    for name, entry in files.items():
        if name in ("", ".", "..") or Path(name).name != name or "\\" in name or "\0" in name:
            raise IntegrityError(f"{where}: lists {name!r}, which lies outside the bundle; do not use this bundle")
        if not isinstance(entry, dict):
            raise IntegrityError(f"{where}: entry {name!r} has no size and sha256; export the policy again")
    unknown = variants.keys() - VARIANTS.keys()
    if unknown:
        raise IntegrityError(f"{where}: variant {', '.join(sorted(unknown))} is unknown to this slipway; upgrade it")
    missing = {POLICY, GOLDEN, CARD, *(VARIANTS[variant] for variant in variants)} - files.keys()
    if missing:
        raise IntegrityError(f"{where}: does not list {', '.join(sorted(missing))}; export the policy again")
    return manifest, files


def _read_golden(content: bytes, variant: str, where: Path) -> dict[str, np.ndarray]:
    """The arrays, those of `variant` (named `VARIANT.NAME`) in place of the float32 policy's."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            common = {name: arrays[name] for name in arrays.files if "." not in name}
            own = {name: f"{variant}.{name}" for name in ("action_tolerance", "raw_tolerance") if variant != FLOAT32}
            return common | {name: arrays[stored] for name, stored in own.items()}
    except (ValueError, OSError, EOFError, KeyError) as error:
        raise IntegrityError(f"{where}: not readable as arrays ({error}); export the policy again") from error


def _read_file(path: Path) -> bytes:
    """Read a regular file, never through a link: a link could leave the bundle."""
    try:
        # Non-blocking, so that a pipe under this name cannot hang the reader.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise IntegrityError(f"{path}: missing; {AGAIN}") from error
    except OSError as error:
        raise IntegrityError(f"{path}: cannot be read ({error.strerror}; links are not followed); {AGAIN}") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise IntegrityError(f"{path}: is not a regular file; {AGAIN}")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read()
    except OSError as error:
        raise IntegrityError(f"{path}: cannot be read ({error.strerror}); {AGAIN}") from error
    finally:
        os.close(descriptor)


def seal(content: bytes, name: str) -> bytes:
    """One line in the format of sha256sum."""
    return f"{hashlib.sha256(content).hexdigest()}  {name}\n".encode()


def _check_seal(found: bytes, content: bytes, where: Path, name: str) -> None:
    if found != seal(content, name):
        raise IntegrityError(f"{where.with_name(name)}: bytes differ from the checksum in {where.name}; {AGAIN}")
