"""The runner gives the policy's action, or a safe one with the reason; it refuses what it cannot trust."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from export import wire
from export.contract import Contract, contract_metadata
from export.contract_parts import ActionSpec, Control, Normalizer, ObservationTerm
from export.errors import ContractError, ExportError, IntegrityError
from export.onnx_writer import export_policy
from export.runner import PolicyRunner
from export.safeguards import FAULT, Flag
from export.template import Template
from tests.export.policies import ACT, OBS, make_contract, make_network, weights_of


@pytest.fixture
def runner(model: bytes) -> PolicyRunner:
    return PolicyRunner(model)


@pytest.fixture(scope="module")
def stochastic_model() -> bytes:
    return export_policy(make_network(), log_std=torch.full((ACT,), -1.0), contract=make_contract(stochastic=True))


def observation(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=OBS).astype(np.float32)


def republish(model: bytes, contract: Contract) -> PolicyRunner:
    return PolicyRunner(Template.from_bytes(model).patch(weights_of(make_network()), contract))


def with_control(**changes: float | str | None) -> Contract:
    return make_contract(control=replace(Control(hz=50.0), **changes))


def test_one_observation_and_a_batch_give_the_same_action(runner: PolicyRunner) -> None:
    observations = np.stack([observation(seed) for seed in range(8)])
    batch = runner.act(observations)
    assert batch.shape == (8, ACT) and batch.dtype == np.float32
    for row, expected in zip(observations, batch, strict=True):
        np.testing.assert_allclose(runner.act(row), expected, rtol=1e-5, atol=1e-5)
        action, flags = runner.step(row)
        np.testing.assert_array_equal(action, runner.act(row))
        assert flags == Flag.OK


def test_an_action_is_the_callers_to_keep(runner: PolicyRunner) -> None:
    first = runner.act(observation(0))
    kept = first.copy()
    second = runner.act(observation(1))
    np.testing.assert_array_equal(first, kept)
    assert not np.array_equal(first, second)
    first[:] = 99.0
    np.testing.assert_array_equal(runner.act(observation(0)), kept)


def test_a_strided_reused_or_float64_observation_is_read_anew_each_time(runner: PolicyRunner) -> None:
    """Binding a caller's array would freeze a non-contiguous one at its first value."""
    expected = [runner.act(observation(0)), runner.act(observation(1))]
    wide = np.zeros((OBS, 2), np.float32)
    double = np.zeros(OBS)
    for seed in (0, 1):
        wide[:, 1] = observation(seed)
        double[:] = observation(seed)
        for given in (wide[:, 1], double, observation(seed)[::-1].copy()[::-1]):
            np.testing.assert_array_equal(runner.act(given), expected[seed])
            np.testing.assert_array_equal(runner.step(given)[0], expected[seed])


def test_without_noise_a_stochastic_policy_gives_its_mean(stochastic_model: bytes, runner: PolicyRunner) -> None:
    noisy = PolicyRunner(stochastic_model)
    assert noisy.stochastic and not runner.stochastic
    mean = noisy.act(observation())
    np.testing.assert_allclose(mean, runner.act(observation()), rtol=1e-5, atol=1e-5)
    other = noisy.act(observation(), np.ones(ACT, np.float32))
    assert not np.allclose(other, mean)
    np.testing.assert_array_equal(noisy.act(observation()), mean)
    noisy.act(observation(), np.ones(ACT, np.float32))
    np.testing.assert_array_equal(noisy.step(observation())[0], mean)
    for eps in (np.ones(ACT + 1), np.ones((1, ACT))):
        with pytest.raises(ExportError, match="eps"):
            noisy.act(observation(), eps)
    with pytest.raises(ExportError, match="deterministic"):
        runner.act(observation(), np.ones(ACT))


BAD_SHAPES = [
    np.zeros(OBS - 1, np.float32),
    np.zeros(1, np.float32),
    np.zeros((), np.float32),
    np.zeros((1, OBS), np.float32),
    np.zeros((2, 1, OBS), np.float32),
    np.zeros(OBS, np.complex64),
    np.array(["a"] * OBS),
    np.array([None] * OBS),
]


