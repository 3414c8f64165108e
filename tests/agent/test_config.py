"""Configuration: what is written reads back equal, what is wrong is refused by name, what may change on a resume."""

from __future__ import annotations

import dataclasses
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from agent.algorithms.bc_config import BCConfig
from agent.algorithms.iql_config import IQLConfig
from agent.algorithms.sac_config import SACConfig
from agent.config import CheckpointConfig, EvaluationConfig, GuardConfig, OnlineConfig, TrainConfig
from agent.config_files import (
    flatten,
    from_toml,
    incompatible,
    load_preset,
    load_toml,
    merge,
    preset_names,
    to_nested,
    to_toml,
    validate,
)
from agent.errors import ConfigError
from agent.resolving import continued
from agent.run_directory import RunDirectory
from envs.catalog import CATALOG
from replay.schema import StoreSpec
from replay.store import Store

# No field at its default, values that are awkward to write down.
UNUSUAL = TrainConfig(
    replay=Path('/data/with "quotes" and \\ and ünïcode/x.zarr'),
    out=Path("runs/δ"),
    env="AntMaze_UMaze-v5",
    max_episode_steps=123,
    preset="antmaze",
    recipe="safe",
    seed=2**40,
    pretrain_steps=1,
    executor="eager",
    precision="bf16",
    online_steps=10**9,
    normalize_observations=False,
    observation_clip=0.1 + 0.2,
    reward_scaling="return_range",
    reward_shift=-1e-300,
    threads=3,
    log_every=7,
    diagnostics_every=0,
    tracker="mlflow",
    algorithm=IQLConfig(
        expectile=0.1 + 0.7,
        beta=1e22,
        extraction="after",
        weight_clip=3.0000000000000004,
        discount=0.999999999999999,
        target_rate=1.0,
        actor_average=0.5,
        actor_online_rate=0.7,
        learning_rate=3e-7,
        batch_size=1,
        hidden=(1, 2, 3),
        policy="ddpg_bc",
        bc_weight=1e-9,
        blend_updates=1,
        value="none",
        critic="quantile",
        quantile_loss="squared",
        quantiles=1,
        anti_exploration="cvae",
        anti_exploration_scale=0.0,
        trunk="d2rl",
        critics=10,
        critic_subset=2,
        critic_layer_norm=True,
        critic_dropout=0.01,
        dropout=1 / 3,
    ),
    online=OnlineConfig(
        collectors=64,
        envs_per_collector=256,
        step_deadline_seconds=0.1,
        warmup_steps=1,
        utd=1 / 7,
        offline_fraction=0.0,
        tolerance_steps=1,
        publish_seconds=1e-5,
        publish_updates=7,
        max_staleness_seconds=0.5,
        rate=20.0,
        swap="episode",
        intervention="module:make",
        exploration="expansion",
        candidates=256,
        expansion_temperature=1e-9,
        exploration_noise=0.0,
        durability="block",
    ),
    guard=GuardConfig(enabled=False, standard_errors=0.0, window=1, pause_steps=0),
    evaluation=EvaluationConfig(episodes=1, final_episodes=2, every_steps=0, video=True),
    checkpoint=CheckpointConfig(every_updates=1, keep=9),
)


def test_the_unusual_configuration_leaves_no_field_at_its_default() -> None:
    default, unusual = flatten(TrainConfig()), flatten(UNUSUAL)
    assert [name for name in default if default[name] == unusual[name]] == ["algorithm.name"]


