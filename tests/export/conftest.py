"""Exports that several tests share: torch's exporter takes seconds the first time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from export.bundle import write_bundle
from export.onnx_writer import export_policy
from export.quantize import dynamic_int8, weight_fp16
from tests.export.keys import make_keys
from tests.export.policies import NumpyPolicy, make_contract, make_gentle_network, make_network


@pytest.fixture(scope="session")
def model() -> bytes:
    return export_policy(make_network(), log_std=None, contract=make_contract())


@pytest.fixture(scope="session")
def pristine_bundle(model: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that no test may change; copy it first."""
    path = tmp_path_factory.mktemp("bundles") / "policy"
    write_bundle(path, model, reference=NumpyPolicy(make_network(), make_contract()), rng=np.random.default_rng(0))
    return path


@pytest.fixture(scope="session")
def other_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second sound bundle of the same sizes, with noise and another network."""
    import torch

    contract, network = make_contract(seed=1, stochastic=True), make_network(1)
    log_std = torch.linspace(-2.0, -0.5, contract.action_size)
    path = tmp_path_factory.mktemp("bundles") / "other"
    write_bundle(
        path,
        export_policy(network, log_std=log_std, contract=contract),
        reference=NumpyPolicy(network, contract),
        rng=np.random.default_rng(0),
    )
    return path


@pytest.fixture(scope="session")
def gentle_model() -> bytes:
    """A policy whose float16 weights stay below the limit."""
    return export_policy(make_gentle_network(), log_std=None, contract=make_contract())


@pytest.fixture(scope="session")
def gentle_variants(gentle_model: bytes) -> dict[str, bytes]:
    """Every variant of it beside float32."""
    return {"wfp16": weight_fp16(gentle_model), "int8": dynamic_int8(gentle_model)}


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An Ed25519 key pair as PEM files: private, public."""
    return make_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="session")
def pristine_whole(
    gentle_model: bytes,
    gentle_variants: dict[str, bytes],
    keys: tuple[Path, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A bundle with everything: all variants, signed. No test may change it."""
    path = tmp_path_factory.mktemp("bundles") / "whole"
    write_bundle(
        path,
        gentle_model,
        reference=NumpyPolicy(make_gentle_network(), make_contract()),
        rng=np.random.default_rng(0),
        variants=gentle_variants,
        sign_key=keys[0],
    )
    return path
