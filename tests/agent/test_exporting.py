"""What `slipway export` is told about the device stands in the contract, or is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from agent.export_request import DevicePromises
from agent.exporting import network_reference
from agent.preparation import Preparation
from export.errors import ContractError
from export.onnx_writer import export_policy
from export.runner import PolicyRunner
from tests.agent.learners import ACTIONS, OBSERVATIONS, make_algorithm
from tests.agent.test_publish import contract  # noqa: F401 - a fixture
from tests.export.policies import ACT, make_contract

NAMES = tuple(f"joint_{i}" for i in range(ACT))


def test_promises_fill_the_contract_and_nothing_else() -> None:
    bare = make_contract(control=replace(make_contract().control, hz=None, max_obs_age_ms=None))
    promises = DevicePromises(
        hz=100.0, deadline_ms=4.0, max_obs_age_ms=50.0, on_fault="safe", rate_limit=(2.0,), action_names=NAMES,
        robot_model="arm", robot_revision="b",
    )  # fmt: skip
    filled = promises.fill(bare)
    assert filled.action.rate_limit == (2.0,) * ACT
    assert filled.action.names == NAMES
    control = filled.control
    assert (control.hz, control.deadline_ms, control.max_obs_age_ms, control.on_fault) == (100.0, 4.0, 50.0, "safe")
    assert (filled.robot.model, filled.robot.revision) == ("arm", "b")
    assert replace(filled, action=bare.action, control=bare.control, robot=bare.robot) == bare
    assert DevicePromises().fill(bare) == bare


@pytest.mark.parametrize(
    ("promises", "named"),
    [
        (DevicePromises(rate_limit=(1.0,)), r"rate_limit needs control\.hz"),
        (DevicePromises(hz=50.0, rate_limit=(1.0, 2.0)), "rate_limit has 2 entries"),
        (DevicePromises(hz=50.0, rate_limit=(-1.0,)), "rate_limit"),
        (DevicePromises(hz=0.0), "hz"),
        (DevicePromises(deadline_ms=float("nan")), "deadline_ms"),
        (DevicePromises(max_obs_age_ms=-1.0), "max_obs_age_ms"),
        (DevicePromises(on_fault="pray"), "on_fault"),
        (DevicePromises(action_names=NAMES[1:]), "names"),
        (DevicePromises(action_names=(NAMES[0],) * ACT), "names"),
    ],
    ids=str,
)
def test_promises_that_cannot_be_kept_are_refused(promises: DevicePromises, named: str) -> None:
    with pytest.raises(ContractError, match=named):
        promises.fill(make_contract())


@pytest.mark.parametrize("name", ["td3_bc", *(pytest.param(name, marks=pytest.mark.full) for name in ("iql", "sac"))])
def test_the_reference_of_the_gate_is_what_the_actor_publishes(name: str, contract: Any) -> None:  # noqa: F811
    actor = make_algorithm(name).actor
    network, log_std = actor.to_export()
    whole = replace(contract, stochastic=actor.stochastic)
    runner = PolicyRunner(export_policy(network, log_std=log_std, contract=whole))
    preparation = Preparation(
        mean=np.zeros(OBSERVATIONS, np.float32), std=np.ones(OBSERVATIONS, np.float32), clip=10.0, count=1,
        action_low=-np.ones(ACTIONS, np.float32), action_high=np.ones(ACTIONS, np.float32),
        reward_scale=1.0, reward_shift=0.0, discount=0.99,
    )  # fmt: skip
    observations = 3.0 * np.random.default_rng(0).standard_normal((3000, OBSERVATIONS), dtype=np.float32)
    action, raw, *log_stds = network_reference(actor, preparation)(observations)
    given = runner.infer(observations)
    np.testing.assert_allclose(given[0], action, atol=1e-5)
    np.testing.assert_allclose(given[1], raw, atol=1e-5)
    assert [each.shape for each in log_stds] == ([(3000, ACTIONS)] if name == "sac" else [])