@pytest.mark.parametrize("config", [TrainConfig(), UNUSUAL], ids=["default", "unusual"])
def test_a_configuration_reads_back_equal(config: TrainConfig, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(to_toml(config), encoding="utf-8")
    assert from_toml(path) == config
    assert merge(TrainConfig(), to_nested(config), where="here") == config


def test_a_file_changes_only_what_it_names() -> None:
    merged = merge(UNUSUAL, tomllib.loads("seed = 5\n[algorithm]\nbeta = 2\nhidden = [8]\n"), where="x.toml")
    expected = dataclasses.replace(
        UNUSUAL, seed=5, algorithm=dataclasses.replace(UNUSUAL.algorithm, beta=2.0, hidden=(8,))
    )
    assert merged == expected
    assert isinstance(merged.algorithm.beta, float)


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("quantile = 0.9", r"unknown key 'quantile' in my\.toml$"),
        ("pretrain_step = 1", r"unknown key 'pretrain_step' in my\.toml; did you mean 'pretrain_steps'\?"),
        ("[algorithm]\nexpectil = 0.9", r"'algorithm\.expectil' in my\.toml; did you mean 'expectile'\?"),
        ("[onlin]\nutd = 1", r"unknown key 'onlin' in my\.toml; did you mean 'online'\?"),
        ("[algorithm]\nbeta = 'high'", r"algorithm\.beta in my\.toml is 'high' but must be of type float"),
        ("[algorithm]\nbeta = true", r"algorithm\.beta in my\.toml is True but must be of type float"),
        ("seed = 1.5", r"seed in my\.toml is 1\.5 but must be of type int"),
        ("seed = true", r"seed in my\.toml is True but must be of type int"),
        ("normalize_observations = 1", r"normalize_observations in my\.toml is 1 but must be of type bool"),
        ("[algorithm]\nhidden = 256", r"algorithm\.hidden in my\.toml is 256 but must be a list, e\.g\. \[64, 64\]"),
        ("[algorithm]\nhidden = [256, 2.5]", r"algorithm\.hidden in my\.toml is 2\.5 but must be of type int"),
        ("algorithm = 'iql'", r"algorithm in my\.toml must be a table, not 'iql'"),
        ("env = 3", r"env in my\.toml is 3 but must be of type str"),
        ("replay = 3", r"replay in my\.toml is 3 but must be of type Path"),
        ("reward_scaling = 'yes'", r"reward_scaling in my\.toml is 'yes' but must be one of none, return_range"),
        ("[online]\ndurability = 'none'", r"online\.durability in my\.toml is 'none' but must be one of process, "),
    ],
)
def test_a_wrong_key_or_type_is_refused_by_name(toml: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        merge(TrainConfig(), tomllib.loads(toml), where="my.toml")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("algorithm.expectile", 0.0),
        ("algorithm.expectile", 1.0),
        ("algorithm.expectile", float("nan")),
        ("algorithm.beta", -0.1),
        ("algorithm.beta", float("inf")),
        ("algorithm.weight_clip", 0.0),
        ("algorithm.weight_clip", float("inf")),
        ("algorithm.discount", 1.0),
        ("algorithm.discount", -0.1),
        ("algorithm.target_rate", 0.0),
        ("algorithm.target_rate", 1.1),
        ("algorithm.learning_rate", 0.0),
        ("algorithm.learning_rate", float("inf")),
        ("algorithm.batch_size", 0),
        ("algorithm.hidden", ()),
        ("algorithm.hidden", (256, 0)),
        ("algorithm.critics", 0),
        ("algorithm.dropout", 1.0),
        ("algorithm.dropout", -0.1),
        ("online.collectors", -1),
        ("online.collectors", 65),
        ("online.envs_per_collector", 0),
        ("online.envs_per_collector", 257),
        ("online.step_deadline_seconds", 0.0),
        ("online.max_staleness_seconds", 0.0),
        ("guard.standard_errors", -1.0),
        ("guard.window", 0),
        ("guard.pause_steps", -1),
        ("online.warmup_steps", 0),
        ("online.utd", 0.01),
        ("online.utd", 21.0),
        ("online.offline_fraction", -0.1),
        ("online.offline_fraction", 1.1),
        ("online.tolerance_steps", 0),
        ("online.publish_seconds", 0.0),
        ("online.publish_updates", 0),
        ("online.rate", -1.0),
        ("online.exploration_noise", -1.0),
        ("evaluation.episodes", 0),
        ("evaluation.final_episodes", 0),
        ("evaluation.every_steps", -1),
        ("checkpoint.every_updates", 0),
        ("checkpoint.keep", 1),
        ("pretrain_steps", -1),
        ("online_steps", -1),
        ("max_episode_steps", -1),
        ("seed", -1),
        ("threads", -1),
        ("log_every", 0),
        ("observation_clip", 0.0),
        ("observation_clip", float("nan")),
        ("reward_shift", float("nan")),
        ("reward_shift", float("-inf")),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(name: str, value: Any) -> None:
    validate(TrainConfig())
    with pytest.raises(ConfigError, match=f"^{name.replace('.', r'[.]')} is ") as raised:
        validate(changed(TrainConfig(), name, value))
    assert "\n" not in str(raised.value)


def changed(config: TrainConfig, name: str, value: Any) -> TrainConfig:
    table, _, key = name.rpartition(".")
    if not table:
        return dataclasses.replace(config, **{key: value})
    return dataclasses.replace(config, **{table: dataclasses.replace(getattr(config, table), **{key: value})})


def test_every_number_has_a_rule() -> None:
    ruled = {name for name, _, _ in TrainConfig().rules()}
    numbers = {name for name, value in flatten(TrainConfig()).items() if isinstance(value, int | float)}
    # Any finite shift makes sense, and a truth value has no range.
    assert numbers - ruled == {
        "reward_shift", "normalize_observations", "algorithm.critic_layer_norm", "guard.enabled", "evaluation.video",
    }  # fmt: skip


def test_the_widest_allowed_values_pass() -> None:
    validate(changed(UNUSUAL, "online.exploration", "sample"))  # its bonus and a choice by Q exclude each other


def test_going_on_online_is_refused_in_words_of_what_finetune_takes(tmp_path: Path) -> None:
    spec = StoreSpec.from_terms(
        [{"name": "x", "offset": 0, "length": 2, "dtype": "float32"}], [-1.0], [1.0], env=None
    )  # fmt: skip
    Store.create(tmp_path / "data.zarr", spec)
    for name, algorithm, steps, words in (
        ("p", IQLConfig(), 0, "say how long with --online-steps"),
        ("short", IQLConfig(), 300, "warm-up alone, set when .*short was made, takes 5000: give more than 5000$"),
        ("bc", BCConfig(), 9000, "was trained by bc, which cannot fine-tune: give a run of another"),
    ):
        run = RunDirectory(tmp_path / name)
        run.save_config(TrainConfig(replay=tmp_path / "data.zarr", out=run.path, algorithm=algorithm))
        with pytest.raises(ConfigError, match=words):
            continued(run.path, steps)
    assert continued(tmp_path / "p", 5001).online_steps == 5001


def test_a_run_that_would_train_nothing_is_refused() -> None:
    for config, mend in (
        (TrainConfig(pretrain_steps=0), "give --online-steps N, or --pretrain-steps N$"),
        (TrainConfig(pretrain_steps=0, algorithm=SACConfig()), "give --online-steps N$"),
    ):
        with pytest.raises(ConfigError, match=f"both 0, so nothing would be trained: {mend}"):
            validate(config)


def test_online_steps_that_the_warm_up_eats_up_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"online_steps is 5000 but the warm-up alone takes 5000.*raise --online-steps"
    ):
        validate(TrainConfig(online_steps=5000))
    validate(TrainConfig(online_steps=5001))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"seed = 1\nenv = \n", r"x\.toml is not valid TOML.*line 2"),
        (b"seed = 1\nseed = 2\n", r"x\.toml is not valid TOML"),
        (b"\xff\xfe", r"x\.toml is not valid TOML"),
        (None, r"x\.toml cannot be read: No such file"),
    ],
)
def test_a_file_that_is_no_toml_is_refused_by_name(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as raised:
        load_toml(path)
    assert "\n" not in str(raised.value)


# --- presets ----------------------------------------------------------------------------------------------------------

# IQL paper, appendix B: what differs between the domains.
PUBLISHED: dict[str, dict[str, Any]] = {
    "locomotion": {"algorithm.expectile": 0.7, "algorithm.beta": 3.0, "reward_scaling": "return_range"},
    "antmaze": {"algorithm.expectile": 0.9, "algorithm.beta": 10.0, "reward_shift": -1.0},
    "adroit": {"algorithm.expectile": 0.7, "algorithm.beta": 0.5, "algorithm.dropout": 0.1},
    "kitchen": {"algorithm.expectile": 0.7, "algorithm.beta": 0.5, "algorithm.dropout": 0.1},
    "pointmaze": {"algorithm.expectile": 0.9, "algorithm.beta": 10.0, "reward_shift": -1.0},
    "fetch": {"algorithm.expectile": 0.9, "algorithm.beta": 10.0},
}
# And what does not.
COMMON: dict[str, Any] = {
    "algorithm.dropout": 0.0,
    "algorithm.learning_rate": 3e-4,
    "algorithm.batch_size": 256,
    "algorithm.hidden": [256, 256],
    "algorithm.discount": 0.99,
    "algorithm.target_rate": 0.005,
    "algorithm.weight_clip": 100.0,
    "algorithm.critics": 2,
    "reward_scaling": "none",
    "reward_shift": 0.0,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_gives_the_published_values(name: str) -> None:
    config = merge(TrainConfig(), load_preset(name), where=f"preset {name}")
    validate(config)
    flat = flatten(config)
    expected = {**COMMON, **PUBLISHED[name]}
    assert {key: flat[key] for key in expected} == expected


def test_every_preset_is_checked_above_and_every_task_has_one() -> None:
    assert preset_names() == sorted(PUBLISHED)
    assert {task.preset for task in CATALOG.values()} <= set(PUBLISHED)


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_says_where_its_values_come_from(name: str) -> None:
    text = (resources.files("agent.presets") / f"{name}.toml").read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert "IQL paper, appendix B" in text.splitlines()[0]


def test_an_unknown_preset_names_the_nearest_and_all() -> None:
    with pytest.raises(
        ConfigError, match=r"unknown preset 'antmaz'; did you mean 'antmaze'\? \(presets: adroit, antmaze"
    ):
        load_preset("antmaz")


# --- resuming ---------------------------------------------------------------------------------------------------------


def test_equal_configurations_are_compatible() -> None:
    assert incompatible(UNUSUAL, UNUSUAL) == []


def test_every_difference_that_makes_another_experiment_is_listed() -> None:
    wanted = changed(changed(changed(UNUSUAL, "seed", 1), "algorithm.beta", 2.0), "replay", Path("/other"))
    listed = incompatible(UNUSUAL, wanted)
    assert [line.split(":")[0] for line in listed] == ["replay", "seed", "algorithm.beta"]
    assert f"seed: {2**40} → 1" in listed


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("out", Path("/moved/elsewhere")),
        ("online_steps", 5),
        ("online.collectors", 2),
        ("online.envs_per_collector", 4),
        ("online.step_deadline_seconds", 1.0),
        ("online.max_staleness_seconds", 1.0),
        ("online.rate", 5.0),
        ("online.swap", "step"),
        ("guard.window", 7),
        ("evaluation.episodes", 50),
        ("evaluation.every_steps", 99),
        ("checkpoint.every_updates", 5),
        ("checkpoint.keep", 5),
        ("log_every", 100),
        ("diagnostics_every", 5),
        ("tracker", "none"),
    ],
)
def test_a_resume_may_change_how_long_and_how_often(name: str, value: Any) -> None:
    assert incompatible(UNUSUAL, changed(UNUSUAL, name, value)) == []


