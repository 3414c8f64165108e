"""A recurrent policy: the state is explicit in the graph, stated in the contract, and advances only with an action."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.bundle import write_bundle
from export.contract import Contract
from export.contract_parts import Recurrent
from export.errors import ContractError, ExportError, ParityError
from export.onnx_writer import export_policy
from export.quantize import dynamic_int8, weight_fp16
from export.runner import PolicyRunner
from export.safeguards import Flag
from export.template import Template
from export.verify import verify
from tests.export.policies import ACT, OBS, make_contract, make_network, weights_of
from tests.export.recurrent import (
    INITIAL,
    H,
    TorchPolicy,
    make_recurrent_contract,
    make_recurrent_network,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def model() -> bytes:
    return export_policy(make_recurrent_network(), log_std=None, contract=make_recurrent_contract())


@pytest.fixture
def runner(model: bytes) -> PolicyRunner:
    return PolicyRunner(model)


@pytest.fixture(scope="module")
def bundle(model: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recurrent") / "policy"
    reference = TorchPolicy(make_recurrent_network(), make_recurrent_contract())
    write_bundle(path, model, reference=reference, rng=np.random.default_rng(0))
    return path


def observations(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=3.0, size=(count, OBS)).astype(np.float32)


def torch_sequence(inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Actions [N, A] and states [N, H] of the trained network along `inputs` [N, O]."""
    policy = TorchPolicy(make_recurrent_network(), make_recurrent_contract())
    h, actions, states = np.asarray([INITIAL], np.float32), [], []
    for row in inputs:
        action, _, h = policy(row[None], h)
        actions.append(action[0])
        states.append(h[0])
    return np.stack(actions), np.stack(states)