@pytest.mark.parametrize("bad", BAD_SHAPES, ids=lambda bad: f"{bad.dtype}{bad.shape}")
def test_a_step_flags_what_is_no_observation_and_act_refuses_it(runner: PolicyRunner, bad: np.ndarray) -> None:
    good, _ = runner.step(observation())
    action, flags = runner.step(bad)
    assert flags == Flag.SHAPE
    np.testing.assert_array_equal(action, good)
    if bad.shape != (1, OBS):  # a batch of one
        with pytest.raises(ExportError, match=r"takes float32\["):
            runner.act(bad)


def test_what_is_no_array_at_all_is_a_flag_too(runner: PolicyRunner) -> None:
    for bad in (None, [0.0] * OBS, "observation"):
        assert runner.step(bad)[1] == Flag.SHAPE  # type: ignore[arg-type]
        with pytest.raises(ExportError, match="the policy takes"):
            runner.act(bad)  # type: ignore[arg-type]


def test_an_empty_batch_gives_an_empty_batch(runner: PolicyRunner) -> None:
    assert runner.act(np.zeros((0, OBS), np.float32)).shape == (0, ACT)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, OBS - 1])
def test_nan_and_infinity_hold_the_last_action(runner: PolicyRunner, bad: float, at: int) -> None:
    good, _ = runner.step(observation())
    poisoned = observation(1)
    poisoned[at] = bad
    action, flags = runner.step(poisoned)
    assert flags == Flag.RANGE and flags & FAULT
    np.testing.assert_array_equal(action, good)
    assert runner.step(observation(1))[1] == Flag.OK


def test_float64_beyond_float32_is_out_of_range_and_not_a_warning(runner: PolicyRunner) -> None:
    assert runner.step(np.full(OBS, 1e300))[1] == Flag.RANGE
    runner.act(np.full((2, OBS), 1e300))


@pytest.mark.parametrize("value", [3e38, -3e38, 1e38, -1e38, 1e-42, -1e-42, 0.0])
def test_extreme_but_finite_observations_give_an_action_within_bounds(runner: PolicyRunner, value: float) -> None:
    action, flags = runner.step(np.full(OBS, value, np.float32))
    assert flags == Flag.OK
    assert (action >= np.float32(runner.contract.action.low)).all()
    assert (action <= np.float32(runner.contract.action.high)).all()


def test_valid_ranges_of_the_contract_are_enforced(model: bytes) -> None:
    terms = (
        ObservationTerm(name="qpos", offset=0, length=8, valid_min=(-2.0,) * 8, valid_max=(2.0,) * 8),
        ObservationTerm(name="qvel", offset=8, length=9),
    )
    runner = republish(model, make_contract(observation=terms))
    inside = np.zeros(OBS, np.float32)
    inside[8:] = 100.0
    inside[:8] = 2.0
    assert runner.step(inside)[1] == Flag.OK
    inside[3] = np.nextafter(np.float32(2.0), np.float32(3.0))
    assert runner.step(inside)[1] == Flag.RANGE


def test_old_observations_and_clocks_that_run_backwards_are_faults(model: bytes) -> None:
    runner = republish(model, with_control(max_obs_age_ms=50.0))
    now = time.monotonic()
    assert runner.step(observation(), now)[1] == Flag.OK
    assert runner.step(observation(), now)[1] == Flag.OK  # a slower sensor repeats its last sample
    assert runner.step(observation(), now - 0.01)[1] == Flag.BACKWARDS
    assert runner.step(observation(), time.monotonic() + 10.0)[1] == Flag.BACKWARDS
    assert runner.step(observation(), float("nan"))[1] == Flag.BACKWARDS
    time.sleep(0.06)
    assert runner.step(observation(), now)[1] == Flag.STALE
    assert runner.step(observation(), time.monotonic())[1] == Flag.OK


