"""TD3+BC's and ReBRAC's updates equal an independent float64 reference, step by step, and a mistake is noticed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from agent import algorithms
from agent.algorithms.rebrac_config import ReBRACConfig
from agent.algorithms.td3 import TD3
from agent.algorithms.td3_bc_config import TD3BCConfig
from agent.algorithms.td3_config import TD3Config
from tests.golden.comparing import (
    as_transitions,
    critics_of,
    movement_errors,
    numbered,
    parameters,
    perceptron,
    tensors_of,
)
from tests.golden.iql_reference import Network
from tests.golden.td3_reference import ReferenceTD3

pytestmark = pytest.mark.usefixtures("double_precision")
OBSERVATION, ACTION, B, UPDATES = 7, 3, 64, 10
# Larger steps and rates than published, so that ten updates move far enough for a mistake to show.
COMMON: dict[str, Any] = {
    "hidden": (32, 24), "batch_size": B, "learning_rate": 3e-3, "target_rate": 0.05,
    "target_noise": 0.3, "target_noise_clip": 0.4,
}  # fmt: skip
CONFIGS: dict[str, TD3Config] = {
    "td3_bc": TD3BCConfig(**COMMON),
    "rebrac": ReBRACConfig(**COMMON, actor_penalty=0.3, critic_penalty=0.2),
}
# Greatest relative error of what ten updates did to a network, and of a reported loss; found: 1e-14.
TOLERANCE = 1e-11


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_ten_updates_equal_the_reference_to_eleven_digits(name: str) -> None:
    assert max(disagreement(name).values()) < TOLERANCE, disagreement(name)


@pytest.mark.parametrize(
    "mistake",
    ["online policy in the target", "no smoothing", "mean of critics", "no delay", "value not normalised"],
)
@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_one_deliberate_mistake_breaks_the_tolerance(name: str, mistake: str) -> None:
    assert max(disagreement(name, mistake=mistake).values()) > 1e-3


def test_a_penalty_for_next_actions_that_there_are_none_of_would_be_noticed() -> None:
    assert max(disagreement("rebrac", mistake="unknown next actions count").values()) > 1e-3


def disagreement(name: str, *, mistake: str = "") -> dict[str, float]:
    """Relative errors after ten updates of each network's movement and of the losses."""
    config = CONFIGS[name]
    ours = algorithms.make(
        config, observation_size=OBSERVATION, action_size=ACTION, offline_steps=100,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert isinstance(ours, TD3)
    start = networks_of(ours)
    reference = reference_of(config, networks_of(ours), mistake)
    rng = np.random.default_rng(1)
    errors: dict[str, float] = {}
    for _ in range(UPDATES):
        batch = draw(rng)
        said = ours.update(as_transitions(batch, config.discount))
        for key, expected in reference.update(**batch, eps=ours.noise["smoothing"].numpy()).items():
            found = float(said[key]) if key in said else np.inf
            errors[key] = max(abs(found - float(expected)) / abs(float(expected)), errors.get(key, 0.0))
    wanted = {
        "actor": reference.actor,
        "target actor": reference.target_actor,
        **numbered("critic", reference.critics),
        **numbered("target", reference.target_critics),
    }
    return errors | movement_errors(parameters(start), parameters(networks_of(ours)), parameters(wanted))


def reference_of(config: TD3Config, networks: dict[str, Network], mistake: str) -> ReferenceTD3:
    if isinstance(config, ReBRACConfig):
        weights = (config.actor_penalty, config.critic_penalty)
    else:
        assert isinstance(config, TD3BCConfig)
        weights = (config.bc_alpha, 0.0)
    return ReferenceTD3(
        kind="rebrac" if isinstance(config, ReBRACConfig) else "td3_bc",
        actor=networks["actor"].copy(),
        critics=[networks[f"critic {i}"].copy() for i in range(config.critics)],
        policy_weight=weights[0], critic_weight=weights[1],
        discount=config.discount, target_rate=config.target_rate, learning_rate=config.learning_rate,
        noise=config.target_noise, noise_clip=config.target_noise_clip, delay=config.policy_delay, mistake=mistake,
    )  # fmt: skip


def draw(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A batch of whose rows a third terminates and a third has no next action because a limit cut it off."""
    kind = rng.integers(0, 3, B)
    return {
        "s": rng.normal(size=(B, OBSERVATION)),
        "a": rng.uniform(-1, 1, size=(B, ACTION)),
        "r": rng.normal(size=B),
        "s2": rng.normal(size=(B, OBSERVATION)),
        "terminated": (kind == 1).astype(float),
        "a2": rng.uniform(-1, 1, size=(B, ACTION)),
        "known": (kind == 0).astype(float),
    }


def networks_of(ours: TD3[Any]) -> dict[str, Network]:
    tensors = tensors_of(ours)
    return {
        "actor": perceptron(tensors, "actor.trunk.layers."),
        "target actor": perceptron(tensors, "target_actor.trunk.layers."),
        **critics_of(ours),
    }
