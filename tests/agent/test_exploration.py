"""Exploration by Q: what is published for it, what resumes bit for bit, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agent import checkpoint
from agent.algorithms import config_class
from agent.board import Board, Slot
from agent.collector import COLLECTOR_BRANCH
from agent.config import OnlineConfig, TrainConfig
from agent.config_files import validate
from agent.errors import CheckpointError, ConfigError
from agent.exploration import PREFIX, Exploration, critic_of
from agent.networks import CandidatePolicy
from agent.publish import PolicyRefusedError, Publisher, policy_path
from export.candidates import draw_noise
from export.onnx_writer import export_policy
from export.policy import read_policy
from export.runner import PolicyRunner
from export.template import Template
from replay.store import Store
from tests.agent.learners import OBSERVATIONS, learn, make_algorithm, make_learner
from tests.agent.test_lockstep import STEPS, WARMUP, killed, live, outcome, started
from tests.agent.test_publish import contract  # noqa: F401 - a fixture
from tests.faults.agent import events

EXPLORATIONS = ("best_of_n", "expansion")


def config_with(name: str = "iql", *, pretrain_steps: int = 100, algorithm: Any = None, **online: Any) -> TrainConfig:
    return TrainConfig(
        replay=Path("a"), out=Path("b"), pretrain_steps=pretrain_steps, online_steps=10_000,
        algorithm=algorithm or config_class(name)(), online=OnlineConfig(**online),
    )  # fmt: skip


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("online", "words"),
    [
        ({"candidates": 1}, r"online\.candidates is 1 but must lie in 2 to 256"),
        ({"candidates": 257}, r"online\.candidates is 257 but must lie in 2 to 256"),
        ({"expansion_temperature": 0.0}, r"online\.expansion_temperature is 0\.0 but must be positive"),
        ({"expansion_temperature": float("inf")}, r"online\.expansion_temperature is inf but must be finite"),
        ({"exploration": "best_of_n", "exploration_noise": 0.0}, r"online\.exploration_noise is 0\.0 .* alike"),
    ],
)
def test_values_that_cannot_work_are_refused_by_name(online: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        validate(config_with(**online))


@pytest.mark.parametrize("exploration", EXPLORATIONS)
@pytest.mark.parametrize("name", ["bc", "top_bc", "awr"])
def test_methods_without_q_cannot_explore_by_it(name: str, exploration: str) -> None:
    with pytest.raises(ConfigError, match=rf"online\.exploration {exploration} chooses by Q, but {name} learns no Q"):
        validate(replace(config_with(name, exploration=exploration), online_steps=0))


def test_a_bonus_that_the_graph_lacks_is_refused() -> None:
    algorithm = config_class("iql")(anti_exploration="rnd")  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match=r"best_of_n chooses by Q, but algorithm\.anti_exploration"):
        validate(config_with(algorithm=algorithm, exploration="best_of_n"))


def test_expansion_needs_a_pretrained_policy() -> None:
    with pytest.raises(ConfigError, match=r"online\.exploration is expansion but needs a pretrained policy"):
        validate(config_with("sac", pretrain_steps=0, exploration="expansion"))
    validate(config_with("sac", pretrain_steps=0, exploration="best_of_n"))


# --- what is published ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["iql", "td3_bc", "sac", "awac", "rebrac", "cal_ql", "rlpd", "wsrl", "one_step"])
def test_every_method_with_q_offers_its_own_actor_and_critics(name: str) -> None:
    algorithm = make_algorithm(name)
    exploration = Exploration(algorithm, config_with(name, exploration="best_of_n", candidates=6))
    policy = exploration.begin()
    assert isinstance(policy, CandidatePolicy)
    observation = torch.randn(4, OBSERVATIONS, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        unit, raw, q = policy(observation, torch.zeros(4, 6 * algorithm.action_size))
        torch.testing.assert_close(unit, torch.tanh(algorithm.actor.raw(observation)))
        torch.testing.assert_close(raw, algorithm.actor.raw(observation))
        worth = critic_of(algorithm)(observation, unit).amin(dim=0)
    torch.testing.assert_close(q, worth[:, None].expand(-1, 6))


def test_the_learners_updates_reach_what_is_published_but_not_the_frozen_policy() -> None:
    algorithm = make_learner(offline_steps=0)
    exploration = Exploration(algorithm, config_with(exploration="expansion", pretrain_steps=1))
    policy = exploration.begin()
    before = {name: w.copy() for name, w in policy.exported_weights().items()}
    learn(algorithm, np.random.default_rng(0), 3)
    after = policy.exported_weights()
    for part, moves in (("actor.trunk", True), ("critic", True), ("frozen", False)):
        names = [name for name in after if name.startswith(f"network.{part}")]
        assert names
        assert any(not np.array_equal(before[name], after[name]) for name in names) == moves


def test_critics_that_give_infinity_are_never_published_though_their_weights_are_finite(
    tmp_path: Path, contract: Any  # noqa: F811
) -> None:  # fmt: skip
    algorithm = make_learner()
    exploration = Exploration(algorithm, config_with(exploration="best_of_n", candidates=3))
    policy = exploration.begin()
    whole = replace(contract, stochastic=policy.stochastic, candidates=policy.candidates)
    template = Template.from_bytes(export_policy(policy.to_export()[0], log_std=None, contract=whole))
    board = Board(tmp_path / "board.bin")
    (tmp_path / "policies").mkdir()
    probe = np.random.default_rng(0).normal(size=(8, OBSERVATIONS)).astype(np.float32)
    publisher = Publisher(tmp_path / "policies", board, template, whole, version=0, probe=probe)
    publisher.publish(policy.exported_weights(), step=1)
    weights = {name: w.copy() for name, w in policy.exported_weights().items()}
    for name in weights:
        if name.startswith("network.critic"):
            weights[name][:] = 3e38
    with pytest.raises(PolicyRefusedError, match=r"gives NaN or infinity in 8 of 8 observations"):
        publisher.publish(weights, step=17)
    assert board[Slot.POLICY_VERSION] == 1
    assert publisher.publish(policy.exported_weights(), step=18) == policy_path(tmp_path / "policies", 2)


# --- a run in lockstep ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exploration")


@pytest.fixture(scope="module", params=[pytest.param("best_of_n", marks=pytest.mark.full), "expansion"])
def undisturbed(request: pytest.FixtureRequest, place: Path) -> Any:
    run = started(place, request.param, exploration=request.param, candidates=4)
    assert live(run)
    return run


def test_killed_while_it_explores_a_run_ends_bit_for_bit_as_the_undisturbed(place: Path, undisturbed: Any) -> None:
    name = undisturbed.path.name
    run = started(place, f"{name}-killed", exploration=name, candidates=4)
    killed(run, at_steps=195)
    assert live(run)
    assert outcome(run) == outcome(undisturbed)
    assert {event["kind"] for event in events(run.path)} == {"executor", "resumed"}


def test_its_policies_choose_and_the_frozen_one_stays_as_it_was_at_the_switch(undisturbed: Any) -> None:
    name = undisturbed.path.name
    found = checkpoint.load_latest(undisturbed.checkpoints, on_fallback=pytest.fail)
    assert found is not None
    frozen = {key: tensor for key, tensor in found.tensors.items() if key.startswith(PREFIX)}
    first, last = (read_policy(policy_path(undisturbed.policies, v)) for v in (1, found.state["policy_version"]))
    for policy in (first, last):
        assert policy.contract.candidates is not None
        assert policy.contract.candidates.count == (4 if name == "best_of_n" else 2)
    assert bool(frozen) == (name == "expansion")
    at_switch, now = Template.from_bytes(first.model), Template.from_bytes(last.model)
    for key, tensor in frozen.items():
        layer = key.removeprefix(PREFIX)
        if layer != "log_std":  # its mean alone is asked for
            np.testing.assert_array_equal(now.weight(f"network.frozen.{layer}"), tensor.numpy())
            np.testing.assert_array_equal(at_switch.weight(f"network.actor.{layer}"), tensor.numpy())
            assert not np.array_equal(now.weight(f"network.actor.{layer}"), tensor.numpy())


def test_in_its_warm_up_too_each_stored_action_is_the_graphs_for_the_noise_of_its_generator(undisturbed: Any) -> None:
    reader = Store.open(undisturbed.replay).reader()
    o, a = reader.spec.observation_size, reader.spec.action_size
    rng = np.random.default_rng(np.random.SeedSequence([0, COLLECTOR_BRANCH]))
    runner = PolicyRunner(policy_path(undisturbed.policies, 1))
    low, high = np.float32(reader.spec.action_low), np.float32(reader.spec.action_high)
    rows = reader.rows("collector-000", 0, WARMUP)
    first, valid = rows[:, reader.spec.offsets["first"]], rows[:, reader.spec.offsets["valid"]]
    for number, row in enumerate(rows):
        if first[number]:
            rng.integers(2**31)  # the reset's seed
        if valid[number]:
            noise = draw_noise(runner.contract, rng, 1)[0]
            np.testing.assert_array_equal(np.clip(runner.act(row[:o], noise), low, high), row[o : o + a])
    assert STEPS > WARMUP > first.sum() > 1


def test_a_checkpoint_without_its_frozen_policy_is_refused() -> None:
    algorithm = make_learner()
    exploration = Exploration(algorithm, config_with(exploration="expansion", pretrain_steps=1))
    learn(algorithm, np.random.default_rng(0), 2)
    with pytest.raises(CheckpointError, match="lacks the frozen policy"):
        exploration.begin()
    with pytest.raises(CheckpointError, match="is not this configuration's"):
        exploration.load({f"{PREFIX}trunk.layers.0.weight": torch.zeros(1, 1)})
