"""Smaller variants are the same policy within an error that the bundle states, or they are not shipped."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from export import wire
from export.bundle import write_bundle
from export.contract import contract_metadata
from export.errors import ExportError, IntegrityError, ParityError
from export.onnx_writer import export_policy
from export.parity import LIMITS, check_parity, make_cases
from export.policy import VARIANTS, read_policy, seal, write_policy
from export.quantize import dynamic_int8, weight_fp16
from export.runner import PolicyRunner
from export.safeguards import Flag
from export.template import Template
from export.verify import verify
from tests.export.policies import ACT, OBS, NumpyPolicy, make_contract, make_gentle_network, make_network

SMALLER = ("wfp16", "int8")


def gentle() -> NumpyPolicy:
    return NumpyPolicy(make_gentle_network(), make_contract())


def write(path: Path, model: bytes, variants: dict[str, bytes], **changes: Any) -> Any:
    arguments: dict[str, Any] = {"reference": gentle(), "rng": np.random.default_rng(0), **changes}
    return write_bundle(path, model, variants=variants, **arguments).manifest


@pytest.fixture
def whole(pristine_whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine_whole, tmp_path / "whole"))


def test_a_bundle_states_size_batch_and_measured_error_of_every_variant(pristine_whole: Path) -> None:
    manifest = json.loads((pristine_whole / "manifest.json").read_text())
    assert set(manifest["variants"]) == set(VARIANTS) and manifest["left_out"] == {}
    for name, entry in manifest["variants"].items():
        assert entry["file"] == VARIANTS[name]
        assert entry["size"] == (pristine_whole / VARIANTS[name]).stat().st_size
        parity = entry["parity"]
        assert parity["observations"] >= 10_000 and parity["one_by_one"] >= 1_000
        assert 0.0 < parity["action_error_ordinary"] <= parity["action_error"]
        assert max(parity["action_error_units"]) > 0.0
    assert manifest["variants"]["wfp16"]["parity"]["action_error_ordinary"] <= LIMITS["wfp16"] == 2e-4
    assert manifest["variants"]["wfp16"]["parity"]["largest_batch"] >= 10_000
    assert manifest["variants"]["int8"]["parity"]["one_by_one"] >= 10_000
    assert [manifest["variants"][name]["max_batch"] for name in VARIANTS] == [None, None, 1]
    card = (pristine_whole / "MODEL_CARD.md").read_text()
    assert all(f"| {name} | {file} |" in card for name, file in VARIANTS.items())


def test_float16_weights_halve_the_file_and_int8_quarters_it() -> None:
    model = export_policy(make_network(width=256), log_std=None, contract=make_contract())
    assert len(weight_fp16(model)) / len(model) < 0.52
    assert len(dynamic_int8(model)) / len(model) < 0.30


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_acts_as_the_network_within_its_stated_error(pristine_whole: Path, variant: str) -> None:
    runner = PolicyRunner(pristine_whole, variant=variant)
    span = np.asarray(make_contract().action.high) - np.asarray(make_contract().action.low)
    stated = json.loads((pristine_whole / "manifest.json").read_text())["variants"][variant]["parity"]["action_error"]
    observations = np.random.default_rng(5).normal(size=(200, OBS)).astype(np.float32)
    expected, _ = gentle()(observations)
    actions = np.stack([runner.act(row) for row in observations])
    assert np.max(np.abs(actions - expected) / span) <= 1.5 * stated
    action, flags = runner.step(observations[0])
    assert flags == Flag.OK
    np.testing.assert_array_equal(action, actions[0])


def test_int8_refuses_a_batch_in_and_out_of_its_bundle(
    pristine_whole: Path, gentle_variants: dict[str, bytes], tmp_path: Path
) -> None:
    write_policy(tmp_path / "taken_out.onnx", gentle_variants["int8"])
    one, two = np.zeros((1, OBS), np.float32), np.zeros((2, OBS), np.float32)
    for runner in (PolicyRunner(pristine_whole, variant="int8"), PolicyRunner(tmp_path / "taken_out.onnx")):
        assert runner.act(one).shape == (1, ACT)
        with pytest.raises(ExportError, match="one observation at a time, not 2"):
            runner.act(two)
    assert PolicyRunner(pristine_whole, variant="wfp16").act(two).shape == (2, ACT)


@pytest.mark.parametrize("variant", SMALLER)
def test_no_variant_touches_normaliser_and_bounds(gentle_variants: dict[str, bytes], variant: str) -> None:
    """What static int8 and full float16 would destroy; the reader checks it again at every load."""
    template = Template.from_bytes(gentle_variants[variant])
    for name, value in make_contract().constants().items():
        np.testing.assert_array_equal(template.weight(name), value)
    proto = onnx.load_from_string(gentle_variants[variant])
    assert not proto.graph.value_info and proto.ir_version == 8
    assert proto.SerializeToString(deterministic=True) == gentle_variants[variant]


def test_float16_weights_beyond_the_limit_are_left_out_and_the_manifest_says_so(model: bytes, tmp_path: Path) -> None:
    reference = NumpyPolicy(make_network(), make_contract())
    manifest = write(tmp_path / "bundle", model, {"wfp16": weight_fp16(model)}, reference=reference)
    assert set(manifest["variants"]) == {"float32"}
    assert manifest["left_out"]["wfp16"]["parity"]["action_error_ordinary"] > manifest["left_out"]["wfp16"]["limit"]
    assert not (tmp_path / "bundle" / VARIANTS["wfp16"]).exists()
    with pytest.raises(ExportError, match="has no variant wfp16, only float32"):
        PolicyRunner(tmp_path / "bundle", variant="wfp16")


def test_a_variant_of_another_network_never_ships(gentle_model: bytes, tmp_path: Path) -> None:
    other = export_policy(make_network(5, width=64), log_std=None, contract=make_contract())
    with pytest.raises(ParityError, match="int8 moves an action by"):
        write(tmp_path / "out" / "bundle", gentle_model, {"int8": dynamic_int8(other)})
    assert list(tmp_path.iterdir()) == []
    assert "wfp16" in write(tmp_path / "bundle", gentle_model, {"wfp16": weight_fp16(other)})["left_out"]


def test_a_variant_that_gives_nan_fails_the_gate_and_leaves_nothing(
    gentle_model: bytes, gentle_variants: dict[str, bytes], tmp_path: Path
) -> None:
    proto = onnx.load_from_string(gentle_variants["wfp16"])
    del proto.metadata_props[:]
    for tensor in proto.graph.initializer:
        if tensor.name.endswith(".fp16"):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float16(np.nan), tensor.name))
    broken = proto.SerializeToString() + wire.encode_entries(contract_metadata(make_contract(), "wfp16"))
    with pytest.raises(ParityError, match="wfp16 run as one batch gives"):
        write(tmp_path / "out" / "bundle", gentle_model, {"wfp16": broken})
    assert list(tmp_path.iterdir()) == []


def test_a_variant_with_another_contract_is_refused(gentle_model: bytes, tmp_path: Path) -> None:
    other = export_policy(make_gentle_network(), log_std=None, contract=make_contract(policy_version=8))
    with pytest.raises(ExportError, match="another contract"):
        write(tmp_path / "bundle", gentle_model, {"wfp16": weight_fp16(other)})
    assert list(tmp_path.iterdir()) == []


def test_variants_exchanged_within_a_bundle_are_refused_even_with_right_checksums(whole: Path) -> None:
    manifest = json.loads((whole / "manifest.json").read_text())
    shutil.copy(whole / VARIANTS["int8"], whole / VARIANTS["wfp16"])
    manifest["files"][VARIANTS["wfp16"]] = manifest["files"][VARIANTS["int8"]]
    text = json.dumps(manifest).encode()
    (whole / "manifest.json").write_bytes(text)
    (whole / "manifest.sig").unlink()
    (whole / "manifest.sha256").write_bytes(seal(text, "manifest.json"))
    with pytest.raises(IntegrityError, match="is the variant int8, not wfp16"):
        PolicyRunner(whole, variant="wfp16")


def test_a_variant_that_does_not_exist_is_refused(pristine_whole: Path, gentle_model: bytes) -> None:
    with pytest.raises(ExportError, match="choose one of float32, wfp16, int8"):
        PolicyRunner(pristine_whole, variant="fp16")
    with pytest.raises(ExportError, match="is the variant float32, int8 is wanted"):
        PolicyRunner(gentle_model, variant="int8")
    with pytest.raises(ExportError, match="read_policy instead"):
        PolicyRunner(read_policy(pristine_whole), variant="int8")


def test_a_variant_is_no_template(gentle_variants: dict[str, bytes]) -> None:
    with pytest.raises(ExportError, match="cannot be patched"):
        Template.from_bytes(gentle_variants["wfp16"]).patch({}, make_contract())


def test_noise_enters_a_variant_as_it_enters_the_policy(tmp_path: Path) -> None:
    import torch

    contract, network = make_contract(seed=2, stochastic=True), make_gentle_network(2)
    log_std = torch.full((ACT,), -1.0)
    model = export_policy(network, log_std=log_std, contract=contract)
    variants = {"wfp16": weight_fp16(model), "int8": dynamic_int8(model)}
    write(tmp_path / "bundle", model, variants, reference=NumpyPolicy(network, contract))
    eps = np.random.default_rng(1).standard_normal(ACT).astype(np.float32)
    observation = np.zeros(OBS, np.float32)
    expected = PolicyRunner(tmp_path / "bundle").act(observation, eps)
    np.testing.assert_allclose(
        PolicyRunner(tmp_path / "bundle", variant="wfp16").act(observation, eps), expected, atol=2e-3
    )
    assert verify(tmp_path / "bundle")["variants"].keys() == set(VARIANTS)


def test_the_gate_runs_where_torch_and_onnx_cannot_be_imported(
    gentle_model: bytes, gentle_variants: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, os, sys\n"
        "atexit.register(lambda: open(os.environ['LOADED'], 'w').write(' '.join(sys.modules)))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("LOADED", str(tmp_path / "loaded"))
    cases = make_cases(gentle_model, gentle(), np.random.default_rng(0))
    reports = check_parity({"float32": gentle_model, **gentle_variants}, cases)
    assert set(reports) == set(VARIANTS)
    loaded = {name.partition(".")[0] for name in (tmp_path / "loaded").read_text().split()}
    assert "onnxruntime" in loaded and not loaded & {"torch", "onnx", "onnxscript", "gymnasium", "agent"}
    blocked = "import export.parity_check as p, sys; sys.meta_path.insert(0, p.Forbid()); import {}"
    for name in ("torch", "onnx"):
        done = subprocess.run([sys.executable, "-c", blocked.format(name)], capture_output=True, text=True)
        assert "must not be imported" in done.stderr


def test_a_gate_that_cannot_run_fails_the_export(
    gentle_model: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name, broken in (
        (sys, "executable", shutil.which("false")),
        (sys, "executable", str(tmp_path / "no python")),
        (tempfile, "tempdir", str(tmp_path / "no folder")),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, broken)
            with pytest.raises(ExportError, match="parity gate's process") as error:
                write(tmp_path / "bundle", gentle_model, {})
        assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_every_variant_that_ships_is_scored(
    gentle_model: bytes, gentle_variants: dict[str, bytes], tmp_path: Path
) -> None:
    def score(runner: PolicyRunner) -> dict[str, float]:
        return {"sum": float(runner.act(np.zeros(OBS, np.float32)).sum())}

    manifest = write(tmp_path / "bundle", gentle_model, gentle_variants, evaluate=score)
    scores = {name: entry["evaluation"]["sum"] for name, entry in manifest["variants"].items()}
    assert len(set(scores.values())) == 3
    assert "Evaluated, int8:" in (tmp_path / "bundle" / "MODEL_CARD.md").read_text()


def test_the_same_export_gives_equal_bytes_with_variants_and_signature(
    pristine_whole: Path, gentle_model: bytes, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    again = {"wfp16": weight_fp16(gentle_model), "int8": dynamic_int8(gentle_model)}
    write(tmp_path / "again", gentle_model, again, sign_key=keys[0])
    assert {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()} == {
        path.name: path.read_bytes() for path in pristine_whole.iterdir()
    }
    (tmp_path / "model.onnx").write_bytes(gentle_model)
    script = (
        "import hashlib, pathlib; from export.quantize import *; m = pathlib.Path('model.onnx').read_bytes();"
        "print(*(hashlib.sha256(f(m)).hexdigest() for f in (weight_fp16, dynamic_int8)))"
    )
    elsewhere = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONHASHSEED": "7"},
    )
    assert elsewhere.stdout.split() == [hashlib.sha256(data).hexdigest() for data in again.values()], elsewhere.stderr


@pytest.mark.parametrize("flips", [60, pytest.param(400, marks=pytest.mark.full)])
def test_any_flipped_byte_of_a_bundle_with_everything_is_refused(whole: Path, flips: int) -> None:
    """Whichever variant is opened: also the bytes of those that are not."""
    rng = np.random.default_rng(flips)
    names = sorted(path.name for path in whole.iterdir())
    assert len(names) == 8
    for flip in range(flips):
        path = whole / names[flip % len(names)]
        good = path.read_bytes()
        broken = bytearray(good)
        broken[rng.integers(len(good))] ^= int(rng.integers(1, 256))
        path.write_bytes(broken)
        with pytest.raises(ExportError) as error:
            PolicyRunner(whole, variant=list(VARIANTS)[flip % 3])
        assert path.name in str(error.value) or "manifest" in str(error.value)
        path.write_bytes(good)
    PolicyRunner(whole)