def test_a_resume_may_not_change_anything_else() -> None:
    free = {
        "out",
        "online_steps",
        "online.collectors",
        "log_every",
        "diagnostics_every",
        "tracker",
        "online.envs_per_collector",
        "online.step_deadline_seconds",
        "online.max_staleness_seconds",
        "online.rate",
        "online.swap",
    } | {name for name in flatten(UNUSUAL) if name.startswith(("evaluation.", "checkpoint.", "guard."))}
    default = flatten(TrainConfig())
    listed = {line.split(":")[0] for line in incompatible(TrainConfig(), UNUSUAL)}
    assert listed == set(default) - free - {"algorithm.name"}
    other = dataclasses.replace(TrainConfig(), algorithm=BCConfig())
    assert incompatible(TrainConfig(), other) == ["algorithm.name: iql → bc"]


def test_a_file_with_another_algorithm_takes_that_ones_fields_and_comes_back_equal(tmp_path: Path) -> None:
    config = dataclasses.replace(TrainConfig(), algorithm=BCConfig(dropout=0.25, hidden=(7,)))
    saved = tmp_path / "config.toml"
    saved.write_text(to_toml(config))
    assert from_toml(saved) == config
    with pytest.raises(ConfigError, match=r"unknown key 'algorithm\.expectile'"):
        merge(TrainConfig(), {"algorithm": {"name": "bc", "expectile": 0.5}}, where="here")
    with pytest.raises(ConfigError, match=r"unknown algorithm\.name 'iqk'; did you mean 'iql'"):
        merge(TrainConfig(), {"algorithm": {"name": "iqk"}}, where="here")
