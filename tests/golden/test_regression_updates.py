"""AWAC, AWR and one-step RL equal an independent float64 reference, step by step, and a mistake is noticed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from agent import algorithms
from agent.algorithms import config_class
from agent.algorithms.base import Algorithm
from tests.golden.comparing import as_transitions, critic, movement_errors, numbered, parameters, perceptron, tensors_of
from tests.golden.regression_reference import Policy, Reference

pytestmark = pytest.mark.usefixtures("double_precision")
OBSERVATION, ACTION, B, UPDATES, GAMMA = 7, 3, 64, 10, 0.99
# Larger steps and rates than published, so that ten updates move far enough for a mistake to show; the clip is low
# enough that some weights reach it.
COMMON: dict[str, Any] = {"hidden": (32, 24), "batch_size": B, "learning_rate": 3e-3, "weight_clip": 4.0, "beta": 2.0}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "awac": ("awac", {"target_rate": 0.05}),
    "awr": ("awr", {}),
    "exponential": ("one_step", {"target_rate": 0.05}),
    "reverse_kl": ("one_step", {"target_rate": 0.05, "improvement": "reverse_kl", "kl_weight": 0.3}),
}
# Greatest relative error of what ten updates did to a network, and of a reported loss; found: 1e-13.
TOLERANCE = 1e-10


@pytest.mark.parametrize("kind", KINDS)
def test_ten_updates_equal_the_reference_to_ten_digits(kind: str) -> None:
    errors = disagreement(kind)
    assert max(errors.values()) < TOLERANCE, errors


@pytest.mark.parametrize(
    ("kind", "mistake"),
    [
        ("awac", "old critics judge"), ("awac", "no own action"), ("awac", "mean of critics"),
        ("awac", "weights not clipped"), ("awr", "advantages as they are"), ("awr", "no schedule"),
        ("awr", "weights not clipped"), ("exponential", "all rows count"), ("exponential", "mean of critics"),
        ("exponential", "no schedule"), ("reverse_kl", "all rows count"), ("reverse_kl", "no schedule"),
    ],
)  # fmt: skip
def test_one_deliberate_mistake_breaks_the_tolerance(kind: str, mistake: str) -> None:
    assert max(disagreement(kind, mistake=mistake).values()) > 1e-3


def disagreement(kind: str, *, mistake: str = "") -> dict[str, float]:
    """Relative errors after ten updates of each network's movement and of the losses."""
    name, changes = KINDS[kind]
    config: Any = config_class(name)(**{**COMMON, **changes})
    ours = algorithms.make(
        config, observation_size=OBSERVATION, action_size=ACTION, offline_steps=UPDATES,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    start, networks = parameters_of(ours), parts_of(ours)
    reference = Reference(
        kind=kind,  # type: ignore[arg-type]
        policy=networks["actor"], critics=networks["critics"], value=networks["value"],
        beta=config.beta, weight_clip=config.weight_clip, kl_weight=getattr(config, "kl_weight", 0.0),
        target_rate=getattr(config, "target_rate", 0.0), learning_rate=config.learning_rate,
        offline_steps=UPDATES, mistake=mistake,
    )  # fmt: skip
    rng = np.random.default_rng(1)
    errors: dict[str, float] = {}
    for _ in range(UPDATES):
        batch = draw(rng)
        said = ours.update(as_transitions(batch, GAMMA))
        for key, expected in reference.update(**batch, **noise_of(ours)).items():
            error = abs(float(said[key]) - float(expected)) / abs(float(expected))
            errors[key] = max(error, errors.get(key, 0.0))
    value = reference.value
    wanted = {
        "actor": reference.policy.parameters(),
        **({"value": value.parameters()} if value else {}),
        **parameters(numbered("critic", reference.critics) | numbered("target", reference.targets)),
    }
    return errors | movement_errors(start, parameters_of(ours), wanted)


def draw(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A batch of whose rows a third terminates and a third has no next action because a limit cut it off."""
    kind = rng.integers(0, 3, B)
    return {
        "s": rng.normal(size=(B, OBSERVATION)),
        "a": rng.uniform(-1, 1, size=(B, ACTION)),
        "r": rng.normal(size=B),
        "discount": GAMMA * (kind != 1),
        "s2": rng.normal(size=(B, OBSERVATION)),
        "a2": rng.uniform(-1, 1, size=(B, ACTION)),
        "known": (kind == 0).astype(float),
    }


def noise_of(ours: Algorithm[Any]) -> dict[str, np.ndarray]:
    """What the last update drew, for s and for s'."""
    if ours.name == "awac":
        eps, eps2 = ours.noise["actions"].numpy()
    elif getattr(ours.config, "improvement", "") == "reverse_kl":
        eps = eps2 = ours.noise["actions"].numpy()
    else:
        eps = eps2 = np.zeros((B, ACTION))
    return {"eps": eps, "eps2": eps2}


def parts_of(ours: Algorithm[Any]) -> dict[str, Any]:
    tensors = tensors_of(ours)
    members = range(ours.config.critics if "critic" in ours.networks else 0)
    return {
        "actor": Policy(perceptron(tensors, "actor.trunk.layers."), tensors["actor.log_std"]),
        "value": perceptron(tensors, "value.layers.") if "value" in ours.networks else None,
        "critics": [critic(tensors, "critic.", i) for i in members],
        "targets": [critic(tensors, "target_critic.", i) for i in members],
    }


def parameters_of(ours: Algorithm[Any]) -> dict[str, list[np.ndarray]]:
    parts = parts_of(ours)
    return {
        "actor": parts["actor"].parameters(),
        **({"value": parts["value"].parameters()} if parts["value"] else {}),
        **parameters(numbered("critic", parts["critics"]) | numbered("target", parts["targets"])),
    }
