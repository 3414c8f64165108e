"""MuJoCo states that show a recorded observation, so that logged episodes can be looked at.

A log holds observations, not states. Where an environment computes its observation from MuJoCo's state, the state is
found the other way round: damped least squares (Levenberg 1944, Marquardt 1963) over joint positions and velocities
until the environment's own observation is the recorded one. What the observation does not tell stays as it was, but for
positions whose velocity it tells: those follow it. `Poser` says what the pictures do not show as recorded.

Shapes: O observation size, V degrees of freedom of the simulation, E numbers of the scene that a reset draws at random,
X = 2V + E unknowns.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from envs.errors import EnvError
from envs.wrappers import FlatEnv

Doubles = npt.NDArray[np.floating[Any]]

ITERATIONS = 40
NUDGE = 1e-6
"""Size of the differences from which slopes are taken, rad or m."""
LEAST_DAMPING = 1e-4
"""Keeps directions that hardly show, like a pen's spin about itself, from running away."""
SETTLED = 1e-7
"""A step smaller than this, rad or m, ends the search."""
SHOWN = 1e-2
"""An entry is shown where it differs by less than this share of its size (at least of 1)."""

# Where things stand in the model itself and a reset moves them: (field of the model, name of the body or site).
SCENES = {
    "AdroitHandDoor": (("body_pos", "frame"),),
    "AdroitHandHammer": (("body_pos", "nail_board"),),
    "AdroitHandPen": (("body_quat", "target"),),
    "AdroitHandRelocate": (("site_pos", "target"),),
}


