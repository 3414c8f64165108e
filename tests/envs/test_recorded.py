"""The environments we build are those in which the shared datasets were recorded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from envs.catalog import evaluation_spec
from envs.make import describe, make_env

pytestmark = pytest.mark.data


def _spec(folder: Path) -> tuple[dict, dict]:
    metadata = json.loads((folder / "data" / "metadata.json").read_text())
    recorded = json.loads(metadata["env_spec"])
    return metadata, {key: recorded[key] for key in ("id", "kwargs", "max_episode_steps")}


@pytest.mark.parametrize(
    ("archive", "dataset", "limit"),
    [
        ("dapg-door-human-v0", "dapg/door/human-v0", 200),
        ("dapg-pen-mixed-v0", "dapg/pen/mixed-v0", 100),
        ("local-pointmaze-medium-v0", "local/pointmaze/medium-v0", 600),
        ("sac-hopper-medium-replay-v0", "sac/hopper/medium-replay-v0", 1000),
    ],
)
def test_the_layout_is_that_of_the_dataset(
    slipway_data: Callable[[str], Path], archive: str, dataset: str, limit: int
) -> None:
    metadata, recorded = _spec(slipway_data(archive) / dataset)
    spec = evaluation_spec(recorded)
    env = make_env(spec["id"], kwargs=spec["kwargs"], max_episode_steps=spec["max_episode_steps"])
    layout = describe(env)
    env.close()
    space = json.loads(metadata["observation_space"])
    parts = space["subspaces"] if space["type"] == "Dict" else {"observation": space}
    assert [(term["name"], [term["length"]]) for term in layout["observation"]] == [
        (name, part["shape"]) for name, part in parts.items()
    ]
    action = json.loads(metadata["action_space"])
    assert (layout["action_low"], layout["action_high"]) == (action["low"], action["high"])
    assert layout["env"]["max_episode_steps"] == limit


def test_replaying_a_demonstration_of_the_door_gives_its_observations_and_rewards(
    slipway_data: Callable[[str], Path],
) -> None:
    folder = slipway_data("dapg-door-human-v0") / "dapg/door/human-v0"
    env = make_env("AdroitHandDoor-v1")
    with h5py.File(folder / "data" / "main_data.hdf5") as file:
        episode = file["episode_0"]
        state = {key: episode[f"infos/{key}"][0].astype(np.float64) for key in ("qpos", "qvel", "door_body_pos")}
        observations, rewards, actions = (episode[key][:] for key in ("observations", "rewards", "actions"))
    observation, _ = env.reset(options={"initial_state_dict": state})
    # Recorded with another MuJoCo and stored as float32, so the two drift apart slowly: 50 steps are compared.
    for step in range(50):
        np.testing.assert_allclose(observation, observations[step], atol=2e-3, err_msg=f"step {step}")
        observation, reward, _, _, _ = env.step(actions[step])
        assert reward == pytest.approx(rewards[step], abs=2e-3)
    env.close()
