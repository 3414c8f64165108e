"""One configuration out of its sources: defaults, preset, recipe, CONFIG.toml (or a caller's values), flags."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.algorithms import config_class
from agent.config import TrainConfig
from agent.config_files import load_preset, load_recipe, merge, validate
from agent.errors import ConfigError
from agent.run_directory import RunDirectory
from envs.catalog import lookup
from replay.store import Store


def configure(replay: str | Path, out: str | Path, **values: Any) -> TrainConfig:
    """The configuration of a run, as `slipway train --replay REPLAY --out OUT` would make it.

    `values` are the fields of `TrainConfig`, those of a part as a dict: `online_steps=50_000, online={"utd": 2.0},
    algorithm={"name": "iql", "hidden": [64, 64]}`. What is not given comes from the recipe, the preset of the recorded
    environment, and the defaults. Raises ConfigError for an unknown name, a wrong type or a value out of range, and
    ReplayError where `replay` is no store.
    """
    config = resolve({**values, "replay": str(replay), "out": str(out)}, where="configure()")
    validate(config)
    return config


def continued(run: Path, online_steps: int) -> TrainConfig:
    """The configuration under which `run` goes on online, for `online_steps` in all; 0 keeps what it has."""
    directory = RunDirectory(run)
    config = directory.load_config()
    directory.open_data(config)
    config = dataclasses.replace(config, out=run, online_steps=online_steps or config.online_steps)
    if not config.online_steps:
        raise ConfigError(f"{run} was started without an online phase: say how long with --online-steps")
    if not config.algorithm.fine_tunes:
        raise ConfigError(
            f"{run} was trained by {config.algorithm.name}, which cannot fine-tune: give a run of another"
        )
    if config.online_steps <= (warmup := config.online.warmup_steps):
        raise ConfigError(
            f"--online-steps is {config.online_steps} but the warm-up alone, set when {run} was made, takes {warmup}: "
            f"give more than {warmup}"
        )
    return config


def resolve(file: Mapping[str, Any], *, where: str, flags: Mapping[str, str] | None = None) -> TrainConfig:
    """`file` (nested values) over recipe, preset and defaults.

    `flags` may choose another `preset`, `recipe`, `env`, `replay` or `algorithm` (its name) than the file. `where`
    names the file in errors.
    """
    chosen = {name: str(file.get(name, "")) for name in ("preset", "recipe", "env", "replay")}
    chosen |= {name: value for name, value in (flags or {}).items() if value}
    recipe = load_recipe(chosen["recipe"]) if chosen["recipe"] else {}
    own = recipe.get("algorithm", {}).get("name", "")
    if own and isinstance(file.get("algorithm", {}), dict):
        # A table that names no algorithm is about the recipe's.
        file = {**file, "algorithm": {"name": own, **file.get("algorithm", {})}}
    config = merge(TrainConfig(), file, where=where)
    algorithm = chosen.get("algorithm") or config.algorithm.name
    if own and own != algorithm:
        raise ConfigError(
            f"recipe {chosen['recipe']} trains {own}, but algorithm.name is {algorithm!r}: leave out one of the two"
        )
    base = TrainConfig(algorithm=config_class(algorithm)())
    base = merge(base, base.algorithm.run_wide, where=f"algorithm {algorithm}")
    name = chosen["preset"]
    if not name and (env := chosen["env"] or recorded_env(chosen["replay"])):
        name = lookup(env).preset
    if name:
        base = dataclasses.replace(merge(base, load_preset(name, algorithm), where=f"preset {name}"), preset=name)
    if recipe:
        where_recipe = f"recipe {chosen['recipe']}"
        base = dataclasses.replace(merge(base, recipe, where=where_recipe), recipe=chosen["recipe"])
    if algorithm != config.algorithm.name:
        # The flag wins over the file, whose table then belongs to another algorithm.
        file = {key: value for key, value in file.items() if key != "algorithm"}
    return merge(base, file, where=where)


def recorded_env(replay: str) -> str:
    """The environment id recorded with the data, or nothing while no store is given."""
    if replay in ("", "."):
        return ""
    env = Store.open(Path(replay)).spec.env
    return str(env["id"]) if env else ""
