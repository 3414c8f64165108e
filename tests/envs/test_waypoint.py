"""The scripted PointMaze expert: shortest paths, reaching the goal, mediocrity on demand, determinism."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from envs.errors import EnvError
from envs.experts import EXPERTS
from envs.experts.waypoint import WaypointConfig, WaypointExpert, shortest_path
from envs.make import make_env
from envs.rollout import rollout

U = [
    [1, 1, 1, 1, 1],
    [1, 0, 0, 0, 1],
    [1, 1, 1, 0, 1],
    [1, 0, 0, 0, 1],
    [1, 1, 1, 1, 1],
]


def test_the_path_through_a_u_goes_round_its_bend() -> None:
    assert shortest_path(U, (1, 1), (3, 1)) == [(1, 1), (1, 2), (1, 3), (2, 3), (3, 3), (3, 2), (3, 1)]
    assert shortest_path(U, (1, 2), (1, 2)) == [(1, 2)]


def test_of_two_ways_the_shorter_is_taken() -> None:
    ring = [
        [0, 0, 0, 0],
        [0, 1, 1, 0],
        [0, 0, 0, 0],
    ]
    assert shortest_path(ring, (0, 0), (2, 1)) == [(0, 0), (1, 0), (2, 0), (2, 1)]


def test_walls_the_outside_and_islands_cannot_be_reached() -> None:
    island = [[0, 1, "g"], ["r", 1, 1]]
    assert shortest_path(island, (0, 0), (0, 2)) is None
    assert shortest_path(island, (0, 0), (0, 1)) is None
    assert shortest_path(island, (0, 0), (7, 7)) is None
    assert shortest_path(island, (0, 0), (1, 0)) == [(0, 0), (1, 0)]


def test_paths_have_the_length_of_an_independent_flood_fill_on_random_mazes() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        walls = rng.random((7, 9)) < 0.35
        walls[0, 0] = False
        distance = np.where(walls, np.inf, np.inf)
        distance[0, 0] = 0
        for _ in range(walls.size):
            padded = np.pad(distance, 1, constant_values=np.inf)
            near = np.minimum.reduce([padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]])
            distance = np.where(walls, np.inf, np.minimum(distance, near + 1))
        for cell in itertools.product(range(7), range(9)):
            path = shortest_path(walls.astype(int).tolist(), (0, 0), cell)
            assert (np.inf if path is None else len(path) - 1) == distance[cell]
            if path is not None:
                assert not any(walls[at] for at in path)
                assert all(abs(a[0] - b[0]) + abs(a[1] - b[1]) == 1 for a, b in itertools.pairwise(path))


def _episodes(env_id: str, count: int, *, limit: int, seed: int = 0, config: WaypointConfig | None = None):
    """(success, length) of each episode."""
    env = make_env(env_id, max_episode_steps=limit)
    rng = np.random.default_rng(seed)
    expert = WaypointExpert(env, rng, config)
    found, length = [], 0
    for step in rollout(env, expert.act, seed_rng=rng, on_reset=expert.reset):
        assert step.action in env.action_space
        length += 1
        if step.terminated or step.truncated:
            found.append((step.info["success"], length))
            length = 0
            if len(found) == count:
                env.close()
                return np.array(found)
    raise AssertionError("the rollout ended by itself")


@pytest.mark.parametrize(("env_id", "limit"), [("PointMaze_Medium-v3", 300), ("PointMaze_UMaze-v3", 300)])
def test_without_noise_it_reaches_the_goal(env_id: str, limit: int) -> None:
    episodes = _episodes(env_id, 60, limit=limit, config=WaypointConfig(noise=0.0))
    assert episodes[:, 0].mean() >= 0.95


def test_with_the_default_noise_it_still_reaches_the_goal_in_the_large_maze() -> None:
    assert _episodes("PointMaze_Large-v3", 20, limit=800)[:, 0].mean() >= 0.95


def test_each_knob_makes_it_worse() -> None:
    def success(**knobs: float) -> float:
        config = WaypointConfig(**knobs)
        return float(_episodes("PointMaze_Medium-v3", 40, limit=200, config=config)[:, 0].mean())

    good = success(noise=0.5)
    assert good >= 0.9
    assert success(random_episode_fraction=1.0) < 0.5 * good
    assert success(speed=0.3) < 0.8 * good
    assert success(speed_spread=0.9) < 0.95 * good
    assert success(noise=6.0) < 0.8 * good


def test_random_episodes_come_in_the_asked_share_and_as_whole_episodes() -> None:
    env = make_env("PointMaze_UMaze-v3")
    expert = WaypointExpert(env, np.random.default_rng(0), WaypointConfig(random_episode_fraction=0.25))
    observation, _ = env.reset(seed=0)
    kinds = []
    for _ in range(400):
        expert.reset(observation)
        before = expert.acts_at_random
        expert.act(observation)
        assert expert.acts_at_random == before
        kinds.append(before)
    assert 0.18 < np.mean(kinds) < 0.32


def test_equal_generators_give_equal_episodes() -> None:
    first = _episodes("PointMaze_Medium-v3", 6, limit=150, seed=7)
    np.testing.assert_array_equal(first, _episodes("PointMaze_Medium-v3", 6, limit=150, seed=7))
    assert not np.array_equal(first, _episodes("PointMaze_Medium-v3", 6, limit=150, seed=8))


@pytest.mark.parametrize(
    "knobs",
    [
        {"random_episode_fraction": 1.5},
        {"speed": -0.1},
        {"speed_spread": 1.1},
        {"noise": -1.0},
        {"random_smoothness": 1.0},
        {"gain": float("nan")},
    ],
)
def test_senseless_knobs_are_refused(knobs: dict[str, float]) -> None:
    with pytest.raises(EnvError, match=next(iter(knobs))):
        WaypointConfig(**knobs)


def test_it_drives_nothing_but_pointmaze() -> None:
    for env_id in ("AdroitHandPen-v1", "AntMaze_UMaze-v5"):
        with pytest.raises(EnvError, match="PointMaze"):
            EXPERTS["waypoint"](make_env(env_id), np.random.default_rng(0))
