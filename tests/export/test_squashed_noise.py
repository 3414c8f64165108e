"""Policies whose noise enters before tanh, with a deviation that depends on the observation (SAC's)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from export.bundle import write_bundle
from export.contract import Contract
from export.contract_parts import SQUASHED_NOISE, Recurrent, Stochastic
from export.errors import ContractError, ExportError, ParityError
from export.onnx_writer import export_policy
from export.parity import check_parity, make_cases
from export.parity_observations import parity_observations
from export.runner import PolicyRunner
from export.template import Template
from tests.export.policies import ACT, OBS, make_contract

LOW, HIGH = -4.0, 1.0


class Squashed(torch.nn.Module):
    """Mean and clamped log deviation from one trunk, as an actor has them."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.first, self.last = torch.nn.Linear(OBS, 32), torch.nn.Linear(32, 2 * ACT)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, log_std = self.last(torch.relu(self.first(x))).chunk(2, dim=-1)
        return mean, log_std.clamp(LOW, HIGH)


def squashed_contract(seed: int = 0) -> Contract:
    return replace(make_contract(seed=seed), stochastic=Stochastic(eps=True, form=SQUASHED_NOISE))


def by_hand(
    network: Squashed, contract: Contract, observations: np.ndarray, eps: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(action, raw, log deviation) in float64 NumPy."""
    constants = {name: value.astype(np.float64) for name, value in contract.constants().items()}
    x = (observations.astype(np.float64) - constants["normalizer.mean"]) * constants["normalizer.inv_std"]
    x = np.clip(x, -10.0, 10.0)
    w = {name: value.numpy().astype(np.float64) for name, value in network.state_dict().items()}
    hidden = np.maximum(x @ w["first.weight"].T + w["first.bias"], 0.0)
    out = hidden @ w["last.weight"].T + w["last.bias"]
    raw, log_std = out[:, :ACT], np.clip(out[:, ACT:], LOW, HIGH)
    unit = np.tanh(raw + np.exp(log_std) * eps)
    low, high = np.asarray(contract.action.low), np.asarray(contract.action.high)
    return np.clip(unit * (high - low) / 2 + (high + low) / 2, low, high), raw, log_std


def test_noise_enters_before_tanh_with_the_networks_own_deviation() -> None:
    contract, network = squashed_contract(), Squashed(0)
    runner = PolicyRunner(export_policy(network, log_std=None, contract=contract))
    rng = np.random.default_rng(0)
    observations, _ = parity_observations(contract, rng, count=500)
    eps = 2.0 * rng.standard_normal((len(observations), ACT)).astype(np.float32)
    noisy, raw, log_std = by_hand(network, contract, observations, eps)
    assert log_std.std() > 0.1  # it does depend on the observation
    np.testing.assert_allclose(runner.act(observations, eps), noisy, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(runner.act(observations[7], eps[7]), noisy[7], rtol=1e-4, atol=1e-4)
    mean, got = runner.infer(observations)
    np.testing.assert_allclose(got, raw, rtol=1e-5, atol=1e-5 * np.abs(raw).max())
    np.testing.assert_allclose(mean, by_hand(network, contract, observations, 0.0 * eps)[0], rtol=1e-5, atol=1e-5)


def test_patching_gives_the_bytes_of_a_new_export() -> None:
    contract, old, new = squashed_contract(), Squashed(1), Squashed(2)
    template = Template.from_bytes(export_policy(old, log_std=None, contract=contract))
    assert set(template.weight_names) == {f"network.{name}" for name in old.state_dict()}
    newer = replace(contract, policy_version=8)
    patched = template.patch({f"network.{name}": w.numpy() for name, w in new.state_dict().items()}, newer)
    assert patched == export_policy(new, log_std=None, contract=newer)


def reference(network: Squashed, contract: Contract):  # type: ignore[no-untyped-def]
    def call(observations: np.ndarray) -> tuple[np.ndarray, ...]:
        return by_hand(network, contract, observations, np.zeros(ACT))

    return call


def test_the_parity_gate_compares_the_noise_and_notices_a_wrong_deviation() -> None:
    contract, network = squashed_contract(), Squashed(3)
    model = export_policy(network, log_std=None, contract=contract)
    cases = make_cases(model, reference(network, contract), np.random.default_rng(0))
    report = check_parity({"float32": model}, cases)["float32"]
    assert 0.0 < report["share_of_tolerance"] < 1.0
    wrong = Squashed(3)
    with torch.no_grad():
        wrong.last.bias[ACT:] += 0.01  # the mean actions stay the same
    with pytest.raises(ParityError, match="with noise"):
        check_parity({"float32": export_policy(wrong, log_std=None, contract=contract)}, cases)


def test_a_bundle_keeps_golden_rows_with_noise(tmp_path: Path) -> None:
    contract, network = squashed_contract(), Squashed(4)
    model = export_policy(network, log_std=None, contract=contract)
    write_bundle(tmp_path / "b", model, reference=reference(network, contract), rng=np.random.default_rng(0))
    runner = PolicyRunner(tmp_path / "b")  # opening it recomputes the golden rows
    assert runner.stochastic and runner.policy.golden is not None
    assert runner.policy.golden["eps"].any()


def test_what_cannot_be_is_refused() -> None:
    contract = squashed_contract()
    with pytest.raises(ContractError, match="log_std"):
        export_policy(Squashed(0), log_std=torch.zeros(ACT), contract=contract)
    with pytest.raises(ExportError, match=r"gives \(6,\) for a batch of 2, the contract \[2, 6\] as raw"):
        export_policy(torch.nn.Linear(OBS, ACT), log_std=None, contract=contract)
    with pytest.raises(ContractError, match="no noise"):
        odd = replace(contract, stochastic=Stochastic(eps=True, form="cauchy"))
        export_policy(Squashed(0), log_std=None, contract=odd)
    with pytest.raises(ContractError, match="recurrent"):
        memory = replace(contract, recurrent=Recurrent(size=2, initial=(0.0, 0.0)))
        export_policy(Squashed(0), log_std=None, contract=memory)
