"""IQL's update equals an independent float64 reference, step after step, and one wrong step would be noticed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch

from agent.algorithms.iql import IQL
from agent.algorithms.iql_config import IQLConfig
from agent.executors.eager import Executor, eager
from tests.golden.comparing import (
    as_transitions,
    critic,
    critics_of,
    movement_errors,
    numbered,
    parameters,
    perceptron,
    tensors_of,
)
from tests.golden.iql_reference import ReferenceIQL

OBSERVATION, ACTION, B, UPDATES = 11, 3, 64, 10
# A larger step than the published 3e-4 lets ten updates move the networks far enough for a mistake to show; β and the
# targets' rate are large for the same reason, and the clip low enough that some weights reach it.
CONFIG = IQLConfig(
    hidden=(32, 24), expectile=0.8, beta=5.0, weight_clip=20.0, learning_rate=3e-3, target_rate=0.05, batch_size=B
)
SETTINGS = (
    "expectile", "beta", "weight_clip", "discount", "target_rate", "learning_rate",
    "policy", "bc_weight", "blend_updates",
)  # fmt: skip
OFFLINE_STEPS = 7  # the last three updates come after the schedule's end

# Greatest relative error of what ten updates did to a network, ‖Δ − Δ_reference‖ / ‖Δ_reference‖; found: 6e-6 in
# float32, 6e-15 in float64. At the published step size and width it is 2e-4, since Adam turns the rounding of a
# gradient near zero into a full step and the steps are small.
MOVEMENT = {torch.float32: 5e-5, torch.float64: 1e-12}
PUBLISHED_MOVEMENT = 1e-3
# Greatest relative error of a loss or a value that the update reports; found: 2e-6 and 5e-15.
REPORT = {torch.float32: 1e-5, torch.float64: 1e-12}


@pytest.fixture
def double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("critics", [1, 2, 4])
@pytest.mark.parametrize("layer_norm", [False, True])
def test_ten_updates_equal_the_reference_in_float32(critics: int, layer_norm: bool) -> None:
    config = replace(CONFIG, critics=critics, critic_layer_norm=layer_norm)
    moved, reported = disagreement(config, torch.float32)
    assert max(moved.values()) < MOVEMENT[torch.float32], moved
    assert max(reported.values()) < REPORT[torch.float32], reported


@pytest.mark.parametrize("layer_norm", [False, True])
def test_the_same_code_in_float64_equals_the_reference_to_twelve_digits(
    layer_norm: bool, double_precision: None
) -> None:
    moved, reported = disagreement(replace(CONFIG, critic_layer_norm=layer_norm), torch.float64)
    assert max(moved.values()) < MOVEMENT[torch.float64], moved
    assert max(reported.values()) < REPORT[torch.float64], reported


def test_the_published_settings_equal_the_reference() -> None:
    moved, reported = disagreement(IQLConfig(batch_size=B), torch.float32)
    assert max(moved.values()) < PUBLISHED_MOVEMENT, moved
    assert max(reported.values()) < REPORT[torch.float32], reported


@pytest.mark.parametrize("policy", ["deterministic", "ddpg_bc", "blended"])
@pytest.mark.parametrize("layer_norm", [False, True])
def test_ten_updates_of_each_extraction_equal_the_reference(
    policy: Any, layer_norm: bool, double_precision: None
) -> None:
    # Online from update 7 on, so ω is 0, 1/2 and 1 in the last three.
    config = replace(CONFIG, policy=policy, critic_layer_norm=layer_norm, bc_weight=0.3, blend_updates=2)
    moved, reported = disagreement(config, torch.float64)
    assert max(moved.values()) < MOVEMENT[torch.float64], moved
    assert max(reported.values()) < REPORT[torch.float64], reported


@pytest.mark.parametrize("change", [{"bc_weight": 0.31}, {"blend_updates": 3}, {"policy": "awr"}])
def test_another_extraction_would_be_noticed(change: dict[str, Any], double_precision: None) -> None:
    config = replace(CONFIG, policy="blended", bc_weight=0.3, blend_updates=2)
    ours, _ = make_pair(replace(config, **change), torch.float64)
    _, reference = make_pair(config, torch.float64)
    assert max(compare(ours, reference, torch.float64)[0].values()) > 1e6 * MOVEMENT[torch.float64]


@pytest.mark.parametrize(
    "mistake",
    [
        "old V in the policy",
        "old V in the target",
        "truncated is terminal",
        "mean of critics",
        "online critics judge",
        "targets first",
        "no schedule",
    ],
)
def test_one_deliberate_mistake_breaks_the_tolerance(mistake: str) -> None:
    moved, _ = disagreement(CONFIG, torch.float32, mistake=mistake)
    assert max(moved.values()) > 1000 * MOVEMENT[torch.float32], moved


def test_weights_that_reach_the_clip_are_among_those_compared() -> None:
    ours, _ = make_pair(CONFIG, torch.float32)
    rng = np.random.default_rng(1)
    weights = torch.cat(
        [ours.update(as_transitions(draw(rng), CONFIG.discount, torch.float32))["weight"] for _ in range(UPDATES)]
    )
    clipped = weights >= CONFIG.weight_clip * (1 - 1e-6)
    assert 0.01 < float(clipped.float().mean()) < 0.9
    assert float(weights.max()) <= CONFIG.weight_clip * (1 + 1e-6)


def disagreement(
    config: IQLConfig,
    dtype: torch.dtype,
    *,
    mistake: str = "",
    executor: Executor = eager,
    precision: Literal["float32", "bf16"] = "float32",
) -> tuple[dict[str, float], dict[str, float]]:
    """Relative errors after ten updates: of each network's movement, and the worst of each reported figure."""
    ours, reference = make_pair(config, dtype, mistake=mistake, precision=precision)
    ours.executor = executor
    return compare(ours, reference, dtype)