@pytest.mark.parametrize("how", ["act", "step"])
def test_fifty_steps_equal_the_network(runner: PolicyRunner, how: str) -> None:
    inputs = observations(50)
    actions, states = torch_sequence(inputs)
    for row, action, state in zip(inputs, actions, states, strict=True):
        given = runner.act(row) if how == "act" else runner.step(row)[0]
        np.testing.assert_allclose(given, action, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(runner.state, state, rtol=1e-4, atol=1e-5)
    assert np.abs(np.diff(states, axis=0)).max() > 0.1  # the state is not idle


def test_the_state_matters_and_reset_restarts_it(runner: PolicyRunner) -> None:
    np.testing.assert_array_equal(runner.state, np.float32(INITIAL))  # warm-up leaves no trace
    row = observations(1)[0]
    first, second = runner.act(row), runner.act(row)
    assert np.abs(first - second).max() > 1e-3
    runner.reset()
    np.testing.assert_array_equal(runner.state, np.float32(INITIAL))
    np.testing.assert_array_equal(runner.act(row), first)


def test_a_faulty_step_does_not_advance_the_state(runner: PolicyRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    row = observations(1)[0]
    runner.step(row)
    before = runner.state
    for bad in (np.full(OBS, np.nan, np.float32), np.zeros(OBS + 1, np.float32)):
        assert runner.step(bad)[1] != 0
        np.testing.assert_array_equal(runner.state, before)
    assert runner.step(row, 1e-9)[1] == Flag.STALE
    np.testing.assert_array_equal(runner.state, before)

    session = runner._session

    class Silent:
        """Runs, and writes nothing."""

        def run_with_iobinding(self, binding: object) -> None:
            return

    class Refusing:
        def run_with_iobinding(self, binding: object) -> None:
            raise RuntimeError("no")

    class StateLost:
        """Gives a plausible action beside a state that is not finite."""

        def run_with_iobinding(self, binding: object) -> None:
            session.run_with_iobinding(binding)
            assert runner._state is not None
            runner._state.poison()

    for broken, flag in ((Silent(), Flag.NOT_FINITE), (Refusing(), Flag.RUN), (StateLost(), Flag.NOT_FINITE)):
        monkeypatch.setattr(runner, "_session", broken)
        assert runner.step(row)[1] == flag
        np.testing.assert_array_equal(runner.state, before)
    monkeypatch.setattr(runner, "_session", session)
    assert runner.step(row)[1] == 0
    assert (runner.state != before).any()


def test_nan_into_act_does_not_poison_later_actions(runner: PolicyRunner) -> None:
    assert np.isnan(runner.act(np.full(OBS, np.nan, np.float32))).any()
    np.testing.assert_array_equal(runner.state, np.float32(INITIAL))


def test_a_batch_with_explicit_states_equals_the_network_and_single_rows(runner: PolicyRunner) -> None:
    inputs = observations(7)
    h = np.random.default_rng(1).uniform(-1, 1, (7, H)).astype(np.float32)
    batch = runner.infer_with_state(inputs, h)
    expected = TorchPolicy(make_recurrent_network(), make_recurrent_contract())(inputs, h)
    single = [runner.infer_with_state(row, state) for row, state in zip(inputs, h, strict=True)]
    for given, wanted, alone in zip(batch, expected, zip(*single, strict=True), strict=True):
        np.testing.assert_allclose(given, wanted, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(np.stack(alone), wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(runner.state, np.float32(INITIAL))  # the runner's own is untouched
    assert [out.shape for out in runner.infer_with_state(inputs[:0], h[:0])] == [(0, ACT), (0, ACT), (0, H)]


def test_a_batch_without_states_and_a_wrong_state_are_refused(runner: PolicyRunner) -> None:
    with pytest.raises(ExportError, match="infer_with_state"):
        runner.act(observations(3))
    with pytest.raises(ExportError, match="infer_with_state"):
        runner.infer(observations(0))
    for inputs, h in (
        (observations(3), np.zeros((3, H + 1), np.float32)),
        (observations(3), np.zeros((2, H), np.float32)),
        (observations(3), np.zeros(H, np.float32)),
        (observations(1)[0], np.zeros((1, H), np.float32)),
        (observations(1)[0], np.full(H, "0")),
    ):
        with pytest.raises(ExportError, match="state is"):
            runner.infer_with_state(inputs, h)


def test_a_memoryless_policy_takes_no_state() -> None:
    runner = PolicyRunner(export_policy(make_network(), log_std=None, contract=make_contract()))
    assert runner.state.shape == (0,)
    with pytest.raises(ExportError, match="memoryless"):
        runner.infer_with_state(observations(1), np.zeros((1, H), np.float32))


def test_a_policy_that_takes_over_starts_at_its_initial_state(model: bytes, runner: PolicyRunner) -> None:
    newer = PolicyRunner(model)
    for row in observations(3):
        runner.step(row)
        newer.step(row)
    newer.take_over(runner)  # as a reload and a rollback do
    np.testing.assert_array_equal(newer.state, np.float32(INITIAL))
    np.testing.assert_array_equal(newer.last_action, runner.last_action)


def test_exporting_twice_and_patching_give_equal_bytes(model: bytes) -> None:
    contract = make_recurrent_contract()
    assert export_policy(make_recurrent_network(), log_std=None, contract=contract) == model
    newer = replace(contract, policy_version=8, recurrent=Recurrent(size=H, initial=(0.0,) * H))
    other = make_recurrent_network(1)
    patched = Template.from_bytes(model).patch(weights_of(other), newer)
    assert patched == export_policy(other, log_std=None, contract=newer)
    np.testing.assert_array_equal(PolicyRunner(patched).state, np.zeros(H))


def test_a_contract_of_another_state_is_refused(model: bytes) -> None:
    template, weights = Template.from_bytes(model), weights_of(make_recurrent_network())
    for recurrent in (None, Recurrent(size=H + 1, initial=(0.0,) * (H + 1))):
        contract = make_recurrent_contract(recurrent=recurrent)
        with pytest.raises(ContractError, match="another graph"):
            template.patch(weights, contract)
        with pytest.raises(ExportError):
            export_policy(make_recurrent_network(), log_std=None, contract=contract)
        # A file whose contract was exchanged, checksum and all.
        forged = Template(template._body, template._slots, contract).patch(weights, contract)
        with pytest.raises(ContractError, match="h_in"):
            PolicyRunner(forged)
    with pytest.raises(ExportError, match="network refuses"):
        export_policy(make_network(), log_std=None, contract=make_recurrent_contract())


def test_the_contract_survives_json_and_refuses_a_malformed_state() -> None:
    contract = make_recurrent_contract()
    assert Contract.from_json(contract.to_json()) == contract
    assert b'"recurrent":null' in make_contract().to_json()
    plain = json.loads(contract.to_json())
    bad: list[Any] = [{}, [], 0, {"size": H}, {"size": H, "initial": [0.0]}, {"size": 0, "initial": []}]
    bad += [{"size": True, "initial": [0.0]}, {"size": 1, "initial": [1e39]}, {"size": 1, "initial": "x"}]
    for recurrent in bad:
        with pytest.raises(ContractError) as error:
            Contract.from_dict({**plain, "recurrent": recurrent})
        assert "\n" not in str(error.value)


def test_noise_moves_the_action_and_not_the_state() -> None:
    contract = make_recurrent_contract(stochastic=True)
    runner = PolicyRunner(export_policy(make_recurrent_network(), log_std=torch.zeros(ACT), contract=contract))
    row = observations(1)[0]
    mean = runner.act(row)
    state = runner.state
    runner.reset()
    assert np.abs(runner.act(row, np.full(ACT, 0.5, np.float32)) - mean).max() > 1e-3
    np.testing.assert_array_equal(runner.state, state)


def test_a_bundle_is_verified_along_a_sequence_in_a_process_without_torch(bundle: Path) -> None:
    report = verify(bundle)
    assert report["golden"]["share_of_tolerance"] <= 1.0 and report["state_size"] == H
    parity = json.loads((bundle / "manifest.json").read_text())["variants"]["float32"]["parity"]
    assert parity["observations"] >= 10_000 and parity["sequence"] == report["golden"]["rows"]
    assert "`h_in`" in (bundle / "MODEL_CARD.md").read_text()
    code = (
        "import json, sys\nfrom export.parity_check import Forbid\nsys.meta_path.insert(0, Forbid())\n"
        "from export.verify import verify\nprint(json.dumps(verify(sys.argv[1])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(bundle)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["golden"] == report["golden"]
    np.testing.assert_array_equal(PolicyRunner(bundle).state, np.float32(INITIAL))


def test_golden_rows_depend_on_the_state_before_them(model: bytes, bundle: Path) -> None:
    with np.load(bundle / "golden.npz") as stored:
        golden = dict(stored)
    runner, drift = PolicyRunner(model), []
    for i, row in enumerate(golden["observation"]):
        runner.reset()
        drift.append(np.abs(runner.act(row) - golden["action"][i]) / golden["action_tolerance"][i])
    assert np.max(drift) > 10.0


def test_the_gate_notices_an_export_that_forgets(model: bytes, tmp_path: Path) -> None:
    sound = TorchPolicy(make_recurrent_network(), make_recurrent_contract())

    def forgetful(rows: np.ndarray, h: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        action, raw, h_out = sound(rows, h)
        return action, raw, 0.999 * h_out

    with pytest.raises(ParityError, match="h_out"):
        write_bundle(tmp_path / "p", model, reference=forgetful, rng=np.random.default_rng(0))
    with pytest.raises(ParityError, match="reference gives"):
        write_bundle(
            tmp_path / "p",
            model,
            reference=lambda rows, h: sound(rows, h)[:2],
            rng=np.random.default_rng(0),  # type: ignore[arg-type,return-value]
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("reduce", [weight_fp16, dynamic_int8])
def test_smaller_variants_are_refused(model: bytes, reduce: Any) -> None:
    with pytest.raises(ExportError, match="recurrent"):
        reduce(model)