class Poser:
    """Puts an environment into states that show given observations, one after another in the order of time.

        poser = Poser(env)                   # after env.reset(seed=...)
        for observation in episode:
            poser.show(observation, seconds)
            frame = env.render()

    Raises:
        EnvError: the environment's observation cannot be computed from a MuJoCo state.
    """

    def __init__(self, env: FlatEnv) -> None:
        inner: Any = env.unwrapped
        self._inner = inner
        self._leaves = env.flattener.leaves
        self._observe = _observer(inner)
        if self._observe is None:
            raise EnvError(
                f"environment {env.env_id}: its observations cannot be turned back into simulator states "
                "(it is no MuJoCo environment, or computes them in a way of its own)"
            )
        import mujoco

        self._mujoco = mujoco
        self._model, self._data = inner.model, inner.data
        self._dofs = int(self._model.nv)
        places = next((places for name, places in SCENES.items() if env.env_id.startswith(name)), ())
        self._scene = [_place(self._model, field, name) for field, name in places]
        mujoco.mj_normalizeQuat(self._model, self._data.qpos)  # a reset's noise need not leave rotations of length 1
        self._refresh()
        slopes = np.abs(self._slopes())
        moved = slopes[:, : self._dofs].max(axis=0) > 1e-9
        joints = [self._model.joint(int(self._model.dof_jntid[dof])).name for dof in np.flatnonzero(~moved)]
        self.hidden = list(dict.fromkeys(joints))
        """Names of joints whose position no entry tells, wholly or in part: their picture is a guess."""
        self.visible = np.delete(slopes, np.s_[self._dofs : 2 * self._dofs], axis=1).max(axis=1) > 1e-9
        """[O], entries that a picture can show: not velocities and forces."""
        self.missed = np.zeros(env.flattener.size, np.bool_)
        """[O], visible entries that some picture so far showed otherwise than recorded."""

    def show(self, observation: npt.NDArray[np.float32], seconds: float = 0.0) -> None:
        """Move to the state that shows observation [O], `seconds` of simulated time after the one shown before."""
        target = observation.astype(np.float64)
        self._set_goal(target)
        data = self._data
        if seconds:
            self._mujoco.mj_integratePos(self._model, data.qpos, data.qvel, seconds)
        self._refresh()
        gap, damping = self._flat() - target, LEAST_DAMPING
        for _ in range(ITERATIONS):
            slopes = self._slopes()
            normal = slopes.T @ slopes
            before = self._state()
            while True:
                step = -np.linalg.solve(normal + damping * np.eye(len(normal)), slopes.T @ gap)
                self._move(step)
                tried = self._flat() - target
                if tried @ tried <= gap @ gap or damping > 1e3:
                    break
                self._restore(before)
                damping *= 10.0
            gap, damping = tried, max(damping / 10.0, LEAST_DAMPING)
            if np.abs(step).max() < SETTLED:
                break
        self.missed |= self.visible & (np.abs(gap) > SHOWN * np.maximum(1.0, np.abs(target)))
        # Lights, cameras and everything else that a picture needs.
        self._mujoco.mj_forward(self._model, data)

    def _refresh(self) -> None:
        """What observations read of the state; forces stay, for they belong to another state."""
        self._mujoco.mj_kinematics(self._model, self._data)
        self._mujoco.mj_comPos(self._model, self._data)
        self._mujoco.mj_comVel(self._model, self._data)

    def _flat(self) -> Doubles:
        """The environment's observation of the present state [O], in float64: slopes are taken of it."""
        assert self._observe is not None
        raw = self._observe()
        parts = []
        for leaf in self._leaves:
            value = raw
            for key in leaf.path:
                value = value[key]
            parts.append(np.asarray(value, np.float64).ravel())
        return np.concatenate(parts)

    def _state(self) -> list[Doubles]:
        return [self._data.qpos.copy(), self._data.qvel.copy(), *(place.copy() for place in self._scene)]

    def _restore(self, state: list[Doubles]) -> None:
        for array, value in zip((self._data.qpos, self._data.qvel, *self._scene), state, strict=True):
            array[:] = value

    def _move(self, step: Doubles) -> None:
        """Go by a step [X]: rotations and shifts of the joints, changes of their velocities, shifts of the scene."""
        at = 2 * self._dofs
        self._mujoco.mj_integratePos(self._model, self._data.qpos, step[: self._dofs], 1.0)
        self._data.qvel[:] += step[self._dofs : at]
        for place in self._scene:
            place += step[at : at + len(place)]
            if len(place) == 4:  # a rotation
                place /= np.linalg.norm(place)
            at += len(place)
        self._refresh()

    def _slopes(self) -> Doubles:
        """Derivatives of the observation [O, X] by the unknowns."""
        before, here = self._state(), self._flat()
        nudges = NUDGE * np.eye(2 * self._dofs + sum(map(len, self._scene)))
        slopes = np.empty((len(here), len(nudges)))
        for column, nudge in enumerate(nudges):
            self._move(nudge)
            slopes[:, column] = (self._flat() - here) / NUDGE
            self._restore(before)
        self._refresh()
        return slopes

    def _set_goal(self, target: Doubles) -> None:
        """Goals are no part of the simulator's state: goal environments keep them beside it."""
        goal = next((leaf for leaf in self._leaves if leaf.name == "desired_goal"), None)
        if goal is not None and isinstance(getattr(self._inner, "goal", None), np.ndarray):
            self._inner.goal = target[goal.offset : goal.offset + goal.length].copy()
            if hasattr(self._inner, "update_target_site_pos"):
                self._inner.update_target_site_pos()


def _place(model: Any, field: str, name: str) -> Doubles:
    """The numbers that say where a body or site of the model stands; writing to them moves it."""
    number = model.body(name).id if field.startswith("body") else model.site(name).id
    place: Doubles = getattr(model, field)[number]
    return place


def _observer(inner: Any) -> Callable[[], Any] | None:
    """The environment's own function from its present state to its raw observation; None where it has none."""
    if type(getattr(inner, "data", None)).__name__ != "MjData" or not hasattr(inner, "_get_obs"):
        return None
    for name in ("point_env", "ant_env", "robot_env"):
        part = getattr(inner, name, None)
        if part is not None:
            _silence(inner, part)
            return lambda: inner._get_obs(_array(part._get_obs()))
    needed = [p for p in inspect.signature(inner._get_obs).parameters.values() if p.default is p.empty]
    return None if needed else inner._get_obs


def _array(observed: Any) -> Any:
    """The point mass returns its observation with an info."""
    return observed[0] if isinstance(observed, tuple) else observed


def _silence(*parts: Any) -> None:
    """FrankaKitchen adds noise to what it observes: a search needs the same answer twice."""
    for part in parts:
        for name in ("object_noise_ratio", "robot_noise_ratio"):
            if hasattr(part, name):
                setattr(part, name, 0.0)
