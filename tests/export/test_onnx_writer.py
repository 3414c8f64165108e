"""The exported graph is the policy, in the same bytes from everywhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import export
from export.errors import ContractError, ExportError
from export.onnx_writer import export_policy
from export.parity_observations import parity_observations
from export.runner import PolicyRunner
from tests.export import policies
from tests.export.policies import ACT, OBS, NumpyPolicy, make_contract, make_network

ELSEWHERE = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
import policies
from export.onnx_writer import export_policy
assert export_policy.__code__.co_filename.startswith(sys.argv[1])
data = export_policy(policies.make_network(), log_std=None, contract=policies.make_contract())
print(hashlib.sha256(data).hexdigest())
"""


def test_exporting_twice_gives_equal_bytes(model: bytes) -> None:
    assert export_policy(make_network(), log_std=None, contract=make_contract()) == model


def test_another_checkout_and_folder_give_equal_bytes(model: bytes, tmp_path: Path) -> None:
    import hashlib

    shutil.copytree(Path(export.__file__).parent, tmp_path / "export")
    shutil.copy(Path(policies.__file__), tmp_path / "policies.py")
    (tmp_path / "cwd").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(tmp_path)],
        cwd=tmp_path / "cwd",
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONHASHSEED": "7"},
    )
    assert done.stdout.strip() == hashlib.sha256(model).hexdigest(), done.stderr


def test_the_file_is_one_plain_onnx_model(model: bytes) -> None:
    proto = onnx.load_from_string(model)
    onnx.checker.check_model(proto, full_check=True)
    assert proto.ir_version == 8
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 18)]
    assert not proto.graph.value_info and not proto.functions and not proto.graph.metadata_props
    for node in proto.graph.node:
        assert not node.doc_string and not node.metadata_props
    assert all(not tensor.external_data for tensor in proto.graph.initializer)
    assert str(Path(__file__).parents[2]).encode() not in model
    assert [value.name for value in proto.graph.input] == ["observation"]
    assert [value.name for value in proto.graph.output] == ["action", "raw"]
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    # Bytes after the graph were encoded by hand; the official encoder agrees.
    assert proto.SerializeToString(deterministic=True) == model


@pytest.mark.parametrize("clip", [10.0, 1.5, None])
def test_the_graph_is_the_equations(clip: float | None) -> None:
    contract, network = make_contract(seed=3, clip=clip), make_network(3)
    runner = PolicyRunner(export_policy(network, log_std=None, contract=contract))
    observations, _ = parity_observations(contract, np.random.default_rng(0), count=2000)
    action, raw = runner.infer(observations)
    expected_action, expected_raw = NumpyPolicy(network, contract)(observations)
    np.testing.assert_allclose(raw, expected_raw, rtol=1e-5, atol=1e-5 * np.abs(expected_raw).max())
    np.testing.assert_allclose(action, expected_action, rtol=1e-5, atol=2e-4 if clip is None else 1e-5)


def test_noise_enters_as_the_equations_say() -> None:
    contract, network = make_contract(seed=4, stochastic=True), make_network(4)
    log_std = torch.linspace(-3.0, 0.5, ACT)
    runner = PolicyRunner(export_policy(network, log_std=log_std, contract=contract))
    rng = np.random.default_rng(0)
    observations, _ = parity_observations(contract, rng, count=500)
    eps = rng.standard_normal((len(observations), ACT)).astype(np.float32)
    expected, _ = NumpyPolicy(network, contract, log_std.numpy())(observations, eps)
    np.testing.assert_allclose(runner.act(observations, eps), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        runner.act(observations), NumpyPolicy(network, contract)(observations)[0], rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(runner.act(observations[0], eps[0]), expected[0], rtol=1e-5, atol=1e-5)


def test_the_network_is_left_as_it_was() -> None:
    network = make_network().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    export_policy(network, log_std=None, contract=make_contract())
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_constants_with_equal_values_keep_their_own_names() -> None:
    """The exporter's optimiser would merge them, and patching one would then change the other."""
    network = make_network()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    proto = onnx.load_from_string(export_policy(network, log_std=None, contract=make_contract()))
    names = {tensor.name for tensor in proto.graph.initializer}
    assert names >= {f"network.{name}" for name in network.state_dict()} | make_contract().constants().keys()


def test_a_network_that_does_not_fit_is_refused() -> None:
    contract = make_contract()
    with pytest.raises(ExportError, match=r"refuses a \[2, 17\]"):
        export_policy(torch.nn.Linear(OBS + 1, ACT), log_std=None, contract=contract)
    with pytest.raises(ExportError, match=r"gives \(2, 5\)"):
        export_policy(torch.nn.Linear(OBS, 5), log_std=None, contract=contract)
    with pytest.raises(ExportError, match=r"float64"):
        export_policy(torch.nn.Linear(OBS, ACT).double(), log_std=None, contract=contract)
    with pytest.raises(ContractError, match="eps"):
        export_policy(torch.nn.Linear(OBS, ACT), log_std=torch.zeros(ACT), contract=contract)
    with pytest.raises(ExportError, match="log_std"):
        export_policy(torch.nn.Linear(OBS, ACT), log_std=torch.zeros(2), contract=make_contract(stochastic=True))


class _Unexportable(torch.nn.Module):
    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        if float(observation.sum()) > 0:  # a branch on data has no graph
            return observation[:, :ACT]
        return -observation[:, :ACT]


def test_a_network_without_an_onnx_form_is_refused_in_one_line() -> None:
    with pytest.raises(ExportError, match="no ONNX form") as error:
        export_policy(_Unexportable(), log_std=None, contract=make_contract())
    assert "\n" not in str(error.value)
