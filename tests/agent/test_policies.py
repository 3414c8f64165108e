"""What environment a policy is to be run in."""

from __future__ import annotations

from agent.policies import env_spec_of
from tests.export.policies import make_contract


def test_an_environment_that_is_only_named_has_its_task_s_arguments_and_limit() -> None:
    contract = make_contract(env={"id": "Hopper-v5"})
    spec = env_spec_of(contract, "", 0)
    assert (spec["id"], spec["kwargs"], spec["max_episode_steps"]) == ("Hopper-v5", {}, 1000)
    assert env_spec_of(contract, "", 50)["max_episode_steps"] == 50
