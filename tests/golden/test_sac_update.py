"""SAC, RLPD, CQL and Cal-QL equal an independent float64 reference, update after update; one wrong step is noticed."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch

from agent import algorithms
from agent.algorithms.cal_ql_config import CalQLConfig
from agent.algorithms.cql_config import CQLConfig
from agent.algorithms.rlpd_config import RLPDConfig
from agent.algorithms.sac import SAC
from agent.algorithms.sac_config import SACConfig
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
from tests.golden.sac_reference import ReferenceSAC

pytestmark = pytest.mark.usefixtures("double_precision")
OBSERVATION, ACTION, B, UPDATES = 7, 3, 24, 8
# Large steps, so that eight updates move the networks far enough for a mistake to show.
FAST: dict[str, Any] = {"hidden": (16, 12), "batch_size": B, "learning_rate": 3e-3, "target_rate": 0.05}
CONFIGS: dict[str, SACConfig] = {
    "sac": SACConfig(actor_learning_rate=2e-3, **FAST),
    "rlpd": replace(RLPDConfig(actor_learning_rate=2e-3, **FAST), critics=4, policy_delay=2),
    "cql": CQLConfig(actor_learning_rate=2e-3, sampled_actions=3, **FAST),
    "cql_lagrange": CQLConfig(
        actor_learning_rate=2e-3,
        sampled_actions=3,
        lagrange=True,
        importance_sampling=False,
        backup_entropy=True,
        **FAST,
    ),
    "cal_ql": CalQLConfig(actor_learning_rate=2e-3, sampled_actions=3, **FAST),
}
# Greatest relative error of a network's movement or of a reported figure in float64; found: 4e-13.
CLOSE = 1e-9


@pytest.mark.parametrize("name", CONFIGS)
def test_updates_equal_the_reference(name: str) -> None:
    errors = disagreement(CONFIGS[name])
    assert max(errors.values()) < CLOSE, errors


@pytest.mark.parametrize(
    ("name", "mistake"),
    [
        ("sac", "no entropy"),
        ("sac", "density before tanh"),
        ("rlpd", "all targets"),
        ("cql", "no density"),
        ("cql", "next actions at s'"),
    ],
)
def test_one_deliberate_mistake_is_noticed(name: str, mistake: str) -> None:
    assert max(disagreement(CONFIGS[name], mistake).values()) > 1e-3


def test_the_returns_hold_some_of_cal_qls_values_up_and_not_all() -> None:
    ours = make(CONFIGS["cal_ql"])
    batch = draw(np.random.default_rng(1))
    share = float(ours.update(as_transitions(batch, 0.99))["calibrated_share"])
    assert 0.1 < share < 0.9
    unknown = {**batch, "to_go": np.full(B, np.nan)}
    assert float(make(CONFIGS["cal_ql"]).update(as_transitions(unknown, 0.99))["calibrated_share"]) == 0.0


def disagreement(config: SACConfig, mistake: str = "") -> dict[str, float]:
    """Relative errors after all updates: of each network's movement, and the worst of each reported figure."""
    ours = make(config)
    start = networks_of(ours)
    settings = {**asdict(config), "mistake": mistake}
    reference = ReferenceSAC(
        kind={"rlpd": "sac"}.get(config.name, config.name),
        actor=networks_of(ours)["actor"],
        critics=[networks_of(ours)[f"critic {i}"] for i in range(config.critics)],
        settings=settings,
    )
    rng = np.random.default_rng(1)
    errors: dict[str, float] = {}
    for _ in range(UPDATES):
        batch = draw(rng)
        said = ours.update(as_transitions(batch, config.discount))
        noise = {key: value.numpy() for key, value in ours.noise._drawn.items()}
        members = ours.critics.subset.members
        subset = np.arange(config.critics) if members is None else members.numpy()
        for key, expected in reference.update(**batch, noise=noise, subset=subset).items():
            error = abs(float(said[key]) - expected) / max(abs(expected), 1e-3)
            errors[key] = max(error, errors.get(key, 0.0))
    errors["temperature"] = abs(float(ours.temperature.log.detach()) - float(reference.log_temperature))
    if config.name == "cql" and isinstance(config, CQLConfig) and config.lagrange:
        errors["factor"] = abs(float(ours.state_dict()["tensors"]["factor.log"]) - float(reference.log_factor))
        assert float(reference.log_factor) != 1.0
    assert float(reference.log_temperature) != 0.0
    wanted = {
        "actor": reference.actor,
        **numbered("critic", reference.critics),
        **numbered("target", reference.targets),
    }
    return errors | movement_errors(parameters(start), parameters(networks_of(ours)), parameters(wanted))


def make(config: SACConfig) -> SAC[Any]:
    ours = algorithms.make(
        config, observation_size=OBSERVATION, action_size=ACTION, offline_steps=0,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert isinstance(ours, SAC)
    return ours


def draw(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A batch of whose rows a third terminates and a third has no known return."""
    kind = rng.integers(0, 3, B)
    return {
        "s": rng.normal(size=(B, OBSERVATION)),
        "a": rng.uniform(-1, 1, size=(B, ACTION)),
        "r": rng.normal(size=B),
        "s2": rng.normal(size=(B, OBSERVATION)),
        "terminated": (kind == 1).astype(float),
        "to_go": np.where(kind == 2, np.nan, rng.normal(size=B)),
    }


def networks_of(ours: SAC[Any]) -> dict[str, Network]:
    return {"actor": perceptron(tensors_of(ours), "actor.trunk.layers."), **critics_of(ours)}
