"""Each catalogued task, for real: it constructs, resets, steps, and flattens to the layout it describes."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from envs.catalog import CATALOG
from envs.make import _quiet, describe, make_env


@pytest.mark.parametrize("env_id", list(CATALOG))
def test_task_steps_exactly_as_gymnasium_flattened_and_as_described(env_id: str) -> None:
    task = CATALOG[env_id]
    ours = make_env(env_id)
    with _quiet():
        plain = gymnasium.make(env_id, disable_env_checker=True, **ours.kwargs)
    try:
        layout = describe(ours)
        terms = layout["observation"]
        size = terms[-1]["offset"] + terms[-1]["length"]
        assert ours.observation_space == spaces.Box(-np.inf, np.inf, (size,), np.float32)
        assert [term["offset"] for term in terms] == np.cumsum([0, *(t["length"] for t in terms[:-1])]).tolist()
        assert layout["env"]["max_episode_steps"] == task.max_episode_steps
        assert np.all(np.isfinite(layout["action_low"])) and np.all(np.isfinite(layout["action_high"]))

        observation, _ = ours.reset(seed=3)
        raw, _ = plain.reset(seed=3)
        rng = np.random.default_rng(0)
        for _ in range(5):
            _assert_same(observation, plain.observation_space, raw)
            assert observation in ours.observation_space
            _assert_terms(terms, observation, raw)
            action = rng.uniform(layout["action_low"], layout["action_high"]).astype(np.float32)
            observation, reward, terminated, truncated, info = ours.step(action)
            raw, raw_reward, raw_terminated, _, raw_info = plain.step(action)
            assert (reward, terminated) == (float(raw_reward), raw_terminated)
            assert not truncated
            assert set(raw_info) <= set(info)
            if task.success_key:
                assert info["success"] in (0.0, 1.0)
                assert type(info["success"]) is float
        _assert_same(observation, plain.observation_space, raw)
    finally:
        ours.close()
        plain.close()


def _assert_same(observation: np.ndarray, space: spaces.Space, raw: object) -> None:
    assert observation.dtype == np.float32
    np.testing.assert_array_equal(observation, np.asarray(spaces.flatten(space, raw)).astype(np.float32))


def _assert_terms(terms: list[dict], observation: np.ndarray, raw: object) -> None:
    for term in terms:
        part = raw
        if isinstance(raw, dict):
            for key in term["name"].split("/"):
                part = part[key]
        else:
            assert term["name"] == "observation"
        stop = term["offset"] + term["length"]
        np.testing.assert_array_equal(observation[term["offset"] : stop], np.ravel(part).astype(np.float32))


def test_kitchen_succeeds_when_all_its_tasks_are_done_and_only_then() -> None:
    env = make_env("FrankaKitchen-v1")
    kitchen = env.unwrapped
    env.reset(seed=0)
    from gymnasium_robotics.envs.franka_kitchen.kitchen_env import OBS_ELEMENT_GOALS, OBS_ELEMENT_INDICES

    done = []
    for task in env.kwargs["tasks_to_complete"]:
        # Put the object where the task wants it.
        kitchen.data.qpos[OBS_ELEMENT_INDICES[task]] = OBS_ELEMENT_GOALS[task]
        _, reward, terminated, _, info = env.step(np.zeros(9))
        done.append((reward, terminated, info["success"]))
    assert done == [(1.0, False, 0.0)] * 3 + [(1.0, True, 1.0)]
    env.close()


def test_the_pen_lasts_100_steps_and_the_door_200() -> None:
    assert make_env("AdroitHandPen-v1").max_episode_steps == 100
    assert make_env("AdroitHandDoor-v1").max_episode_steps == 200
    assert make_env("AdroitHandDoor-v1", max_episode_steps=7).max_episode_steps == 7


def test_pointmaze_terminates_at_the_goal_and_the_goal_stays_in_place() -> None:
    env = make_env("PointMaze_UMaze-v3")
    observation, _ = env.reset(seed=1, options={"reset_cell": np.array([1, 1]), "goal_cell": np.array([1, 2])})
    goal = observation[2:4].copy()
    steps = 0
    for _ in range(300):
        steps += 1
        push = np.clip(10.0 * (goal - observation[0:2]) - observation[6:8], -1.0, 1.0)
        observation, reward, terminated, truncated, info = env.step(push)
        np.testing.assert_array_equal(observation[2:4], goal)
        if terminated:
            break
    assert (reward, terminated, truncated, info["success"]) == (1.0, True, False, 1.0)
    assert np.linalg.norm(observation[0:2] - goal) <= 0.45
    assert 1 < steps < 300
    env.close()


def test_the_time_limit_truncates_and_does_not_terminate() -> None:
    env = make_env("PointMaze_Large-v3", max_episode_steps=6)
    env.reset(seed=0)
    ends = [env.step(np.zeros(2))[2:4] for _ in range(6)]
    assert ends == [(False, False)] * 5 + [(False, True)]
    env.close()


def test_fetch_goes_on_after_success() -> None:
    env = make_env("FetchReach-v4")
    observation, _ = env.reset(seed=0)
    successes = 0.0
    for step in range(50):
        towards = np.append(10.0 * (observation[3:6] - observation[0:3]), 0.0)
        observation, _, terminated, truncated, info = env.step(towards)
        assert not terminated
        successes += info["success"]
        assert truncated == (step == 49)
    assert successes > 5
    env.close()


def test_equal_seeds_and_actions_give_equal_episodes() -> None:
    def episode(seed: int) -> np.ndarray:
        env = make_env("AdroitHandPen-v1", max_episode_steps=8)
        rng = np.random.default_rng(0)
        rows = [env.reset(seed=seed)[0]]
        rows += [env.step(rng.uniform(-1, 1, 24))[0] for _ in range(8)]
        env.close()
        return np.stack(rows)

    np.testing.assert_array_equal(episode(4), episode(4))
    assert not np.array_equal(episode(4), episode(5))


def test_mazes_leave_no_model_file_behind(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    make_env("AntMaze_UMaze-v5").close()
    make_env("PointMaze_UMaze-v3").close()
    assert list(tmp_path.iterdir()) == []
