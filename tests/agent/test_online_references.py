"""SAC and RLPD: they learn from their own experience alone, and a run knows what they need around them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agent import algorithms
from agent.algorithms.sac import SAC
from agent.commands.train import parse
from agent.config_files import validate
from agent.divergence import check_bounds
from agent.errors import ConfigError, DivergenceError
from agent.transitions import Transitions
from tests.agent.corridor import GOAL, LIMIT, mean_return, move, start, write_aimless_episodes


def column(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float32))


@pytest.mark.parametrize(
    ("name", "changes"),
    [("sac", {}), ("rlpd", {"critics": 4, "policy_delay": 1, "target_entropy": -1.0})],
)
def test_from_nothing_it_finds_the_way_to_the_goal(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    settings = {"actor_learning_rate": 3e-3, "learning_rate": 3e-3, "target_rate": 0.05, "initial_temperature": 0.1}
    ours = algorithms.make(
        algorithms.config_class(name)(hidden=(32, 32), **settings, **changes),
        observation_size=1, action_size=1, offline_steps=0, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert isinstance(ours, SAC)
    rng, lanes, updates = np.random.default_rng(0), 20, 600
    # RLPD's other half of each batch is the aimless data of the other tests.
    logged = write_aimless_episodes(tmp_path / "store").sampler(32 if name == "rlpd" else 1, rng=rng)
    noise = torch.Generator().manual_seed(0)
    # What the corridor of the other tests is, lived through instead of logged.
    position, age = start(rng, lanes), np.zeros(lanes)
    rows: list[np.ndarray] = []
    for _ in range(updates):
        with torch.no_grad():
            action, _ = ours.actor.sample(column(position[:, None]), torch.randn(lanes, 1, generator=noise))
        following = move(position, action[:, 0].numpy())
        reached = following >= GOAL
        rows.append(np.stack([position, action[:, 0].numpy(), following, reached], axis=1))
        age += 1
        again = reached | (age >= LIMIT)
        position = np.where(again, start(rng, lanes), following)
        age = np.where(again, 0, age)
        stored = np.concatenate(rows[-250:])
        batch = stored[rng.integers(0, len(stored), 64)]
        if name == "rlpd":
            old = logged.next()
            batch[:32] = np.stack(
                [old.observations[:, 0], old.actions[:, 0], old.next_observations[:, 0], old.terminated], axis=1
            )
        s, a, s2, ended = batch.T
        ours.update(
            Transitions(
                observation=column(s[:, None]), action=column(a[:, None]), reward=-torch.ones(64),
                discount=column(0.99 * (1.0 - ended)), next_observation=column(s2[:, None]),
            )
        )  # fmt: skip

    def act(position: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            action: np.ndarray = torch.tanh(ours.actor.raw(column(position[:, None])))[:, 0].numpy()
        return action

    assert mean_return(act, np.random.default_rng(2)) > -21.0


def test_a_run_of_theirs_starts_online_by_default_and_refuses_to_pretrain(tmp_path: Path) -> None:
    sac, rlpd = (parse(["--algorithm.name", name, "--online-steps", "9000"]).config for name in ("sac", "rlpd"))
    assert (sac.pretrain_steps, sac.online.offline_fraction) == (0, 0.0)
    assert (rlpd.pretrain_steps, rlpd.online.offline_fraction, rlpd.online.utd) == (0, 0.5, 20.0)
    for config in (sac, rlpd):
        validate(config)
        with pytest.raises(ConfigError, match="learns from its own experience only: give --pretrain-steps 0"):
            validate(dataclasses.replace(config, pretrain_steps=10))
    # Weaker than flags and files.
    assert parse(["--algorithm.name", "rlpd", "--online.utd", "2"]).config.online.utd == 2.0
    file = tmp_path / "run.toml"
    file.write_text('[algorithm]\nname = "sac"\n[online]\noffline_fraction = 0.25\n')
    assert parse([str(file)]).config.online.offline_fraction == 0.25


def test_values_may_exceed_the_rewards_by_what_entropy_is_worth_and_no_more() -> None:
    # Rewards up to 1 and γ 0.9 allow for 10, times 10; two action entries at a temperature of 1 add 2 a step.
    result = {"q": torch.tensor([[250.0]]), "bonus": torch.tensor(2.0)}
    check_bounds(result, largest_reward=1.0, discount=0.9, updates=1)
    with pytest.raises(DivergenceError, match="q has exploded"):
        check_bounds({**result, "q": torch.tensor([[310.0]])}, largest_reward=1.0, discount=0.9, updates=1)
    with pytest.raises(DivergenceError, match="q has exploded"):
        check_bounds({"q": result["q"]}, largest_reward=1.0, discount=0.9, updates=1)
