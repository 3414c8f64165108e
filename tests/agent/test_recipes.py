"""Fine-tuning recipes: merged over the preset, under the user's file and flags; unknown names refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.algorithms.iql_config import IQLConfig
from agent.commands.train import parse
from agent.config import TrainConfig
from agent.config_files import recipe_names
from agent.errors import ConfigError


def resolved(*arguments: str) -> TrainConfig:
    return parse(list(arguments)).config


def iql(config: TrainConfig) -> IQLConfig:
    assert isinstance(config.algorithm, IQLConfig)
    return config.algorithm


def test_without_a_recipe_nothing_changes() -> None:
    assert resolved() == TrainConfig()


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_resolves_and_is_named_in_the_run(name: str) -> None:
    config = resolved("--recipe", name)
    assert config.recipe == name
    assert all(holds for _, holds, _ in config.rules())


def test_safe_is_plain_iql() -> None:
    config = resolved("--recipe", "safe")
    assert config == TrainConfig(recipe="safe")
    assert (iql(config).policy, iql(config).critics, config.online.utd, config.online.offline_fraction) == (
        "awr", 2, 1.0, 0.5,
    )  # fmt: skip


def test_default_blends_towards_q_and_norms_its_critics_from_pretraining_on() -> None:
    config = resolved("--recipe", "default")
    assert (iql(config).policy, iql(config).blend_updates, iql(config).critic_layer_norm) == ("blended", 10_000, True)
    assert (config.online.utd, config.online.offline_fraction) == (1.0, 0.5)


def test_a_recipe_wins_over_the_preset_and_loses_to_file_and_flags(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("[algorithm]\nblend_updates = 77\nbc_weight = 3\n[online]\nutd = 2\n")
    config = resolved(str(file), "--preset", "adroit", "--recipe", "default", "--algorithm.bc-weight", "5")
    assert (iql(config).beta, iql(config).dropout) == (0.5, 0.1)  # the preset's, of which the recipe says nothing
    assert (iql(config).blend_updates, iql(config).bc_weight, config.online.utd) == (77, 5.0, 2.0)
    assert iql(config).critic_layer_norm


def test_a_file_may_name_its_recipe(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('recipe = "default"\nseed = 3\n')
    assert (resolved(str(file)).recipe, iql(resolved(str(file))).policy) == ("default", "blended")
    assert iql(resolved(str(file), "--recipe", "safe")).policy == "awr"


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown recipe 'defalt'; did you mean 'default'\? \(recipes: default"):
        resolved("--recipe", "defalt")


def test_a_recipe_for_another_algorithm_than_the_one_asked_for_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('[algorithm]\nname = "bc"\n')
    for arguments in (["--algorithm.name", "bc"], [str(file)]):
        with pytest.raises(ConfigError, match=r"recipe default trains iql, but algorithm\.name is 'bc'"):
            resolved(*arguments, "--recipe", "default")
