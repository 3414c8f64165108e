"""Everything that a run decides once, before its first update: environment, layout, normaliser, reward transform."""

from __future__ import annotations

import dataclasses
import json
import shutil
from typing import Any

import numpy as np

from agent.config import TrainConfig
from agent.errors import RunError
from agent.evaluation import make_matching_env
from agent.files import write_atomic
from agent.preparation import Preparation, make_preparation
from agent.run_directory import RunDirectory
from envs.catalog import training_spec
from replay.statistics import observation_moments, returns
from replay.store import Store

RETURN_RANGE = 1000.0


def environment_of(store: Store, env: str, max_episode_steps: int) -> dict[str, Any]:
    """The environment spec to score and fine-tune in: `env` where given, else the one recorded with the data."""
    recorded = store.spec.env
    if not env and recorded is None:
        raise RunError(f"store {store.path} records no environment: name one with --env, e.g. --env Hopper-v5")
    if env and (recorded is None or recorded["id"] != env):
        recorded = {"id": env, "kwargs": {}, "max_episode_steps": None}
    assert recorded is not None
    spec = training_spec(recorded)
    if max_episode_steps:
        spec["max_episode_steps"] = max_episode_steps
    return spec


def set_up(run: RunDirectory, config: TrainConfig) -> Preparation:
    """Freeze the run's decisions into its directory and create its online store; nothing is written on an error."""
    store = Store.open(config.replay)
    if store.num_steps == 0:
        raise RunError(f"store {config.replay} holds no transition: ingest or collect some first")
    if len(returns(store)) == 0:
        raise RunError(f"store {config.replay} holds no episode that came to an end: collect or ingest whole episodes")
    spec = environment_of(store, config.env, config.max_episode_steps)
    make_matching_env(spec, store.spec, what=f"store {config.replay}").close()
    reader = store.reader()
    preparation = make_preparation(
        moments=observation_moments(reader),
        action_low=np.asarray(store.spec.action_low),
        action_high=np.asarray(store.spec.action_high),
        normalize=config.normalize_observations,
        clip=config.observation_clip,
        reward_scale=reward_scale(store, config),
        reward_shift=config.reward_shift,
        discount=config.algorithm.discount,
    )
    run.save_config(config)
    if not (run.replay / "zarr.json").exists():
        shutil.rmtree(run.replay, ignore_errors=True)
        Store.create(
            run.replay, dataclasses.replace(store.spec, env=spec, source={"kind": "online", "run": run.path.name})
        )
    write_atomic(run.env, json.dumps(spec, sort_keys=True).encode())
    # Last: a run is set up or it is not.
    write_atomic(run.preparation, json.dumps(preparation.to_json(), sort_keys=True).encode())
    return preparation


def reward_scale(store: Store, config: TrainConfig) -> float:
    """1000/(max − min return) where the configuration asks for it (IQL paper, appendix B), else 1."""
    if config.reward_scaling == "none":
        return 1.0
    episode_returns = returns(store)
    spread = float(episode_returns.max() - episode_returns.min())
    if spread <= 0.0:
        raise RunError(
            f"all {len(episode_returns)} episodes of {config.replay} have the return {episode_returns[0]:g}, so "
            "reward_scaling return_range has no range to divide by: use --reward-scaling none"
        )
    return RETURN_RANGE / spread
