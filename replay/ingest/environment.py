"""The environment a source belongs to: merge what is recorded with what the caller gives; ask Gymnasium for spaces."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import warnings
from pathlib import Path
from typing import Any

from replay.ingest.layout import action_bounds, observation_terms
from replay.ingest.source import IngestError, SourceFormatError, one_line


def merge_environment(recorded: dict[str, Any] | None, given: dict[str, Any] | None) -> dict[str, Any] | None:
    """The spec `{"id", "kwargs", "max_episode_steps"}` to store: what is given completes or replaces the recorded.

    Of the same environment, given fields that are not None replace recorded ones; another id replaces the whole spec.

    Raises:
        IngestError: the spec lacks an id, is not JSON-able, or its time limit is below one step.
    """
    base = recorded or {}
    if given:
        changed = {key: value for key, value in given.items() if value is not None}
        same = changed.get("id", base.get("id")) == base.get("id")
        base = {**base, **changed} if same else changed
    limit = base.get("max_episode_steps")
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        raise IngestError(f"the time limit is {limit!r} steps: give --max-episode-steps a whole number of at least 1")
    if not base or set(base) == {"max_episode_steps"}:
        return None  # a time limit alone serves to cut episodes, but names no environment
    if not base.get("id"):
        raise IngestError(f"environment {base} lacks an 'id': give the Gymnasium id, e.g. AdroitHandDoor-v1")
    spec = {"id": base["id"], "kwargs": base.get("kwargs") or {}, "max_episode_steps": base.get("max_episode_steps")}
    try:
        plain: dict[str, Any] = json.loads(json.dumps(spec))
    except (TypeError, ValueError) as error:
        raise IngestError(f"environment {spec['id']}: its kwargs cannot be stored as JSON ({error})") from None
    return plain


def time_limit(env: dict[str, Any] | None, given: dict[str, Any] | None) -> int | None:
    """The given max_episode_steps, else the spec's, else the one Gymnasium registers for its id, else None."""
    for spec in (given, env):
        if spec and spec.get("max_episode_steps") is not None:
            return int(spec["max_episode_steps"])
    if env is None:
        return None
    found = registered(env["id"])
    return None if found is None or found.max_episode_steps is None else int(found.max_episode_steps)


def registered(env_id: str) -> Any | None:
    """Gymnasium's registered spec of an id, or None."""
    gymnasium = _gymnasium()
    try:
        return gymnasium.spec(env_id)
    except (gymnasium.error.Error, ImportError):  # an id may name a module that is not installed
        return None


def environment_spaces(env: dict[str, Any]) -> tuple[Any, Any]:
    """(observation space, action space) of a spec's environment, which is built and closed again.

    Raises:
        IngestError: Gymnasium cannot build it.
    """
    gymnasium = _gymnasium()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            built = gymnasium.make(env["id"], disable_env_checker=True, **env["kwargs"])
        except Exception as error:  # a constructor may raise anything
            raise IngestError(
                f"environment {env['id']!r} cannot be built to read its spaces ({one_line(error)}); "
                "check the id, or ingest without it"
            ) from error
        try:
            return built.observation_space, built.action_space
        finally:
            built.close()


def fitting_layout(
    where: str, env: dict[str, Any], *, observations: int, actions: int
) -> tuple[tuple[dict[str, Any], ...], tuple[float, ...], tuple[float, ...]]:
    """(observation terms, action low, action high) of a spec's environment, if data of these sizes can be from it.

    Raises:
        SourceFormatError: the environment's observation or action has another size; `where` names the source.
    """
    observation_space, action_space = environment_spaces(env)
    terms = observation_terms(observation_space, env["id"])
    low, high = action_bounds(action_space, env["id"])
    expected = sum(int(term["length"]) for term in terms)
    for field, got, asked in (("observations", observations, expected), ("actions", actions, len(low))):
        if got != asked:
            raise SourceFormatError(
                f"{where}: {field} has {got} columns but environment {env['id']} has {asked}; "
                "name the environment that the data was recorded in"
            )
    return terms, low, high


def _gymnasium() -> Any:
    """Gymnasium with the robotics environments registered, where they are installed.

    The working directory is on the import path from here on: an id may name a module of the user's own.
    """
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    # gymnasium-robotics prints a notice about Adroit to stderr when it is imported.
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            import gymnasium
        except ImportError as error:
            raise IngestError(
                f"looking up an environment needs gymnasium: pip install '.[sim]' in Slipway's checkout ({error})"
            ) from None
        try:
            import gymnasium_robotics
        except ImportError:
            return gymnasium
        if "PointMaze_UMaze-v3" not in gymnasium.registry:
            gymnasium.register_envs(gymnasium_robotics)
    return gymnasium
