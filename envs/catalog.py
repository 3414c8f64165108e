"""Every task that Slipway knows by name: constructor arguments, reference scores, what success means, known datasets.

Pure data, no simulator is imported. `lookup` also accepts any other registered Gymnasium id, with defaults.

Reference scores: d4rl/infos.py (normalised score = 100·(return − min)/(max − min)). The return-based maze2d scores
of D4RL assume a continuing task of fixed length and do not apply to PointMaze as run here, which ends at the goal:
mazes are scored by success rate, as AntMaze is in D4RL.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from envs.errors import EnvError, one_line
from envs.own_modules import find_in_working_directory


@dataclass(frozen=True, kw_only=True)
class Task:
    id: str
    """Gymnasium id, e.g. `AdroitHandPen-v1`."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Constructor arguments with which the task is run here, in training and in scoring."""
    scoring_kwargs: dict[str, Any] = field(default_factory=dict)
    """Further constructor arguments for scoring only, where a dataset was recorded under another reward count."""
    max_episode_steps: int | None = None
    """Time limit in steps under which the task is scored; None: the environment's registered limit."""
    reference_min: float | None = None
    """D4RL's score 0: mean episode return of a random policy; None where D4RL has none."""
    reference_max: float | None = None
    """D4RL's score 100: mean episode return of an expert."""
    score: Literal["return", "success"] = "return"
    """What to judge by: the (normalised) return, or the rate of episodes that succeed."""
    success_key: str | None = None
    """Key of the environment's own step info that tells success; wrapped environments expose it as `success`."""
    terminate_on: str | None = None
    """Info column that ends an episode for good when it turns 1: what `ingest --terminate-on` defaults to."""
    preset: str = ""
    """Hyper-parameter preset: locomotion, antmaze, adroit, kitchen, pointmaze or fetch; empty: the plain defaults."""
    expert: str | None = None
    """Scripted expert in `envs.experts.EXPERTS` that can produce data."""
    minari: tuple[str, ...] = ()
    """Minari dataset ids recorded in this environment."""


def _minari(prefix: str, names: str, version: int) -> tuple[str, ...]:
    return tuple(f"{prefix}{name}-v{version}" for name in names.split())


def _locomotion(name: str, reference: tuple[float, float]) -> Task:
    return Task(
        id=f"{name}-v5",
        max_episode_steps=1000,
        reference_min=reference[0],
        reference_max=reference[1],
        preset="locomotion",
        minari=_minari(f"mujoco/{name.lower()}/", "simple medium expert", 0),
    )


def _adroit(name: str, limit: int, reference: tuple[float, float]) -> Task:
    return Task(
        id=f"AdroitHand{name}-v1",
        max_episode_steps=limit,
        reference_min=reference[0],
        reference_max=reference[1],
        success_key="success",
        preset="adroit",
        minari=_minari(f"D4RL/{name.lower()}/", "human cloned expert", 2),
    )


def _antmaze(name: str, version: int, limit: int, datasets: str = "") -> Task:
    return Task(
        id=f"AntMaze_{name}-v{version}",
        kwargs={"continuing_task": False},
        max_episode_steps=limit,
        reference_min=0.0,
        reference_max=1.0,
        score="success",
        success_key="success",
        terminate_on="success",
        preset="antmaze",
        minari=_minari("D4RL/antmaze/", datasets, 1),
    )


def _pointmaze(name: str, limit: int, datasets: str = "") -> Task:
    return Task(
        id=f"PointMaze_{name}-v3",
        kwargs={"continuing_task": False},
        max_episode_steps=limit,
        score="success",
        success_key="success",
        terminate_on="success",
        preset="pointmaze",
        expert="waypoint",
        minari=_minari("D4RL/pointmaze/", datasets, 2),
    )


def _fetch(name: str) -> Task:
    return Task(id=f"Fetch{name}-v4", max_episode_steps=50, score="success", success_key="is_success", preset="fetch")


