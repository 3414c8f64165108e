"""One wrapper between an environment and everything else: flat float32 observations, safe actions, faults, time limit.

Gymnasium would stack five wrappers for this (FlattenObservation, DtypeObservation, ClipAction, TimeLimit,
OrderEnforcing) and still not notice a NaN. One pass per step costs a few microseconds instead.

Shapes: O observation size, A action size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from envs.errors import EnvError, EnvFault, one_line

FloatArray = npt.NDArray[np.float32]
LARGEST = float(np.finfo(np.float32).max)
"""What is stored is float32: a reward beyond would be infinity there."""


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """One term of the flattened observation: where it comes from and where it goes."""

    name: str
    """Keys joined with "/"; `observation` for an environment that returns a plain array."""
    path: tuple[str | int, ...]
    """Keys (Dict) and indices (Tuple) from the raw observation to this term."""
    space: spaces.Space[Any]
    """Box, MultiBinary, Discrete or MultiDiscrete."""
    offset: int
    """First column in the flattened observation."""
    length: int
    """Number of columns."""


class BadObservation(ValueError):
    """The environment returned an observation that does not fit its space, or is not finite."""


def leaves_of(space: spaces.Space[Any], env_id: str) -> tuple[Leaf, ...]:
    """The terms of `space` in the order of `gymnasium.spaces.flatten`.

    Raises:
        EnvError: images, or spaces without a fixed size (Text, Sequence, Graph, OneOf).
    """
    found: list[Leaf] = []

    def visit(part: spaces.Space[Any], path: tuple[str | int, ...]) -> None:
        if isinstance(part, spaces.Dict):
            for key, child in part.spaces.items():
                visit(child, (*path, key))
            return
        if isinstance(part, spaces.Tuple):
            for index, child in enumerate(part.spaces):
                visit(child, (*path, index))
            return
        name = "/".join(str(key) for key in path) or "observation"
        if not isinstance(part, spaces.Box | spaces.MultiBinary | spaces.Discrete | spaces.MultiDiscrete):
            raise EnvError(
                f"environment {env_id}: observation {name!r} is a {type(part).__name__}, which has no fixed size; "
                f"Box, Discrete, MultiBinary, MultiDiscrete and Dict or Tuple of them are supported"
            )
        if isinstance(part, spaces.Box) and (len(part.shape) > 2 or (len(part.shape) == 2 and part.dtype == np.uint8)):
            raise EnvError(
                f"environment {env_id}: observation {name!r} is an image of shape {part.shape}; "
                f"images are not supported yet, choose an environment with state observations"
            )
        length = int(spaces.flatdim(part))
        if length:
            offset = found[-1].offset + found[-1].length if found else 0
            found.append(Leaf(name=name, path=path, space=part, offset=offset, length=length))

    visit(space, ())
    if not found:
        raise EnvError(f"environment {env_id}: the observation space is empty")
    return tuple(found)


def _reader(leaf: Leaf, last: str | int | None) -> Callable[[Any, FloatArray], None]:
    """A function that copies this term out of its (innermost) container into the flat observation."""
    stop = leaf.offset + leaf.length
    columns, name, space = slice(leaf.offset, stop), leaf.name, leaf.space
    if isinstance(space, spaces.Box | spaces.MultiBinary):
        shape = space.shape
        flat = len(shape) == 1

        def copy(container: Any, out: FloatArray) -> None:
            value = container if last is None else container[last]
            if type(value) is not np.ndarray:
                value = np.asarray(value)
            if value.shape != shape:
                raise BadObservation(f"observation {name!r} has shape {value.shape} instead of {shape}")
            out[columns] = value if flat else value.ravel()

        return copy

    def encode(container: Any, out: FloatArray) -> None:
        value = container if last is None else container[last]
        if not space.contains(value):
            raise BadObservation(f"observation {name!r} is {one_line(value, 60)}, which is not in {space}")
        out[columns] = np.asarray(spaces.flatten(space, value))

    return encode


class Flattener:
    """Copies a raw (nested) observation into a fresh flat float32 array, checking shapes and finiteness."""

    def __init__(self, space: spaces.Space[Any], env_id: str) -> None:
        self.leaves = leaves_of(space, env_id)
        self.size = self.leaves[-1].offset + self.leaves[-1].length
        # Terms grouped by the container that holds them, so that nested dicts are walked once.
        groups: dict[tuple[str | int, ...], list[Callable[[Any, FloatArray], None]]] = {}
        for leaf in self.leaves:
            last = leaf.path[-1] if leaf.path else None
            groups.setdefault(leaf.path[:-1], []).append(_reader(leaf, last))
        self._groups = [(path, tuple(readers)) for path, readers in groups.items()]

    @np.errstate(over="ignore", invalid="ignore")
    def __call__(self, raw: Any) -> FloatArray:
        """Raw observation -> fresh [O] float32.

        Raises:
            BadObservation: a wrong shape, NaN or infinity (also a value too large for float32).
        """
        out = np.empty(self.size, np.float32)
        for path, readers in self._groups:
            container = raw
            for key in path:
                container = container[key]
            for read in readers:
                read(container, out)
        # One dot product sees every NaN and infinity; its own overflow is the only case for the exact, slower test.
        if not math.isfinite(out.dot(out)) and not np.isfinite(out).all():
            column = int(np.flatnonzero(~np.isfinite(out))[0])
            leaf = next(leaf for leaf in self.leaves if column < leaf.offset + leaf.length)
            raise BadObservation(f"observation {leaf.name!r}[{column - leaf.offset}] is {out[column]}")
        return out

    def terms(self) -> list[dict[str, Any]]:
        """The layout as plain data: name, offset, length and source dtype of each term."""
        return [
            {"name": leaf.name, "offset": leaf.offset, "length": leaf.length, "dtype": str(leaf.space.dtype)}
            for leaf in self.leaves
        ]


def action_box(space: spaces.Space[Any], env_id: str) -> spaces.Box:
    """The action space if we can drive it: a floating-point Box with finite bounds.

    Raises:
        EnvError: discrete or integer actions, or an unbounded Box.
    """
    if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating):
        raise EnvError(
            f"environment {env_id}: actions are {one_line(space, 80)}; only continuous (floating-point Box) actions "
            "are supported, discrete ones are not: choose another environment"
        )
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise EnvError(f"environment {env_id}: the action bounds are not finite; rescale the actions to a bounded Box")
    if space.low.size == 0 or not (space.low < space.high).all():
        raise EnvError(f"environment {env_id}: an action needs at least one dimension and low < high in each")
    return space


class FlatEnv(gymnasium.Wrapper[FloatArray, FloatArray, Any, Any]):
    """A Gymnasium environment with [O] float32 observations, [A] float32 actions, and honest failures.

    * Each observation is a fresh array: environments reuse their buffers, this one never does.
    * Finite actions are clipped into the bounds; NaN, infinity or a wrong shape raise `EnvError`.
    * Whatever the environment does wrong raises `EnvFault`; the environment then has to be reset or replaced.
    * The time limit sets `truncated`, never `terminated`; both may be true in the same step.
    * `info["success"]` is a float (0 or 1) where `success_of` is given.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        *,
        env_id: str,
        kwargs: Mapping[str, Any] | None = None,
        max_episode_steps: int | None = None,
        success_of: Callable[[dict[str, Any]], float] | None = None,
    ) -> None:
        super().__init__(env)
        self.env_id = env_id
        self.kwargs = dict(kwargs or {})
        self.max_episode_steps = max_episode_steps
        self.flattener = Flattener(env.observation_space, env_id)
        box = action_box(env.action_space, env_id)
        self._action_shape = box.shape
        self._action_dtype = box.dtype
        self._low, self._high = box.low.ravel(), box.high.ravel()
        self.action_low, self.action_high = self._low.astype(np.float32), self._high.astype(np.float32)
        self._limit = math.inf if max_episode_steps is None else max_episode_steps
        self._success_of = success_of
        self.columns: Sequence[str] = ()
        """Keys of the step's info that are to be stored: numbers then, or a fault; 0 where absent."""
        self._inner_step = env.step
        self._simulation = _mujoco_data(env)
        self._time = 0.0
        self._steps = -1
        size = (self.flattener.size,)
        self.observation_space = spaces.Box(-np.inf, np.inf, size, np.float32)
        self.action_space = spaces.Box(self.action_low, self.action_high, dtype=np.float32)

    @property
    def elapsed_steps(self) -> int:
        """Steps taken in this episode; −1 where a reset is due."""
        return self._steps

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[FloatArray, dict[str, Any]]:
        """Start an episode: ([O] float32, info).

        Raises:
            EnvFault: the environment raised, or its first observation is not as described.
        """
        self._steps = -1
        try:
            raw, info = self.env.reset(seed=seed, options=options)
            observation = self.flattener(raw)
        except Exception as error:
            raise EnvFault(self.env_id, 0, _what(error)) from error
        self._steps = 0
        if self._simulation is not None:
            self._time = self._simulation.time
        return observation, info

    def step(self, action: npt.ArrayLike) -> tuple[FloatArray, float, bool, bool, dict[str, Any]]:
        """One step: (next observation [O] float32, reward, terminated, truncated, info).

        Raises:
            EnvError: the action is not finite or not [A]; or the episode is over (or faulted): reset first.
            EnvFault: the environment raised, or returned something else than it describes.
        """
        if self._steps < 0:
            raise EnvError(f"environment {self.env_id}: the episode has not begun or is over; call reset() first")
        prepared = self._prepare(action)
        step = self._steps + 1
        self._steps = -1
        try:
            raw, reward, terminated, truncated, info = self._inner_step(prepared)
            observation = self.flattener(raw)
            reward = float(reward)
            if self._success_of is not None:
                info["success"] = self._success_of(info)
            if self._simulation is not None:
                self._check_divergence(self._simulation)
            for name in self.columns:
                if not abs(value := float(info.get(name, 0.0))) <= LARGEST:
                    raise _Nonsense(f"the info {name} is {value}")
            if not abs(reward) <= LARGEST:
                raise _Nonsense(f"the reward is {reward}")
        except Exception as error:
            raise EnvFault(self.env_id, step, _what(error)) from error
        terminated, truncated = bool(terminated), bool(truncated) or step >= self._limit
        if not (terminated or truncated):
            self._steps = step
        return observation, reward, terminated, truncated, info

    def _check_divergence(self, simulation: Any) -> None:
        """MuJoCo answers an exploding state by resetting itself without a word: only its clock tells, by going back."""
        now = simulation.time
        if now <= self._time:
            raise _Nonsense("the simulation became unstable and MuJoCo reset it in mid-episode")
        self._time = now

    @np.errstate(over="ignore", invalid="ignore")
    def _prepare(self, action: npt.ArrayLike) -> npt.NDArray[Any]:
        """A fresh array within the bounds, in the environment's own dtype and shape."""
        wanted = np.asarray(action, self._action_dtype)
        if wanted.shape != self._low.shape:
            raise EnvError(
                f"environment {self.env_id}: the action has shape {wanted.shape} instead of {self._low.shape}"
            )
        # As in Flattener: the dot product is the quick test, isfinite settles its overflow.
        if not math.isfinite(wanted.dot(wanted)) and not np.isfinite(wanted).all():
            raise EnvError(f"environment {self.env_id}: the action is not finite: {one_line(wanted, 120)}")
        clipped = np.minimum(np.maximum(wanted, self._low), self._high)
        return clipped if clipped.shape == self._action_shape else clipped.reshape(self._action_shape)


class _Nonsense(Exception):
    """The physics blew up, or a number is none; carries the whole message of the fault."""


def _mujoco_data(env: gymnasium.Env[Any, Any]) -> Any:
    """The environment's MjData, or None where it is no MuJoCo environment."""
    data = getattr(env.unwrapped, "data", None)
    return data if type(data).__name__ == "MjData" else None


def _what(error: Exception) -> str:
    """What happened, for the message of a fault; our own findings need no exception name."""
    ours = isinstance(error, BadObservation | _Nonsense)
    return str(error) if ours else f"{type(error).__name__}: {error}"
