"""Simulator states found from observations: they show what was recorded, and tell what they cannot show."""

from __future__ import annotations

import numpy as np
import pytest

from envs.errors import EnvError
from envs.make import make_env
from envs.posing import Poser

Recorded = tuple[list[np.ndarray], list[np.ndarray]]


def recorded(env_id: str, steps: int, seed: int = 5) -> Recorded:
    """Observations and true joint positions of an episode of random actions."""
    env = make_env(env_id)
    observation, _ = env.reset(seed=seed)
    observations, positions = [observation], [env.unwrapped.data.qpos.copy()]  # type: ignore[attr-defined]
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        observation, _, terminated, truncated, _ = env.step(0.5 * rng.uniform(env.action_low, env.action_high))
        observations.append(observation)
        positions.append(env.unwrapped.data.qpos.copy())  # type: ignore[attr-defined]
        if terminated or truncated:
            break
    env.close()
    return observations, positions


@pytest.mark.parametrize(
    ("env_id", "within"),
    [("PointMaze_UMaze-v3", 1e-5), ("AntMaze_UMaze-v4", 1e-4), ("AdroitHandDoor-v1", 0.02), ("FrankaKitchen-v1", 0.02)],
)
def test_a_whole_position_is_found_again(env_id: str, within: float) -> None:
    """From another start, only by observations; FrankaKitchen's carry noise."""
    observations, positions = recorded(env_id, 12)
    env = make_env(env_id)
    env.reset(seed=99)
    poser = Poser(env)
    for step in range(0, 13, 4):
        poser.show(observations[step], 4 / env.metadata["render_fps"] if step else 0.0)
        found = env.unwrapped.data.qpos  # type: ignore[attr-defined]
        assert np.abs(found - positions[step]).max() < within
    assert poser.hidden == []
    assert not poser.missed.any()
    env.close()


def test_a_place_that_is_not_recorded_follows_its_recorded_velocity() -> None:
    observations, positions = recorded("Hopper-v5", 20)
    env = make_env("Hopper-v5")
    env.reset(seed=99)
    poser = Poser(env)
    assert poser.hidden == ["rootx"]
    places = []
    for step, observation in enumerate(observations):
        poser.show(observation, 0.008 if step else 0.0)
        places.append(env.unwrapped.data.qpos[0])  # type: ignore[attr-defined]
    travelled = positions[-1][0] - positions[0][0]
    assert abs(travelled) > 0.02
    assert places[-1] - places[0] == pytest.approx(travelled, rel=0.1)
    env.close()


def test_the_scene_that_a_reset_draws_is_found_too() -> None:
    """Where the door stands and how the pen should lie are in the model, not in the state."""
    for env_id, place in (
        ("AdroitHandDoor-v1", lambda model: model.body("frame").pos),
        ("AdroitHandRelocate-v1", lambda model: model.site("target").pos),
    ):
        true = make_env(env_id)
        observation, _ = true.reset(seed=1)
        env = make_env(env_id)
        env.reset(seed=2)
        wanted, model = place(true.unwrapped.model), env.unwrapped.model  # type: ignore[attr-defined]
        assert np.abs(place(model) - wanted).max() > 0.01
        Poser(env).show(observation)
        np.testing.assert_allclose(place(model), wanted, atol=0.002)
        true.close()
        env.close()


def test_the_goal_is_moved_to_the_recorded_one() -> None:
    (observation, *_), _ = recorded("PointMaze_UMaze-v3", 1)
    env = make_env("PointMaze_UMaze-v3")
    env.reset(seed=99)
    Poser(env).show(observation)
    np.testing.assert_allclose(env.unwrapped.goal, observation[2:4], atol=1e-6)  # type: ignore[attr-defined]
    target = env.unwrapped.model.site("target").pos  # type: ignore[attr-defined]
    np.testing.assert_allclose(target[:2], observation[2:4], atol=1e-6)
    env.close()


def test_an_impossible_observation_is_told_by_its_entries() -> None:
    """The handle of the door cannot be two metres from where its parts say it is."""
    (observation, *_), _ = recorded("AdroitHandDoor-v1", 1)
    env = make_env("AdroitHandDoor-v1")
    env.reset(seed=0)
    poser = Poser(env)
    poser.show(observation)
    assert not poser.missed.any()
    wrong = observation.copy()
    wrong[29:32] += 2.0  # the palm, but not its distance from the handle
    poser.show(wrong)
    assert poser.missed[29:38].any()
    assert not poser.missed[38]
    env.close()


def test_what_is_no_mujoco_environment_is_refused() -> None:
    env = make_env("Pendulum-v1")
    env.reset(seed=0)
    with pytest.raises(EnvError, match="no MuJoCo environment"):
        Poser(env)
    env.close()