_TASKS = (
    _locomotion("Hopper", (-20.272305, 3234.3)),
    _locomotion("HalfCheetah", (-280.178953, 12135.0)),
    _locomotion("Walker2d", (1.629008, 4592.3)),
    _locomotion("Ant", (-325.6, 3879.7)),
    # D4RL runs the pen for 100 steps, although the environment registers 200.
    _adroit("Pen", 100, (96.262799, 3076.8331017826877)),
    _adroit("Hammer", 200, (-274.856578, 12794.134825156867)),
    _adroit("Door", 200, (-56.512833, 2880.5693087298737)),
    _adroit("Relocate", 200, (-6.425911, 4233.877797728884)),
    Task(
        id="FrankaKitchen-v1",
        # The subtasks of D4RL's `complete` and `partial`; `mixed` has the bottom burner for the slide cabinet.
        kwargs={"tasks_to_complete": ["microwave", "kettle", "light switch", "slide cabinet"]},
        # Minari's sets pay every step for all that is done so far; D4RL scores each subtask once, 4 in all.
        scoring_kwargs={"remove_task_when_completed": True, "terminate_on_tasks_completed": True},
        max_episode_steps=280,
        reference_min=0.0,
        reference_max=4.0,
        success_key="episode_task_completions",
        preset="kitchen",
        minari=_minari("D4RL/kitchen/", "complete partial mixed", 2),
    ),
    # Minari's AntMaze sets were recorded in -v4 (27 observations of the ant); -v5 adds contact forces (105).
    _antmaze("UMaze", 4, 700, "umaze umaze-diverse"),
    _antmaze("Medium", 4, 1000, "medium-play"),
    _antmaze("Medium_Diverse_GR", 4, 1000, "medium-diverse"),
    _antmaze("Large", 4, 1000, "large-play"),
    _antmaze("Large_Diverse_GR", 4, 1000, "large-diverse"),
    _antmaze("UMaze", 5, 700),
    _antmaze("Medium", 5, 1000),
    _antmaze("Medium_Diverse_GR", 5, 1000),
    _antmaze("Large", 5, 1000),
    _antmaze("Large_Diverse_GR", 5, 1000),
    _pointmaze("Open", 300, "open open-dense"),
    _pointmaze("UMaze", 300, "umaze umaze-dense"),
    _pointmaze("Medium", 600, "medium medium-dense"),
    _pointmaze("Large", 800, "large large-dense"),
    _fetch("Reach"),
    _fetch("Push"),
    _fetch("PickAndPlace"),
    _fetch("Slide"),
)

_EXAMPLE = "give a Gymnasium id, e.g. Hopper-v5, or module:id where a module of yours registers it"

CATALOG: dict[str, Task] = {task.id: task for task in _TASKS}

# Unlisted variants of a family (PointMaze_Open_Diverse_G-v3, AdroitHandDoorSparse-v1, FetchReachDense-v4) behave as
# the family does, but their rewards differ: no reference score, no dataset, the registered time limit.
_FAMILIES = {
    "AdroitHand": "AdroitHandDoor-v1",
    "AntMaze_": "AntMaze_UMaze-v5",
    "PointMaze_": "PointMaze_Open-v3",
    "Fetch": "FetchReach-v4",
    "FrankaKitchen": "FrankaKitchen-v1",
}


def lookup(env_id: str) -> Task:
    """The task called `env_id`: catalogued, or any other registered Gymnasium id (also `module:id`) with defaults.

    Raises:
        EnvError: nothing is registered under that id; names the nearest known ids.
    """
    if env_id in CATALOG:
        return CATALOG[env_id]
    module, colon, name = env_id.rpartition(":")
    if not name:
        raise EnvError(f"the environment's name is empty: {_EXAMPLE}")
    registered = _registered(module if colon else None, env_id)
    if name not in registered:
        shown = one_line(env_id)
        if colon:
            raise EnvError(
                f"unknown environment {shown!r}: module {module} registers no {one_line(name)}"
                f"{_meant(name, registered)}; importing it must call gymnasium.register(id={name!r}, entry_point=...)"
            )
        raise EnvError(f"unknown environment {shown!r}{_meant(name, registered) or f': {_EXAMPLE}'}")
    model = _model(env_id)
    if model is None:
        return Task(id=env_id)
    return dataclasses.replace(
        model, id=env_id, max_episode_steps=None, reference_min=None, reference_max=None, minari=()
    )


