"""A bundle is whole and unaltered, or it is refused in one clear line."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.bundle import write_bundle
from export.errors import ContractError, ExportError, ParityError
from export.onnx_writer import export_policy
from export.parity import compare, golden_of, make_cases
from export.parity_observations import edge_observations, parity_observations
from export.policy import read_policy, seal, write_policy
from export.runner import PolicyRunner
from export.template import Template
from tests.export.policies import ACT, OBS, NumpyPolicy, make_contract, make_network, weights_of

FILES = {"policy.onnx", "golden.npz", "MODEL_CARD.md", "manifest.json", "manifest.sha256"}


@pytest.fixture
def bundle(pristine_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine_bundle, tmp_path / "bundle"))


def refused(path: Path, *, naming: str = "") -> str:
    """The policy at `path` is refused with one line that names the file; returns the line."""
    with pytest.raises(ExportError) as error:
        PolicyRunner(path)
    message = str(error.value)
    assert "\n" not in message and naming in message and ";" in message, message
    return message


def reseal(bundle: Path, manifest: dict[str, Any]) -> None:
    text = json.dumps(manifest).encode()
    (bundle / "manifest.json").write_bytes(text)
    (bundle / "manifest.sha256").write_bytes(seal(text, "manifest.json"))


def manifest_of(bundle: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((bundle / "manifest.json").read_text())
    return manifest


def test_a_bundle_holds_what_it_lists_and_loads(pristine_bundle: Path, model: bytes) -> None:
    assert {path.name for path in pristine_bundle.iterdir()} == FILES
    policy = read_policy(pristine_bundle)
    assert policy.model == model and policy.contract == make_contract()
    manifest = manifest_of(pristine_bundle)
    assert manifest["contract_sha256"] == make_contract().digest()
    assert manifest["variants"]["float32"]["parity"]["observations"] >= 10_000
    assert manifest["variants"]["float32"]["parity"]["one_by_one"] >= 1_000
    card = (pristine_bundle / "MODEL_CARD.md").read_text()
    assert "| qpos | 0:8 | rad | float64 |" in card and "slipway verify" in card
    runner = PolicyRunner(pristine_bundle)
    expected, _ = NumpyPolicy(make_network(), make_contract())(np.zeros((1, OBS), np.float32))
    np.testing.assert_allclose(runner.act(np.zeros(OBS, np.float32)), expected[0], rtol=1e-5, atol=1e-5)


def test_any_flipped_byte_of_any_file_is_refused(bundle: Path) -> None:
    rng = np.random.default_rng(0)
    names = sorted(FILES)
    for flip in range(100):
        path = bundle / names[flip % len(names)]
        good = path.read_bytes()
        broken = bytearray(good)
        broken[rng.integers(len(good))] ^= 1 << rng.integers(8)
        path.write_bytes(broken)
        message = refused(bundle)
        assert path.name in message or "manifest" in message
        path.write_bytes(good)
    PolicyRunner(bundle)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_missing_truncated_or_longer_file_is_refused(bundle: Path, name: str) -> None:
    path = bundle / name
    good = path.read_bytes()
    for content in (b"", good[:-1], good[: len(good) // 2], good + b"\0"):
        path.write_bytes(content)
        refused(bundle, naming=name)
    path.unlink()
    refused(bundle, naming=name)


@pytest.mark.parametrize("name", sorted(FILES))
def test_files_swapped_between_bundles_are_refused(bundle: Path, other_bundle: Path, name: str) -> None:
    shutil.copy(other_bundle / name, bundle / name)
    refused(bundle, naming="manifest.json" if name == "manifest.sha256" else name)


def test_a_model_of_another_contract_is_refused_even_with_right_checksums(bundle: Path, other_bundle: Path) -> None:
    manifest = manifest_of(bundle)
    manifest["files"]["policy.onnx"] = manifest_of(other_bundle)["files"]["policy.onnx"]
    shutil.copy(other_bundle / "policy.onnx", bundle / "policy.onnx")
    reseal(bundle, manifest)
    with pytest.raises(ContractError, match=r"manifest\.json: its contract is not the one inside"):
        PolicyRunner(bundle)


def test_a_model_that_computes_something_else_is_refused_even_with_right_checksums(bundle: Path, model: bytes) -> None:
    other = Template.from_bytes(model).patch(weights_of(make_network(5)), make_contract())
    (bundle / "policy.onnx").write_bytes(other)
    manifest = manifest_of(bundle)
    manifest["files"]["policy.onnx"] = {"sha256": hashlib.sha256(other).hexdigest(), "size": len(other)}
    reseal(bundle, manifest)
    with pytest.raises(ParityError, match="golden row"):
        PolicyRunner(bundle)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "a/b", "..", ".", "", "a\\b", "a\0b"])
def test_a_manifest_that_reaches_outside_is_refused(bundle: Path, name: str) -> None:
    content = b"secret"
    (bundle.parent / "outside").write_bytes(content)
    manifest = manifest_of(bundle)
    manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    reseal(bundle, manifest)
    assert "outside the bundle" in refused(bundle, naming="manifest.json")


def test_links_and_folders_in_place_of_files_are_refused(bundle: Path) -> None:
    policy = bundle / "policy.onnx"
    policy.rename(bundle.parent / "elsewhere.onnx")
    policy.symlink_to(bundle.parent / "elsewhere.onnx")
    refused(bundle, naming="policy.onnx")
    policy.unlink()
    policy.mkdir()
    refused(bundle, naming="policy.onnx")
    policy.rmdir()
    os.mkfifo(policy)
    refused(bundle, naming="policy.onnx")


@pytest.mark.parametrize(
    "change",
    [
        {"format": "slipway.bundle/2"},
        {"files": []},
        {"files": {"policy.onnx": {}}},
        {"files": {"policy.onnx": 1, "golden.npz": 2, "MODEL_CARD.md": 3}},
    ],
    ids=str,
)
def test_a_manifest_of_another_form_is_refused(bundle: Path, change: dict[str, Any]) -> None:
    reseal(bundle, manifest_of(bundle) | change)
    refused(bundle, naming="manifest.json")


def test_a_manifest_that_is_not_json_is_refused(bundle: Path) -> None:
    for text in (b"", b"[]", b"{", b"\xff"):
        (bundle / "manifest.json").write_bytes(text)
        (bundle / "manifest.sha256").write_bytes(seal(text, "manifest.json"))
        refused(bundle, naming="manifest.json")


def test_a_path_without_a_policy_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "none", naming="none")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", naming="manifest.json")


def test_a_bare_policy_needs_its_own_checksum(tmp_path: Path, model: bytes) -> None:
    path = tmp_path / "v1.onnx"
    write_policy(path, model)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["v1.onnx", "v1.onnx.sha256"]
    assert PolicyRunner(path).contract == make_contract()
    write_policy(path, model)
    with pytest.raises(ExportError, match="exists with other content"):
        write_policy(path, model + b"\0")

    rng = np.random.default_rng(0)
    for target in (path, tmp_path / "v1.onnx.sha256"):
        good = target.read_bytes()
        for _ in range(20):
            broken = bytearray(good)
            broken[rng.integers(len(good))] ^= 1 << rng.integers(8)
            target.write_bytes(broken)
            refused(path, naming="v1.onnx")
        target.write_bytes(good[:-1])
        refused(path, naming="v1.onnx")
        target.write_bytes(good)
    shutil.copy(path, tmp_path / "v2.onnx")
    refused(tmp_path / "v2.onnx", naming="v2.onnx.sha256")
    shutil.copy(tmp_path / "v1.onnx.sha256", tmp_path / "v2.onnx.sha256")
    refused(tmp_path / "v2.onnx", naming="v2.onnx")


def test_a_reader_never_sees_a_torn_publication(tmp_path: Path, model: bytes) -> None:
    template, weights = Template.from_bytes(model), weights_of(make_network())
    versions = [template.patch(weights, make_contract(policy_version=version)) for version in range(60)]
    writer = threading.Thread(
        target=lambda: [write_policy(tmp_path / f"v{i}.onnx", data) for i, data in enumerate(versions)]
    )
    writer.start()
    seen = set[int]()
    while len(seen) < len(versions):
        for path in tmp_path.glob("v*.onnx"):
            seen.add(read_policy(path).contract.policy_version)
    writer.join()
    assert {path.suffix for path in tmp_path.iterdir()} == {".onnx", ".sha256"}


def test_a_policy_that_cannot_be_written_says_where(tmp_path: Path, model: bytes) -> None:
    with pytest.raises(ExportError, match=r"v1\.onnx\.sha256: cannot be written"):
        write_policy(tmp_path / "missing" / "v1.onnx", model)


def reference(seed: int = 0) -> NumpyPolicy:
    return NumpyPolicy(make_network(seed), make_contract())


def test_writing_the_same_bundle_again_changes_nothing(bundle: Path, model: bytes) -> None:
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in bundle.iterdir()}
    write_bundle(bundle, model, reference=reference(), rng=np.random.default_rng(0))
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in bundle.iterdir()} == before


def test_an_existing_path_with_other_content_is_refused_and_left_alone(bundle: Path, model: bytes) -> None:
    (bundle / "MODEL_CARD.md").write_text("mine")
    (bundle.parent / "file").write_text("mine")
    for path in (bundle, bundle.parent / "file"):
        with pytest.raises(ExportError, match="exists with other content"):
            write_bundle(path, model, reference=reference(), rng=np.random.default_rng(0))
    assert (bundle / "MODEL_CARD.md").read_text() == "mine"
    assert sorted(path.name for path in bundle.parent.iterdir()) == ["bundle", "file"]


def nan_reference(observations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    action, raw = reference()(observations)
    raw[-1, 0] = np.nan
    return action, raw


def without_normaliser(observations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    contract = make_contract()
    std = np.maximum(contract.normalizer.std, contract.normalizer.eps)
    return reference()((observations * std + np.asarray(contract.normalizer.mean)).astype(np.float32))


def slightly_scaled(observations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    action, raw = reference()(observations)
    return action * 1.0005, raw


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (reference(1), "differs from the trained network"),
        (without_normaliser, "differs from the trained network"),
        (slightly_scaled, "differs from the trained network: action"),
        (nan_reference, "itself gives NaN"),
        (lambda observations: (observations[:, :ACT], observations), "reference gives"),
    ],
)
def test_a_failing_parity_gate_leaves_nothing_behind(tmp_path: Path, model: bytes, wrong: Any, message: str) -> None:
    with np.errstate(all="ignore"), pytest.raises(ParityError, match=message) as error:
        write_bundle(tmp_path / "out" / "bundle", model, reference=wrong, rng=np.random.default_rng(0))
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_crash_while_writing_leaves_no_bundle(tmp_path: Path, model: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fills at every file in turn."""
    real = os.fsync
    for failing in range(5):
        calls = iter(range(100))

        def fsync(descriptor: int, calls: Any = calls, failing: int = failing) -> None:
            if next(calls) == failing:
                raise OSError(28, "No space left on device")
            real(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(ExportError, match="No space left"):
            write_bundle(tmp_path / "bundle", model, reference=reference(), rng=np.random.default_rng(0))
        assert list(tmp_path.iterdir()) == []


def test_the_gate_looks_at_ten_thousand_observations_with_every_extreme() -> None:
    contract = make_contract()
    real = np.random.default_rng(1).normal(size=(50, OBS)).astype(np.float32)
    real[7, 0] = np.nan
    inputs, _ = parity_observations(contract, np.random.default_rng(0), real)
    assert inputs.shape == (10_000, OBS) and inputs.dtype == np.float32 and np.isfinite(inputs).all()
    assert all((inputs == row).all(axis=1).any() for row in np.delete(real, 7, axis=0))
    edges = edge_observations(contract)
    assert np.abs(edges).max() > 1e38
    assert (edges == 0).all(axis=1).any()
    assert ((edges != 0) & (np.abs(edges) < 1e-40)).any()
    std = np.maximum(contract.normalizer.std, contract.normalizer.eps)
    normalized = np.abs((edges - np.asarray(contract.normalizer.mean)) / std)
    assert (np.abs(normalized - 10.0) < 1e-3).all(axis=1).any()
    with pytest.raises(ExportError, match="takes"):
        parity_observations(contract, np.random.default_rng(0), real[:, 1:])


def test_sound_exports_pass_with_room_to_spare_and_noise_is_checked() -> None:
    import torch

    contract, network = make_contract(seed=2, stochastic=True, clip=None), make_network(2, width=256)
    model = export_policy(network, log_std=torch.full((ACT,), -1.0), contract=contract)
    cases = make_cases(model, NumpyPolicy(network, contract), np.random.default_rng(0))
    report = compare(PolicyRunner(model), cases)
    assert report["share_of_tolerance"] < 0.5
    assert golden_of(cases, {"float32": report})["eps"].any()


def test_permuted_names_of_equal_length_are_refused_when_opened(tmp_path: Path, model: bytes) -> None:
    """Sizes and shapes agree, so nothing but the names can tell that two joints or sensors are exchanged."""
    joints = ("shoulder", "elbow", "wrist", "thumb", "index", "ring")
    contract = make_contract()
    contract = replace(contract, action=replace(contract.action, names=joints))
    write_policy(tmp_path / "p.onnx", Template.from_bytes(model).patch(weights_of(make_network()), contract))
    PolicyRunner(tmp_path / "p.onnx", expect={"action": {"names": joints}})
    for expect, named in (
        ({"action": {"names": ("elbow", "shoulder", *joints[2:])}}, r"action\.names\[0\] is 'shoulder', 'elbow' is"),
        ({"observation": [{"name": "qvel"}, {"name": "qpos"}]}, r"observation\[0\]\.name is 'qpos', 'qvel' is"),
    ):
        with pytest.raises(ContractError, match=named):
            PolicyRunner(tmp_path / "p.onnx", expect=expect)
