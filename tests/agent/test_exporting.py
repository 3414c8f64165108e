"""What `slipway export` is told about the device stands in the contract, or is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.exporting import DevicePromises
from export.errors import ContractError
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
