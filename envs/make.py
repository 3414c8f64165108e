"""Build one environment by name, wrapped; and describe it as plain data for the packages that know no simulator."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from envs.catalog import Task, lookup
from envs.errors import EnvError, one_line

try:
    import gymnasium
except ModuleNotFoundError as _missing:
    raise EnvError("simulated environments need the extra `sim`: pip install 'slipway[sim]'") from _missing

from envs.wrappers import FlatEnv


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the simulators say while they are imported and constructed; the messages do not concern the user.

    gymnasium-robotics prints a notice about Adroit to stderr on import, Gymnasium calls its own older versions out of
    date. Nothing else is hidden: warnings raised by steps pass through.
    """
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module=r"(gymnasium|gymnasium_robotics|glfw)(\.|$)")
        yield


def _register_robotics() -> None:
    """Make the robotics ids known to Gymnasium; it has no plug-in of its own. Harmless when repeated."""
    with _quiet():
        try:
            import gymnasium_robotics
        except ModuleNotFoundError as missing:
            raise EnvError("robotics environments need the extra `sim`: pip install 'slipway[sim]'") from missing
        gymnasium.register_envs(gymnasium_robotics)


def registered_ids() -> list[str]:
    """Every id that `make_env` can try."""
    _register_robotics()
    return list(gymnasium.registry)


def drop_model_sources() -> None:
    """Free what MuJoCo keeps of the models compiled so far, for building further ones: FrankaKitchen's 120 MB of 170.

    Environments that stand are not touched; one that is built later reads its files again.
    """
    mujoco = sys.modules.get("mujoco")
    if mujoco is None:
        return
    if hasattr(mujoco, "mj_clearCache"):  # decoded meshes and textures; since MuJoCo 3.3
        mujoco.mj_clearCache(mujoco.mj_getCache())
    mujoco.MjModel.from_xml_string("<mujoco/>")  # the last model's whole specification is kept until the next one's


def make_env(env_id: str, *, kwargs: Mapping[str, Any] | None = None, max_episode_steps: int | None = None) -> FlatEnv:
    """Build `env_id`, flat and guarded (see `FlatEnv`).

    `kwargs` go over the catalogue's constructor arguments; `max_episode_steps` over the catalogue's time limit, which
    goes over the registered one.

    Raises:
        EnvError: unknown id, unsupported spaces, or the constructor refuses.
    """
    task = lookup(env_id)
    if max_episode_steps is not None and max_episode_steps < 1:
        raise EnvError(f"max_episode_steps must be at least 1, not {max_episode_steps}")
    merged = copy.deepcopy({**task.kwargs, **(kwargs or {})})
    _register_robotics()
    _log_simulator_warnings()
    with _quiet():
        registered = gymnasium.spec(env_id.rpartition(":")[2])
        # Our wrapper does the work of TimeLimit, OrderEnforcing and PassiveEnvChecker at a fraction of their cost.
        bare = copy.deepcopy(registered)
        bare.max_episode_steps, bare.order_enforce, bare.disable_env_checker = None, False, True
        try:
            raw = gymnasium.make(bare, **merged)
        except Exception as error:
            raise EnvError(f"cannot construct environment {env_id} with {_shown(merged)}: {one_line(error)}") from error
    _remove_leftovers(raw)
    limit = next(
        (n for n in (max_episode_steps, task.max_episode_steps, registered.max_episode_steps) if n is not None), None
    )
    try:
        return FlatEnv(raw, env_id=env_id, kwargs=merged, max_episode_steps=limit, success_of=_success_of(task, raw))
    except EnvError:
        raw.close()
        raise


def _remove_leftovers(raw: gymnasium.Env[Any, Any]) -> None:
    """Mazes leave their generated model file in the temporary folder for ever; once loaded it is of no use."""
    leftover = getattr(raw.unwrapped, "tmp_xml_file_path", None)
    if leftover is not None:
        Path(leftover).unlink(missing_ok=True)


def _log_simulator_warnings() -> None:
    """Send MuJoCo's own warnings to `logging`; by default it writes MUJOCO_LOG.TXT into the working directory."""
    import mujoco

    if mujoco.get_mju_user_warning() is None:
        mujoco.set_mju_user_warning(logging.getLogger("mujoco").warning)


def _shown(kwargs: Mapping[str, Any]) -> str:
    return one_line(", ".join(f"{key}={value!r}" for key, value in kwargs.items()) or "no arguments", 120)


def _success_of(task: Task, raw: gymnasium.Env[Any, Any]) -> Callable[[dict[str, Any]], float] | None:
    """How the environment's step info tells success, as a function to 0.0 or 1.0."""
    key = task.success_key
    if key is None:
        return None
    if key == "episode_task_completions":
        # FrankaKitchen lists what is done so far; success is all of it.
        wanted = len(raw.get_wrapper_attr("goal"))
        return lambda info: float(len(info[key]) == wanted)
    return lambda info: float(info[key])


def describe(env: FlatEnv) -> dict[str, Any]:
    """Layout and identity of a wrapped environment as plain data.

    Returns `{"observation": [{"name", "offset", "length", "dtype"}], "action_low": [A floats], "action_high": [A],
    "env": {"id", "kwargs", "max_episode_steps"}}`.
    """
    # How a viewer draws the environment is no part of what it is.
    kwargs = {key: value for key, value in env.kwargs.items() if key != "render_mode"}
    spec = {"id": env.env_id, "kwargs": kwargs, "max_episode_steps": env.max_episode_steps}
    try:
        spec = json.loads(json.dumps(spec))
    except (TypeError, ValueError) as error:
        raise EnvError(
            f"environment {env.env_id}: its arguments cannot be stored as JSON: {one_line(error)}"
        ) from error
    return {
        "observation": env.flattener.terms(),
        "action_low": [float(value) for value in env.action_low],
        "action_high": [float(value) for value in env.action_high],
        "env": spec,
    }
