"""Small Minari datasets shaped like Minari's D4RL sets, recorded in the real environments through Minari's own writer.

Each has a few episodes of random actions; observations, infos and flags are laid out as Minari's collector does
(T + 1 observations, T + 1 infos of which the first is the reset's).
"""

from __future__ import annotations

import copy
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

SHAPES: dict[str, dict[str, Any]] = {
    "D4RL/pointmaze/umaze-v2": {
        "id": "PointMaze_UMaze-v3",
        "kwargs": {"continuing_task": False, "reset_target": False},
    },
    "D4RL/antmaze/umaze-v1": {"id": "AntMaze_UMaze-v5", "kwargs": {"continuing_task": False}},
    "D4RL/kitchen/partial-v2": {"id": "FrankaKitchen-v1", "kwargs": {"tasks_to_complete": ["microwave", "kettle"]}},
    "D4RL/pen/human-v2": {"id": "AdroitHandPen-v1", "kwargs": {}},
    "mujoco/hopper/medium-v0": {"id": "Hopper-v5", "kwargs": {}},
}
"""Dataset id -> the environment that Minari's set of that name was recorded in."""


def make(env_id: str, kwargs: dict[str, Any]) -> Any:
    """A Gymnasium environment, with the robotics ones registered."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import gymnasium
        import gymnasium_robotics

        if "PointMaze_UMaze-v3" not in gymnasium.registry:
            gymnasium.register_envs(gymnasium_robotics)
        return gymnasium.make(env_id, disable_env_checker=True, **kwargs)


def stack(values: list[Any]) -> Any:
    """A list of equal (nested) observations as (nested) arrays [n, ...]."""
    if isinstance(values[0], dict):
        return {key: stack([value[key] for value in values]) for key in values[0]}
    if isinstance(values[0], tuple):
        return tuple(stack([value[index] for value in values]) for index in range(len(values[0])))
    return np.asarray(values)


def record(env: Any, *, episodes: int, steps: int, seed: int) -> list[Any]:
    """Random-action episodes as Minari buffers; each is truncated after `steps` unless it terminates before."""
    from minari.data_collector import EpisodeBuffer

    buffers = []
    env.action_space.seed(seed)
    for episode in range(episodes):
        observation, info = env.reset(seed=seed + episode)
        observations, infos, actions, rewards = [copy.deepcopy(observation)], [info], [], []
        terminations, truncations = [], []
        for step in range(steps):
            action = env.action_space.sample()
            observation, reward, terminated, truncated, info = env.step(action)
            observations.append(copy.deepcopy(observation))
            infos.append(info)
            actions.append(action)
            rewards.append(float(reward))
            terminations.append(bool(terminated))
            truncations.append(bool(truncated) or step == steps - 1)
            if terminated or truncated:
                break
        kept = {k: np.array([i[k] for i in infos[1:]]) for k in ("success", "is_success") if k in infos[1]}
        kept = {k: np.concatenate([[False], v]) for k, v in kept.items()}
        buffers.append(
            EpisodeBuffer(
                id=episode,
                observations=stack(observations),
                actions=np.asarray(actions),
                rewards=np.asarray(rewards),
                terminations=np.asarray(terminations),
                truncations=np.asarray(truncations),
                infos=kept,
            )
        )
    return buffers


def write(root: Path, dataset_id: str, buffers: list[Any], **described: Any) -> Path:
    """Write buffers with Minari under a datasets root; returns the dataset's folder."""
    import minari

    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(root)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            minari.create_dataset_from_buffers(dataset_id=dataset_id, buffer=buffers, **described)
    finally:
        if before is None:
            del os.environ["MINARI_DATASETS_PATH"]
        else:
            os.environ["MINARI_DATASETS_PATH"] = before
    return root / dataset_id


def make_d4rl_shaped(root: Path, dataset_id: str, *, episodes: int = 3, steps: int = 12) -> Path:
    """One of `SHAPES` under a Minari root; returns the dataset's folder."""
    shape = SHAPES[dataset_id]
    env = make(shape["id"], {**shape["kwargs"], "max_episode_steps": steps})
    try:
        buffers = record(env, episodes=episodes, steps=steps, seed=7)
        return write(root, dataset_id, buffers, env=env, algorithm_name="random")
    finally:
        env.close()
