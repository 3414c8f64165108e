"""The episode loop: transitions join up, and a reset's observation is never taken for an episode's last."""

from __future__ import annotations

import itertools

import numpy as np

from envs.experts import EXPERTS
from envs.make import make_env
from envs.rollout import rollout

FAULTY = "tests.envs.faulty:Faulty-v0"


def test_transitions_join_within_an_episode_and_end_with_its_own_last_observation() -> None:
    env = make_env(FAULTY, kwargs={"terminate_at": 4})
    steps = list(
        itertools.islice(rollout(env, lambda _: np.zeros(2, np.float32), seed_rng=np.random.default_rng(0)), 9)
    )
    assert [step.observation[0] for step in steps] == [0, 1, 2, 3, 0, 1, 2, 3, 0]
    assert [step.next_observation[0] for step in steps] == [1, 2, 3, 4, 1, 2, 3, 4, 1]
    assert [step.first for step in steps] == [True, False, False, False, True, False, False, False, True]
    assert [step.terminated for step in steps] == [False, False, False, True, False, False, False, True, False]
    assert not any(step.truncated for step in steps)


def test_it_is_determined_by_its_generators() -> None:
    def run(seed: int) -> np.ndarray:
        env = make_env("PointMaze_UMaze-v3", max_episode_steps=20)
        rng = np.random.default_rng(seed)
        expert = EXPERTS["random"](env, rng)
        steps = list(itertools.islice(rollout(env, expert.act, seed_rng=rng, on_reset=expert.reset), 65))
        env.close()
        return np.stack([np.concatenate([step.observation, step.action]) for step in steps])

    np.testing.assert_array_equal(run(1), run(1))
    assert not np.array_equal(run(1), run(2))


def test_on_reset_hears_of_each_episode_before_the_policy_is_asked() -> None:
    env = make_env(FAULTY, max_episode_steps=3)
    heard: list[str] = []

    def act(observation: np.ndarray) -> np.ndarray:
        heard.append("act")
        return np.zeros(2, np.float32)

    loop = rollout(env, act, seed_rng=np.random.default_rng(0), on_reset=lambda _: heard.append("reset"))
    list(itertools.islice(loop, 4))
    assert heard == ["reset", "act", "act", "act", "reset", "act"]
