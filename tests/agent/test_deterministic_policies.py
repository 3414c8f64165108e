"""TD3's kin: when what moves, how a policy without a distribution explores, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from agent.algorithms import ALGORITHMS, config_class
from agent.algorithms.rebrac import ReBRAC
from agent.config import TrainConfig
from agent.config_files import load_preset, merge, preset_names, validate
from agent.errors import ConfigError
from agent.networks import DeterministicActor
from export.onnx_writer import export_policy
from export.policy import write_policy
from export.runner import PolicyRunner
from export.template import Template
from tests.agent.learners import ACTIONS, make_algorithm, random_transitions
from tests.export.policies import ACT, OBS, make_contract


@pytest.mark.parametrize("name", ["td3_bc", "rebrac"])
def test_policy_and_targets_move_in_every_so_manyth_update_and_the_critics_in_each(name: str) -> None:
    algorithm = make_algorithm(name, policy_delay=3)
    rng = np.random.default_rng(0)
    for update in range(1, 7):
        before = {key: t.clone() for key, t in algorithm.state_dict()["tensors"].items() if "adam" not in key}
        algorithm.update(random_transitions(rng))
        now = algorithm.state_dict()["tensors"]
        moved = {key.split(".")[0] for key, t in before.items() if not torch.equal(now[key], t)} - {"generator"}
        assert moved == ({"actor", "target_actor", "critic", "target_critic"} if update % 3 == 0 else {"critic"})


def test_the_alarm_allows_for_the_most_that_rebrac_s_targets_can_pay() -> None:
    algorithm = make_algorithm("rebrac", critic_penalty=3.0)
    batch = random_transitions(np.random.default_rng(0))
    corner = torch.ones_like(batch.action)
    batch = dataclasses.replace(batch, next_action=-corner, next_action_known=torch.ones_like(batch.reward))
    assert isinstance(algorithm, ReBRAC)
    paid = torch.as_tensor(algorithm.next_penalty(batch, corner))
    assert float(algorithm.update(batch)["bonus"]) == float(paid.max()) == 4.0 * ACTIONS * 3.0


def test_the_exported_policy_explores_with_the_constant_spread_and_acts_without_it(tmp_path: Path) -> None:
    contract = make_contract(stochastic=True)
    ours, newer = (
        DeterministicActor(OBS, ACT, (16,), generator=torch.Generator().manual_seed(seed), exploration_std=0.1)
        for seed in (0, 1)
    )
    models = [export_policy(a.to_export()[0], log_std=a.to_export()[1], contract=contract) for a in (ours, newer)]
    # As every publication does: new weights into the first export.
    assert Template.from_bytes(models[0]).patch(newer.exported_weights(), contract) == models[1]
    write_policy(tmp_path / "policy.onnx", models[1])
    runner = PolicyRunner(tmp_path / "policy.onnx")
    observation = np.asarray(contract.normalizer.mean, np.float32)
    eps = np.linspace(-1.0, 1.0, ACT, dtype=np.float32)
    still, exploring = runner.act(observation), runner.act(observation, eps)
    low, high = np.asarray(contract.action.low), np.asarray(contract.action.high)
    with torch.no_grad():
        mean = newer(torch.zeros(1, OBS))[0].numpy()
    np.testing.assert_allclose(still, low + (mean + 1) / 2 * (high - low), atol=1e-4)
    wanted = low + (np.clip(mean + 0.1 * eps, -1, 1) + 1) / 2 * (high - low)
    np.testing.assert_allclose(exploring, wanted, atol=1e-4)


def test_the_spread_is_no_weight_that_a_checkpoint_could_bring_back() -> None:
    algorithm = make_algorithm("td3_bc", exploration_std=0.3)
    assert not [key for key in algorithm.state_dict()["tensors"] if "log_std" in key]
    np.testing.assert_allclose(algorithm.actor.exported_weights()["log_std"], np.log(0.3), rtol=1e-6)


@pytest.mark.parametrize("name", ["top_bc", "awr", "one_step"])
def test_methods_of_logged_data_alone_refuse_an_online_phase(name: str) -> None:
    config = dataclasses.replace(
        TrainConfig(), algorithm=config_class(name)(), replay=Path("a"), out=Path("b"), online_steps=10_000
    )
    with pytest.raises(ConfigError, match=f"{name} cannot fine-tune"):
        validate(config)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("td3_bc", "policy_delay", 0), ("td3_bc", "exploration_std", 0.0), ("td3_bc", "bc_alpha", -1.0),
        ("rebrac", "critic_penalty", -0.1), ("awac", "beta", -1.0), ("awr", "n_step", 0),
        ("one_step", "kl_weight", -1.0), ("top_bc", "top_fraction", 0.0), ("top_bc", "top_fraction", 1.5),
    ],
)  # fmt: skip
def test_values_that_cannot_work_are_refused_by_name(name: str, field: str, value: float) -> None:
    config = dataclasses.replace(config_class(name)(), **{field: value})
    with pytest.raises(ConfigError, match=rf"algorithm\.{field} is"):
        validate(dataclasses.replace(TrainConfig(), algorithm=config))


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_fits_every_algorithm(preset: str) -> None:
    for name in ALGORITHMS:
        config = merge(TrainConfig(), load_preset(preset, name), where=f"preset {preset}")
        assert config.algorithm.name == name
        assert all(holds for _, holds, _ in config.algorithm.rules())
