"""Reading, writing, merging and comparing configurations.

Precedence, weakest first: defaults, preset, recipe, CONFIG.toml, flags. The resolved result is RUN/config.toml.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from agent.algorithms import ALGORITHMS, config_class, owners
from agent.algorithms.config import AlgorithmConfig
from agent.config import TrainConfig
from agent.errors import ConfigError

C = TypeVar("C")

# What a resume may change without making another experiment of the run.
# A run that was moved or renamed stays the run that it was.
RESUMABLE = (
    "out", "online_steps", "online.collectors", "online.envs_per_collector", "online.step_deadline_seconds",
    "online.max_staleness_seconds", "online.rate", "online.swap",
    "guard.",
    "evaluation.", "checkpoint.", "log_every", "diagnostics_every", "tracker",
)  # fmt: skip


def nearest(name: str, candidates: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the closest candidate, or nothing."""
    close = difflib.get_close_matches(name, list(candidates), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def preset_names() -> list[str]:
    """Names of the presets that ship with the package."""
    return _names("agent.presets")


def recipe_names() -> list[str]:
    """Names of the fine-tuning recipes that ship with the package."""
    return _names("agent.recipes")


def _names(package: str) -> list[str]:
    files = (p.name for p in resources.files(package).iterdir())
    return sorted(name.removesuffix(".toml") for name in files if name.endswith(".toml"))


def load_preset(name: str, algorithm: str = "iql") -> dict[str, Any]:
    """The nested values of one preset for one algorithm; ConfigError for an unknown name.

    A preset's tables are called after algorithms: `[iql]` holds what `[algorithm]` does in a user's file.
    """
    names = preset_names()
    if name not in names:
        raise ConfigError(f"unknown preset {name!r}{nearest(name, names)} (presets: {', '.join(names)})")
    values = tomllib.loads((resources.files("agent.presets") / f"{name}.toml").read_text(encoding="utf-8"))
    run_wide = {key: value for key, value in values.items() if key not in ALGORITHMS}
    return {**run_wide, "algorithm": {"name": algorithm, **values.get(algorithm, {})}}


def load_recipe(name: str) -> dict[str, Any]:
    """The nested values of one recipe, its algorithm's name among them; ConfigError for an unknown name."""
    names = recipe_names()
    if name not in names:
        raise ConfigError(f"unknown recipe {name!r}{nearest(name, names)} (recipes: {', '.join(names)})")
    return tomllib.loads((resources.files("agent.recipes") / f"{name}.toml").read_text(encoding="utf-8"))


def load_toml(path: Path) -> dict[str, Any]:
    """The nested values of a user's file; ConfigError names the line that does not parse."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"configuration file {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration file {path} is not valid TOML: {error}") from error


def merge(base: C, values: Mapping[str, Any], *, where: str, prefix: str = "") -> C:
    """`base` (a configuration dataclass) with nested `values`.

    An unknown key or a value of another type is a ConfigError that names the key, `where` it stands and its nearest
    neighbour.
    """
    fields = {f.name for f in dataclasses.fields(typing.cast(Any, base))}
    hints = typing.get_type_hints(type(base))
    changes: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if key not in fields:
            raise ConfigError(f"unknown key {name!r} in {where}{place_of(key, base) or nearest(key, fields)}")
        current = getattr(base, key)
        if dataclasses.is_dataclass(current) and not isinstance(current, type):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{name} in {where} must be a table, not {value!r}")
            if isinstance(current, AlgorithmConfig) and value.get("name", current.name) != current.name:
                current = config_class(str(value["name"]))()
            changes[key] = merge(current, value, where=where, prefix=f"{name}.")
        else:
            changes[key] = coerce(value, hints[key], name, where)
    return typing.cast(C, dataclasses.replace(typing.cast(Any, base), **changes))


def place_of(key: str, base: Any) -> str:
    """`; ...` with the table or the algorithms that have a setting `key`, which `base` lacks; or nothing."""
    if isinstance(base, AlgorithmConfig):
        found = owners(key)
        return f"; {base.name} does not have it, only {', '.join(found)}" if found else ""
    parts = {f.name: getattr(base, f.name) for f in dataclasses.fields(base)}
    tables = [
        name
        for name, part in parts.items()
        if dataclasses.is_dataclass(part) and key in {f.name for f in dataclasses.fields(part)}
    ]
    return f"; it belongs to the table {' or '.join(f'[{name}]' for name in tables)}" if tables else ""


def coerce(value: Any, hint: Any, name: str, where: str) -> Any:
    """`value` from TOML as the field's type."""
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        allowed = typing.get_args(hint)
        if value in allowed:
            return value
        raise ConfigError(f"{name} in {where} is {value!r} but must be one of {', '.join(map(str, allowed))}")
    if origin is tuple and isinstance(value, list | tuple):
        item = typing.get_args(hint)[0]
        return tuple(coerce(v, item, name, where) for v in value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = origin or hint
    if isinstance(plain, type) and isinstance(value, plain) and (plain is bool or not isinstance(value, bool)):
        return value
    if origin is tuple:
        raise ConfigError(f"{name} in {where} is {value!r} but must be a list, e.g. [64, 64]")
    expected = getattr(hint, "__name__", str(hint)) if not isinstance(hint, types.UnionType) else str(hint)
    raise ConfigError(f"{name} in {where} is {value!r} but must be of type {expected}")


def to_nested(config: Any) -> dict[str, Any]:
    """A configuration dataclass as nested plain values."""
    nested: dict[str, Any] = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            nested[f.name] = to_nested(value)
        elif isinstance(value, Path):
            nested[f.name] = str(value)
        else:
            nested[f.name] = list(value) if isinstance(value, tuple) else value
    return nested


def flatten(config: Any) -> dict[str, Any]:
    """Dotted names to values."""
    flat: dict[str, Any] = {}
    for key, value in to_nested(config).items():
        if isinstance(value, dict):
            flat.update({f"{key}.{inner}": v for inner, v in value.items()})
        else:
            flat[key] = value
    return flat


def to_toml(config: TrainConfig) -> str:
    """The resolved configuration as TOML: scalars first, then a table for each part."""
    nested = to_nested(config)
    lines = [f"{k} = {json.dumps(v, ensure_ascii=False)}" for k, v in nested.items() if not isinstance(v, dict)]
    for table, values in nested.items():
        if isinstance(values, dict):
            lines += ["", f"[{table}]", *(f"{k} = {json.dumps(v, ensure_ascii=False)}" for k, v in values.items())]
    return "\n".join(lines) + "\n"


def from_toml(path: Path) -> TrainConfig:
    """The configuration saved at `path`."""
    return merge(TrainConfig(), load_toml(path), where=str(path))


def validate(config: TrainConfig) -> None:
    """ConfigError naming the first field whose value cannot work."""
    for name, value in flatten(config).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{name} is {value} but must be finite")
    for name, holds, rule in config.rules():
        if not holds:
            raise ConfigError(f"{name} is {flatten(config)[name]} but {rule}")
    if not config.online_steps and not config.pretrain_steps:
        offline = ", or --pretrain-steps N" if config.algorithm.pretrains else ""
        raise ConfigError(
            "pretrain_steps and online_steps are both 0, so nothing would be trained: give --online-steps N" + offline
        )
    if config.online_steps and not config.algorithm.fine_tunes:
        raise ConfigError(
            f"{config.algorithm.name} cannot fine-tune: leave out --online-steps, or choose another --algorithm.name"
        )
    if config.pretrain_steps and not config.algorithm.pretrains:
        raise ConfigError(
            f"{config.algorithm.name} learns from its own experience only: give --pretrain-steps 0, "
            "or choose another --algorithm.name"
        )
    if config.online.exploration != "sample" and (why := config.algorithm.why_no_choice()):
        raise ConfigError(
            f"online.exploration {config.online.exploration} chooses by Q, but {why}: "
            "use --online.exploration sample, or choose another --algorithm.name"
        )
    warmup = config.online.warmup_steps
    if config.online_steps and config.online_steps <= warmup:
        raise ConfigError(
            f"online_steps is {config.online_steps} but the warm-up alone takes {warmup} steps: "
            "raise --online-steps or lower --online.warmup-steps"
        )


def incompatible(saved: TrainConfig, wanted: TrainConfig) -> list[str]:
    """`field: saved → wanted` for every difference that a resume does not allow."""
    before, after = flatten(saved), flatten(wanted)
    if saved.algorithm.name != wanted.algorithm.name:
        return [f"algorithm.name: {saved.algorithm.name} → {wanted.algorithm.name}"]
    return [
        f"{name}: {before[name]} → {after[name]}"
        for name in before
        if before[name] != after[name] and not name.startswith(RESUMABLE)
    ]