def test_a_driver_that_repeats_its_last_sample_under_fresh_stamps_is_noticed(model: bytes) -> None:
    runner = PolicyRunner(model, frozen_after=4)
    still, now = observation(), time.monotonic()
    flags = [runner.step(still, now - 0.01 + 0.001 * i)[1] for i in range(6)]
    assert flags == [Flag.OK] * 3 + [Flag.FROZEN] * 3 and int(Flag.FROZEN) & FAULT
    assert runner.step(observation(1), now)[1] == Flag.OK
    # A slow sensor repeats its stamp too, and a single number that moves is enough.
    assert {runner.step(observation(1), now)[1] for _ in range(20)} == {Flag.OK}
    for i in range(20):
        moving = still.copy()
        moving[3] += np.float32(1e-5 * i)
        assert runner.step(moving, time.monotonic())[1] == Flag.OK
    assert {PolicyRunner(model).step(still, time.monotonic())[1] for _ in range(20)} == {Flag.OK}  # unless asked for
    with pytest.raises(ExportError, match="frozen_after"):
        PolicyRunner(model, frozen_after=1)


def test_a_frozen_sensor_holds_until_it_moves_again_also_without_time_stamps(model: bytes) -> None:
    runner = PolicyRunner(model, frozen_after=3)
    actions = [runner.step(observation(seed))[0] for seed in (0, 1, 1)]
    held, flags = runner.step(observation(1))
    assert flags == Flag.FROZEN
    np.testing.assert_array_equal(held, actions[1])
    runner.reset()
    assert [runner.step(observation(1))[1] for _ in range(3)] == [Flag.OK, Flag.OK, Flag.FROZEN]


def test_a_decision_that_stalled_beyond_the_observations_age_is_not_executed(model: bytes) -> None:
    runner = republish(model, with_control(max_obs_age_ms=50.0, deadline_ms=20.0))
    session = runner._session

    class Stalling:
        seconds = 0.03

        def run_with_iobinding(self, binding: object) -> None:
            time.sleep(self.seconds)
            session.run_with_iobinding(binding)

    assert runner.step(observation(), time.monotonic())[1] == Flag.OK
    runner._session = stalling = Stalling()
    late, flags = runner.step(observation(1), time.monotonic())
    if flags == Flag.LATE:  # on a busy machine 30 ms may become 50
        np.testing.assert_array_equal(late, PolicyRunner(model).act(observation(1)))
    stalling.seconds = 0.08
    before = runner.last_action
    action, flags = runner.step(observation(2), time.monotonic())
    assert flags == Flag.STALE
    np.testing.assert_array_equal(action, before)


def test_before_any_action_a_fault_gives_the_middle_of_the_bounds(runner: PolicyRunner) -> None:
    action, flags = runner.step(np.full(OBS, np.nan, np.float32))
    assert flags == Flag.RANGE and runner.last_action is None
    middle = (np.asarray(runner.contract.action.low) + np.asarray(runner.contract.action.high)) / 2
    np.testing.assert_allclose(action, middle, rtol=1e-6)


def test_the_rate_limit_starts_from_the_last_executed_action(model: bytes) -> None:
    action = make_contract().action
    limited = ActionSpec(low=action.low, high=action.high, rate_limit=(0.5,) * ACT)
    runner = republish(model, make_contract(action=limited))
    free = PolicyRunner(model)
    first, flags = runner.step(observation(0))
    assert flags == Flag.OK  # nothing was executed before
    wanted = free.act(observation(1))
    second, flags = runner.step(observation(1))
    assert flags == Flag.RATE_LIMITED and not flags & FAULT
    reach = np.float32(0.5) / np.float32(50.0)
    np.testing.assert_allclose(second, np.clip(wanted, first - reach, first + reach), rtol=1e-6)
    runner.executed(wanted)
    np.testing.assert_array_equal(runner.step(observation(1))[0], wanted)
    runner.reset()
    assert runner.step(observation(0))[1] == Flag.OK


