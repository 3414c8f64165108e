"""With a public key only its owner's bundles open; a signature costs nobody else anything."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from export.bundle import write_bundle
from export.errors import ExportError, IntegrityError
from export.policy import seal, write_policy
from export.runner import PolicyRunner
from export.signing import sign
from export.verify import verify
from tests.export.keys import make_keys
from tests.export.policies import NumpyPolicy, make_contract, make_network


@pytest.fixture
def signed(pristine_whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine_whole, tmp_path / "signed"))


def test_a_signed_bundle_opens_with_its_owners_key_and_without_any(
    pristine_whole: Path, keys: tuple[Path, Path]
) -> None:
    assert verify(pristine_whole, verify_key=keys[1])["signature"] == "ok"
    assert "not checked" in verify(pristine_whole)["signature"]
    for variant in ("float32", "wfp16", "int8"):
        PolicyRunner(pristine_whole, variant=variant, verify_key=keys[1])


def test_unsigned_bundles_files_and_bytes_are_refused_where_a_key_is_given(
    pristine_bundle: Path, model: bytes, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    write_policy(tmp_path / "bare.onnx", model)
    for unsigned in (pristine_bundle, tmp_path / "bare.onnx", model):
        with pytest.raises(IntegrityError, match="not signed"):
            PolicyRunner(unsigned, verify_key=keys[1])
    assert verify(pristine_bundle)["signature"] == "none"


def test_another_owners_signature_is_refused(signed: Path, tmp_path: Path) -> None:
    _, stranger = make_keys(tmp_path)
    with pytest.raises(IntegrityError, match="not made with the private key"):
        verify(signed, verify_key=stranger)


def test_an_attacker_who_rewrites_every_checksum_is_noticed(signed: Path, keys: tuple[Path, Path]) -> None:
    manifest = json.loads((signed / "manifest.json").read_text())
    manifest["made_with"]["numpy"] = "0"
    text = json.dumps(manifest).encode()
    (signed / "manifest.json").write_bytes(text)
    signature = (signed / "manifest.sig").read_bytes()
    (signed / "manifest.sha256").write_bytes(seal(text, "manifest.json") + seal(signature, "manifest.sig"))
    PolicyRunner(signed)
    with pytest.raises(IntegrityError, match="not made with the private key"):
        PolicyRunner(signed, verify_key=keys[1])
    (signed / "manifest.sig").unlink()
    (signed / "manifest.sha256").write_bytes(seal(text, "manifest.json"))
    with pytest.raises(IntegrityError, match="not signed"):
        PolicyRunner(signed, verify_key=keys[1])


@pytest.mark.parametrize("content", [b"", b"\0" * 64, b"too long" * 20])
def test_a_damaged_or_lost_signature_is_refused_even_without_a_key(signed: Path, content: bytes) -> None:
    (signed / "manifest.sig").write_bytes(content)
    with pytest.raises(IntegrityError, match=r"manifest\.sig: bytes differ"):
        PolicyRunner(signed)
    (signed / "manifest.sig").unlink()
    with pytest.raises(IntegrityError, match=r"manifest\.sha256"):
        PolicyRunner(signed)


def test_files_that_are_no_key_are_refused_and_nothing_is_written(
    model: bytes, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    bad = tmp_path / "bad"
    bad.mkdir()
    other = generate_private_key(SECP256R1())
    locked = Ed25519PrivateKey.generate()
    (bad / "other").write_bytes(other.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()))
    (bad / "locked").write_bytes(
        locked.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.BestAvailableEncryption(b"x"))
    )
    (bad / "text").write_text("no key")
    reference = NumpyPolicy(make_network(), make_contract())
    for key in (bad / "other", bad / "locked", bad / "text", bad / "missing", bad, keys[1]):
        with pytest.raises(ExportError, match="key") as error:
            write_bundle(tmp_path / "b", model, reference=reference, rng=np.random.default_rng(0), sign_key=key)
        assert "\n" not in str(error.value) and str(key) in str(error.value)
    assert not (tmp_path / "b").exists()


def test_a_private_key_does_not_verify(pristine_whole: Path, keys: tuple[Path, Path]) -> None:
    with pytest.raises(ExportError, match="key"):
        PolicyRunner(pristine_whole, verify_key=keys[0])


def test_without_cryptography_the_extra_is_named(
    pristine_whole: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "cryptography"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(ExportError, match=r"pip install 'slipway\[sign\]'"):
        PolicyRunner(pristine_whole, verify_key=keys[1])
    with pytest.raises(ExportError, match=r"pip install 'slipway\[sign\]'"):
        sign(b"", keys[0])
    PolicyRunner(pristine_whole)
