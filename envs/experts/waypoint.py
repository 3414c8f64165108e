"""Scripted expert for PointMaze: breadth-first search over maze cells, PD control to the next cell centre, noise.

The point mass is driven by forces: action = gain·(waypoint − position) − damping·velocity, clipped to the bounds by
the environment. Gaussian noise on the action makes the data diverse; the mediocrity knobs make it poor on purpose.

Observation (flattened PointMaze): achieved_goal [2] (position, m), desired_goal [2] (m),
observation [4] (position m, velocity m/s).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from envs.errors import EnvError

Cell = tuple[int, int]
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class WaypointConfig:
    noise: float = 0.5
    """Standard deviation of the Gaussian noise added to each action component (the bounds are ±1)."""
    gain: float = 10.0
    """Proportional gain on the distance to the waypoint, 1/m."""
    damping: float = 1.0
    """Gain on the velocity, s/m."""
    speed: float = 1.0
    """Scale of the control action before the noise, 0 to 1: below 1 the expert dawdles."""
    speed_spread: float = 0.0
    """Each episode's speed is drawn uniformly from [speed − spread, speed]: data of mixed quality."""
    random_episode_fraction: float = 0.0
    """Share of whole episodes that act at random instead, 0 to 1."""
    random_smoothness: float = 0.9
    """Correlation of successive random actions in those episodes: 0 uniform each step, near 1 long pushes."""

    def __post_init__(self) -> None:
        for name in ("random_episode_fraction", "speed"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise EnvError(f"waypoint expert: {name} must lie in [0, 1], not {getattr(self, name)}")
        if not 0.0 <= self.speed_spread <= self.speed:
            raise EnvError(f"waypoint expert: speed_spread must lie in [0, speed], not {self.speed_spread}")
        if not 0.0 <= self.random_smoothness < 1.0:
            raise EnvError(f"waypoint expert: random_smoothness must lie in [0, 1), not {self.random_smoothness}")
        for name in ("noise", "gain", "damping"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise EnvError(f"waypoint expert: {name} must be finite and at least 0, not {getattr(self, name)}")


def shortest_path(maze_map: Sequence[Sequence[Any]], start: Cell, goal: Cell) -> list[Cell] | None:
    """Cells from `start` to `goal`, both included, by breadth-first search over the four neighbours.

    A cell is a wall where `maze_map[row][column] == 1`. None if the goal cannot be reached.
    """
    if _wall(maze_map, start) or _wall(maze_map, goal):
        return None
    came_from: dict[Cell, Cell | None] = {start: None}
    queue = deque([start])
    while queue:
        cell = queue.popleft()
        if cell == goal:
            path = [cell]
            while (previous := came_from[path[-1]]) is not None:
                path.append(previous)
            return path[::-1]
        row, column = cell
        for neighbour in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
            if neighbour not in came_from and not _wall(maze_map, neighbour):
                came_from[neighbour] = cell
                queue.append(neighbour)
    return None


def _wall(maze_map: Sequence[Sequence[Any]], cell: Cell) -> bool:
    row, column = cell
    inside = 0 <= row < len(maze_map) and 0 <= column < len(maze_map[row])
    return not inside or maze_map[row][column] == 1


class WaypointExpert:
    """Walks the shortest cell path to the goal. `reset(observation)` at each episode's start, then `act(observation)`.

    It replans from the present cell whenever noise has pushed it off its path, so it is a (noisy) feedback policy.
    """

    def __init__(
        self, env: gymnasium.Env[Any, Any], rng: np.random.Generator, config: WaypointConfig | None = None
    ) -> None:
        maze = getattr(env.unwrapped, "maze", None)
        if maze is None or env.observation_space.shape != (8,) or env.action_space.shape != (2,):
            raise EnvError("the waypoint expert drives PointMaze environments made by make_env, nothing else")
        self.config = config or WaypointConfig()
        self._rng = rng
        self._map = maze.maze_map
        self._scale = float(maze.maze_size_scaling)
        self._x_center, self._y_center = float(maze.x_map_center), float(maze.y_map_center)
        self._low: FloatArray = env.action_space.low  # type: ignore[attr-defined]
        self._high: FloatArray = env.action_space.high  # type: ignore[attr-defined]
        self._path: list[Cell] = []
        self._random_episode = False
        self._speed = self.config.speed
        self._drift = np.zeros(2)

    @property
    def acts_at_random(self) -> bool:
        """Whether the present episode is one of the random ones."""
        return self._random_episode

    def reset(self, observation: FloatArray) -> None:
        """Draw what kind of episode this is, random or not and how fast, and forget the old path."""
        self._random_episode = bool(self._rng.random() < self.config.random_episode_fraction)
        self._speed = self.config.speed - self.config.speed_spread * float(self._rng.random())
        self._path = []
        self._drift = self._rng.uniform(self._low, self._high)

    def act(self, observation: FloatArray) -> FloatArray:
        """Observation [8] -> action [2] float32 within the bounds."""
        if self._random_episode:
            return self._act_at_random()
        position, goal, velocity = observation[0:2], observation[2:4], observation[6:8]
        target_x, target_y = self._waypoint(position, goal)
        config = self.config
        control = np.array([target_x - position[0], target_y - position[1]]) * config.gain - config.damping * velocity
        control = self._speed * np.minimum(np.maximum(control, self._low), self._high)
        if config.noise:
            control += config.noise * self._rng.standard_normal(2)
        return self._clip(control)

    def _act_at_random(self) -> FloatArray:
        """Uniform actions, smoothed over time so that the point gets somewhere."""
        keep = self.config.random_smoothness
        fresh = self._rng.uniform(self._low, self._high)
        # Weighted so that the variance stays that of the uniform distribution.
        self._drift = keep * self._drift + np.sqrt(1.0 - keep * keep) * fresh
        return self._clip(self._drift)

    def _clip(self, action: npt.NDArray[np.float64]) -> FloatArray:
        return np.minimum(np.maximum(action, self._low), self._high).astype(np.float32, copy=False)

    def _waypoint(self, position: FloatArray, goal: FloatArray) -> tuple[float, float]:
        """Where to head now: the next cell's centre, or the goal itself from its own or the adjoining cell."""
        here, there = self._cell(position), self._cell(goal)
        if here == there:
            return float(goal[0]), float(goal[1])
        if not self._path or self._path[-1] != there or here not in self._path:
            self._path = shortest_path(self._map, here, there) or [here, there]
        ahead = self._path[self._path.index(here) + 1 :]
        if len(ahead) == 1:
            return float(goal[0]), float(goal[1])
        return self._center(ahead[0])

    def _cell(self, position: FloatArray) -> Cell:
        row = int(np.floor((self._y_center - float(position[1])) / self._scale))
        column = int(np.floor((float(position[0]) + self._x_center) / self._scale))
        return row, column

    def _center(self, cell: Cell) -> tuple[float, float]:
        row, column = cell
        return (column + 0.5) * self._scale - self._x_center, self._y_center - (row + 0.5) * self._scale