def test_a_late_step_is_noted_but_executed(model: bytes) -> None:
    runner = republish(model, with_control(deadline_ms=1e-6))
    action, flags = runner.step(observation())
    assert flags == Flag.LATE and not flags & FAULT
    np.testing.assert_array_equal(action, PolicyRunner(model).act(observation()))


def sabotaged(model: bytes, contract: Contract, *nodes: onnx.NodeProto) -> bytes:
    """The same policy with other nodes behind the network: what a broken runtime or a wrong graph would give."""
    proto = onnx.load_from_string(model)
    del proto.metadata_props[:]
    kept = [node for node in proto.graph.node if "action" not in node.output]
    del proto.graph.node[:]
    proto.graph.node.extend([*kept, *nodes])
    return bytes(proto.SerializeToString()) + wire.encode_entries(contract_metadata(contract))


def test_a_policy_that_gives_nan_or_leaves_its_bounds_is_not_obeyed(model: bytes) -> None:
    node = onnx.helper.make_node
    diverged = PolicyRunner(sabotaged(model, make_contract(), node("Sqrt", ["policy/squashed"], ["action"])))
    action, flags = diverged.step(observation())
    assert flags == Flag.NOT_FINITE and np.isfinite(action).all()
    unbounded = PolicyRunner(sabotaged(model, make_contract(), node("Exp", ["raw"], ["action"])))
    action, flags = unbounded.step(3 * observation())
    assert flags == Flag.BOUNDS
    assert (action <= np.asarray(unbounded.contract.action.high)).all()


def test_an_output_that_the_run_does_not_write_is_noticed(runner: PolicyRunner) -> None:
    runner.step(observation())

    class Idle:
        def run_with_iobinding(self, binding: object) -> None:
            pass

    runner._session = Idle()
    assert runner.step(observation(1))[1] == Flag.NOT_FINITE


def test_an_inference_that_fails_is_a_flag(runner: PolicyRunner) -> None:
    runner.step(observation())
    runner._binding = onnxruntime.InferenceSession(runner.policy.model).io_binding()  # nothing bound: a real ort error
    action, flags = runner.step(observation(1))
    assert flags == Flag.RUN and np.isfinite(action).all()


def test_the_session_uses_one_thread_and_does_not_spin(runner: PolicyRunner) -> None:
    options = runner._session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_a_policy_for_another_robot_is_refused(model: bytes) -> None:
    contract = make_contract().to_dict()
    PolicyRunner(model, expect=contract)
    with pytest.raises(ContractError, match=r"action\.low has 6 entries, 7 are expected"):
        PolicyRunner(model, expect={"action": {"low": [0.0] * 7}})
    with pytest.raises(ContractError, match=r"env\.id"):
        PolicyRunner(model, expect={"env": {"id": "Door-v1"}})


def test_bytes_that_are_no_policy_are_refused() -> None:
    identity = onnx.helper.make_model(
        onnx.helper.make_graph([], "empty", [], []), opset_imports=[onnx.helper.make_opsetid("", 18)]
    )
    for bad in (b"", b"not a model", identity.SerializeToString()):
        with pytest.raises(ExportError):
            PolicyRunner(bad)


def test_a_graph_that_onnxruntime_cannot_open_is_refused(model: bytes) -> None:
    broken = sabotaged(model, make_contract(), onnx.helper.make_node("Sqrt", ["nowhere"], ["action"]))
    with pytest.raises(IntegrityError, match="onnxruntime cannot open it"):
        PolicyRunner(broken)


def test_a_policy_of_one_entry_runs() -> None:
    contract = Contract(
        policy_id="tiny",
        observation=(ObservationTerm(name="x", offset=0, length=1),),
        normalizer=Normalizer.identity(1),
        action=ActionSpec(low=(-1.0,), high=(1.0,)),
    )
    runner = PolicyRunner(export_policy(torch.nn.Linear(1, 1), log_std=None, contract=contract))
    assert runner.act(np.zeros(1, np.float32)).shape == (1,)
    assert runner.step(np.zeros(1, np.float32))[1] == Flag.OK