def compare(ours: IQL, reference: ReferenceIQL, dtype: torch.dtype) -> tuple[dict[str, float], dict[str, float]]:
    """Let both update ten times and compare."""
    start = parameters_of(ours)
    rng = np.random.default_rng(1)
    reported: dict[str, float] = {}
    for _ in range(UPDATES):
        batch = draw(rng)
        ours_says = ours.update(as_transitions(batch, CONFIG.discount, dtype))
        for name, expected in reference.update(**batch).items():
            if name not in ours_says:
                continue  # an extraction without weights
            found = ours_says[name].double().numpy()
            error = float(np.abs(found - expected).max() / np.abs(expected).max())
            reported[name] = max(error, reported.get(name, 0.0))
    return movement_errors(start, parameters_of(ours), parameters_of_reference(reference)), reported


def draw(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A batch in which a third terminates and a third is cut off; in float32 values, so that both sides start equal."""
    kind = rng.integers(0, 3, B)
    batch = {
        "s": rng.normal(size=(B, OBSERVATION)),
        "a": rng.uniform(-1, 1, size=(B, ACTION)),
        "r": rng.normal(size=B),
        "s2": rng.normal(size=(B, OBSERVATION)),
        "terminated": kind == 1,
        "truncated": kind == 2,
    }
    return {name: value.astype(np.float32).astype(np.float64) for name, value in batch.items()}


def make_pair(
    config: IQLConfig,
    dtype: torch.dtype,
    *,
    mistake: str = "",
    precision: Literal["float32", "bf16"] = "float32",
) -> tuple[IQL, ReferenceIQL]:
    """Ours, and a reference that starts from the very same weights."""
    ours = IQL(
        config,
        observation_size=OBSERVATION,
        action_size=ACTION,
        offline_steps=OFFLINE_STEPS,
        generator=torch.Generator().manual_seed(0),
        precision=precision,
    )
    tensors = tensors_of(ours)
    assert ours.actor.log_std.dtype == dtype
    settings: dict[str, Any] = {name: getattr(config, name) for name in SETTINGS}
    reference = ReferenceIQL(
        actor=perceptron(tensors, "actor.trunk.layers."),
        log_std=tensors["actor.log_std"].copy(),
        critics=[critic(tensors, "critic.", member) for member in range(config.critics)],
        value=perceptron(tensors, "value.layers."),
        offline_steps=OFFLINE_STEPS,
        mistake=mistake,
        **settings,
    )
    return ours, reference


def parameters_of(ours: IQL) -> dict[str, list[np.ndarray]]:
    tensors = tensors_of(ours)
    return {
        "actor": [*perceptron(tensors, "actor.trunk.layers.").parameters(), tensors["actor.log_std"]],
        "value": perceptron(tensors, "value.layers.").parameters(),
        **parameters(critics_of(ours)),
    }


def parameters_of_reference(reference: ReferenceIQL) -> dict[str, list[np.ndarray]]:
    return {
        "actor": [*reference.actor.parameters(), reference.log_std],
        "value": reference.value.parameters(),
        **parameters(numbered("critic", reference.critics) | numbered("target", reference.targets)),
    }
