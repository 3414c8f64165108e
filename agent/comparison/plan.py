"""What a comparison trains: every variant of an algorithm on every store with every seed, each in a run of its own."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.algorithms import config_class
from agent.config import TrainConfig
from agent.config_files import load_preset, load_toml, merge, validate
from agent.errors import ConfigError
from envs.catalog import lookup
from replay.store import Store


@dataclass(frozen=True, kw_only=True)
class Variant:
    """An algorithm with some of its hyper-parameters set, written `iql` or `iql+expectile=0.9+critics=1`."""

    label: str
    name: str
    settings: Mapping[str, Any]

    @classmethod
    def parse(cls, text: str) -> Variant:
        """From its written form; ConfigError where a setting is no TOML value."""
        name, *assignments = text.strip().split("+")
        config_class(name)
        settings = {}
        for assignment in assignments:
            key, equals, value = assignment.partition("=")
            try:
                if not equals:
                    raise ValueError("no = in it")
                settings[key.strip()] = literal(value.strip())
            except ValueError as error:
                raise ConfigError(
                    f"variant {text!r}: {assignment!r} is no setting ({error}); write e.g. iql+expectile=0.9"
                ) from error
        return cls(label=text.strip(), name=name, settings=settings)

    @classmethod
    def parse_all(cls, text: str) -> list[Variant]:
        """Several, separated by commas; those within brackets belong to a value (`iql+hidden=[64,64],bc`)."""
        return [cls.parse(each) for each in re.split(r",(?![^\[]*\])", text)]


def literal(text: str) -> Any:
    """A TOML value; a bare word is a string."""
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text) and text not in ("true", "false", "inf", "nan"):
        return text
    return tomllib.loads(f"value = {text}")["value"]


def read_settings(
    file: Path | None, elsewhere: Mapping[str, str], *, steps: int, online_steps: int, episodes: int
) -> dict[str, Any]:
    """What all runs share, as nested values: the file's, then the flags'.

    `elsewhere` names what the file cannot say (`evaluation.final_episodes`), and what says it instead.
    """
    values = load_toml(file) if file else {}
    for name, instead in elsewhere.items():
        table, _, key = name.rpartition(".")
        place = values.get(table, {}) if table else values
        if isinstance(place, dict) and key in place:
            raise ConfigError(f"{file} sets {name}, which a comparison takes from elsewhere: use {instead}")
    evaluation = values.get("evaluation", {})
    if isinstance(evaluation, dict):
        evaluation = {**evaluation, "final_episodes": episodes}
    return {**values, "pretrain_steps": steps, "online_steps": online_steps, "evaluation": evaluation}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training."""

    task: str
    """Name of the store."""
    variant: str
    seed: int
    config: TrainConfig


def make_plan(
    stores: Sequence[Path],
    variants: Sequence[Variant],
    *,
    seeds: int,
    out: Path,
    env: str = "",
    settings: Mapping[str, Any],
    where: str = "the comparison's settings",
) -> list[Run]:
    """All runs, seed by seed, so that a comparison that is stopped early has compared all methods.

    `settings` are nested values for every run, as in the configuration file `where`. An algorithm that learns from its
    own experience only gets no offline updates. Raises ConfigError where a name, a value or
    a combination cannot work, before anything is trained.
    """
    for what, names in (("--algorithms", [v.label for v in variants]), ("--replay", [task_name(s) for s in stores])):
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(f"{what} names {twice[0]!r} twice: name each once")
    bases = {store: preset_of(store, env) for store in stores}
    runs = []
    for seed in range(seeds):
        for store in stores:
            for variant in variants:
                # Runs at the same time have a core each.
                base = TrainConfig(algorithm=config_class(variant.name)(), threads=1)
                base = merge(base, base.algorithm.run_wide, where=f"algorithm {variant.name}")
                preset = bases[store]
                if preset:
                    base = merge(base, load_preset(preset, variant.name), where=f"preset {preset}")
                    base = dataclasses.replace(base, preset=preset)
                base = merge(base, settings, where=where)
                base = merge(base, {"algorithm": variant.settings}, where=f"variant {variant.label!r}")
                path = out / task_name(store) / variant.label / f"seed-{seed}"
                config = dataclasses.replace(base, replay=store.resolve(), env=env, seed=seed, out=path.resolve())
                if not config.algorithm.pretrains:
                    config = dataclasses.replace(config, pretrain_steps=0)
                check(config)
                runs.append(Run(task=task_name(store), variant=variant.label, seed=seed, config=config))
    return runs


def check(config: TrainConfig) -> None:
    """ConfigError for what cannot work, with the mend that a comparison has for it."""
    name, steps = config.algorithm.name, config.online_steps
    if steps and not config.algorithm.fine_tunes:
        raise ConfigError(f"{name} cannot fine-tune: leave out --online-steps, or take it out of --algorithms")
    if not steps and not config.algorithm.pretrains:
        raise ConfigError(
            f"{name} learns from its own experience only: give --online-steps, or take it out of --algorithms"
        )
    if not steps and not config.pretrain_steps:
        raise ConfigError("--steps is 0, so nothing would be trained: give 1 or more, or --online-steps")
    if 0 < steps <= (warmup := config.online.warmup_steps):
        raise ConfigError(
            f"--online-steps is {steps} but the warm-up alone takes {warmup} steps: give more, or set a smaller "
            "warmup_steps under [online] in a --config file"
        )
    validate(config)


def task_name(store: Path) -> str:
    """The store's name without its suffix."""
    return store.name.removesuffix(".zarr")


def preset_of(store: Path, env: str) -> str:
    """The preset of `env`, or of the environment recorded with the data."""
    recorded = Store.open(store).spec.env
    name = env or (recorded["id"] if recorded else "")
    return lookup(name).preset if name else ""