def _model(env_id: str) -> Task | None:
    """The catalogued task that `env_id` is, or behaves as; None where it is like none."""
    of_family = (CATALOG[model] for prefix, model in _FAMILIES.items() if env_id.startswith(prefix))
    return CATALOG.get(env_id) or next(of_family, None)


def _meant(name: str, registered: list[str]) -> str:
    """`: did you mean Hopper-v5?`, or nothing where no id is near."""
    known = list(dict.fromkeys([*CATALOG, *registered]))
    part = name.lower().partition("-")[0].replace("_", "")
    # Without versions, which are alike in all; of each the one in the catalogue, or the newest.
    stems: dict[str, str] = {}
    for each in known:
        if stems.get(_stem(each)) not in CATALOG:
            stems[_stem(each)] = each
    near = [stems[stem] for stem in difflib.get_close_matches(_stem(name), stems, n=4, cutoff=0.6)]
    near = near or [each for each in known if len(part) > 2 and part in each.lower().replace("_", "")][:4]
    return f": did you mean {', '.join(near)}?" if near else ""


def _stem(env_id: str) -> str:
    return re.sub(r"-v\d+$", "", env_id.lower())


def _registered(module: str | None, env_id: str) -> list[str]:
    """All ids that Gymnasium can make, the robotics ones included; imports `module` of a `module:id` first.

    The working directory is on the import path then, as it is for the processes that a run starts.
    """
    if module is not None:
        find_in_working_directory()
        try:
            importlib.import_module(module)
        except Exception as error:
            said = one_line(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {one_line(error)}"
            raise EnvError(f"cannot import module {module!r} of environment {env_id!r}: {said}") from error
    # Only here, so that reading the catalogue stays free of the simulators.
    from envs.make import registered_ids

    return registered_ids()


def normalized_score(task: Task, mean_return: float) -> float | None:
    """D4RL's score of a mean episode return: 0 random, 100 expert; None where the task has no reference."""
    if task.reference_min is None or task.reference_max is None:
        return None
    return 100.0 * (mean_return - task.reference_min) / (task.reference_max - task.reference_min)


def training_spec(env: Mapping[str, Any]) -> dict[str, Any]:
    """The environment spec in which to go on training from a dataset recorded in `env` ({"id", "kwargs", "max_…"}).

    The dataset's own, except that the catalogue's constructor arguments win (PointMaze is recorded as a continuing
    task but run as one that ends at the goal) and that an episode is never longer than the task's limit (Door was
    recorded with 300 steps, is scored with 200). The subtasks of FrankaKitchen are what its dataset is about and stay.

    Raises:
        EnvError: the dataset's environment is unknown here.
    """
    task = lookup(env["id"])
    recorded = {key: value for key, value in (env.get("kwargs") or {}).items() if key != "render_mode"}
    kwargs = {**recorded, **task.kwargs}
    if "tasks_to_complete" in recorded:
        kwargs["tasks_to_complete"] = recorded["tasks_to_complete"]
    limits = [limit for limit in (env.get("max_episode_steps"), task.max_episode_steps) if limit is not None]
    return copy.deepcopy({"id": task.id, "kwargs": kwargs, "max_episode_steps": min(limits) if limits else None})


def evaluation_spec(env: Mapping[str, Any]) -> dict[str, Any]:
    """The environment spec under which a policy is scored: `training_spec`, with rewards as the reference scores count.

    The two differ for FrankaKitchen alone.
    """
    spec = training_spec(env)
    spec["kwargs"].update(lookup(spec["id"]).scoring_kwargs)
    return spec


def counts_as_scored(env_id: str, recorded: Mapping[str, Any] | None) -> bool:
    """Whether returns of data recorded in spec `recorded` compare with scores in `env_id`: rewards are counted alike.

    They do not for FrankaKitchen where the record does not say so, as Minari's, which pay every step for all that is
    done so far. Imports no simulator, whatever the id.
    """
    model = _model(env_id)
    kwargs = (recorded or {}).get("kwargs") or {}
    return model is None or all(kwargs.get(key) == value for key, value in model.scoring_kwargs.items())
