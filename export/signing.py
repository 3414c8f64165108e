"""Ed25519 signatures over a bundle's manifest: who exported this? Checksums alone cannot answer that.

The manifest holds the sha256 of every file, so its 64 bytes of signature (`manifest.sig`) vouch for the whole bundle.
Needs the package `cryptography` (extra `sign`), loaded only when a key is given. `openssl` reads the same files:

    openssl genpkey -algorithm ed25519 -out key.pem && openssl pkey -in key.pem -pubout -out key.pub.pem
    openssl pkeyutl -verify -pubin -inkey key.pub.pem -rawin -in manifest.json -sigfile manifest.sig
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from export.errors import ExportError, IntegrityError


def sign(manifest: bytes, key: str | Path) -> bytes:
    """The signature, 64 bytes, of `manifest` with the private key in the PEM file `key`; equal input, equal bytes.

    Raises ExportError when the file is no unencrypted Ed25519 private key or `cryptography` is missing.
    """
    serialization, keys = _cryptography()
    loaded = _load(key, lambda pem: serialization.load_pem_private_key(pem, password=None))
    if not isinstance(loaded, keys.Ed25519PrivateKey):
        raise ExportError(f"{key}: is no Ed25519 private key; make one with `openssl genpkey -algorithm ed25519`")
    signature: bytes = loaded.sign(manifest)
    return signature


def check_signature(signature: bytes | None, manifest: bytes, key: str | Path, *, where: Path) -> None:
    """Raise IntegrityError unless `signature` is the one of `manifest` by the owner of the public key file `key`."""
    serialization, keys = _cryptography()
    loaded = _load(key, serialization.load_pem_public_key)
    if not isinstance(loaded, keys.Ed25519PublicKey):
        raise ExportError(f"{key}: is no Ed25519 public key; make it with `openssl pkey -in KEY -pubout`")
    if signature is None:
        raise IntegrityError(f"{where}: missing, so the bundle is not signed; export it with --sign")
    from cryptography.exceptions import InvalidSignature

    try:
        loaded.verify(signature, manifest)
    except InvalidSignature as error:
        raise IntegrityError(
            f"{where}: was not made with the private key that belongs to {key}; do not use this bundle"
        ) from error


def _load(key: str | Path, parse: Any) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        return parse(Path(key).read_bytes())
    except OSError as error:
        raise ExportError(f"{key}: key cannot be read ({error.strerror}); give a PEM file") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ExportError(f"{key}: holds no usable key ({error}); give an unencrypted Ed25519 key in PEM") from error


def _cryptography() -> tuple[ModuleType, ModuleType]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise ExportError("signatures need the package cryptography: pip install 'slipway[sign]'") from error
    return serialization, ed25519
