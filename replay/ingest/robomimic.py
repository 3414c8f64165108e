"""robomimic HDF5: data/demo_N with obs/KEY, actions, rewards, dones and next_obs/KEY; env_args; mask/NAME filters.

Observations are the low-dimensional keys, [T] or [T, d], in the order of their names or of `observation_keys`; images
are refused until they are left out that way. robomimic's actions lie in [-1, 1]; an environment's own bounds are used
where one is given, or where env_args name a Gymnasium one.

`dones` mark success, the end of the demonstration, or both, by how the file was made. A done before the last step is a
success: the episode ends there as terminated, what follows is left out. A done on the last step is one if its reward
is not 0; otherwise the demonstration just ended, and the episode is truncated.

Memory: one demonstration at a time.
"""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replay.ingest.check import flags
from replay.ingest.digest import file_digest
from replay.ingest.ends import close_episode, done_means_terminated
from replay.ingest.environment import fitting_layout, merge_environment
from replay.ingest.hdf5 import SIGNATURE
from replay.ingest.source import IngestOptions, Source, SourceDescription, SourceEpisode, SourceFormatError, one_line
from replay.ingest.success import sparse_success_reward, success_from_rewards

GYM_TYPE = 2
"""robomimic's EnvType of Gym environments; the others are no Gymnasium ids."""


def matches(source: str) -> bool:
    """An HDF5 file with a group data/demo_N."""
    path = Path(source).expanduser()
    if not path.is_file():
        return False
    with path.open("rb") as file:
        if file.read(len(SIGNATURE)) != SIGNATURE:
            return False
    try:
        import h5py

        with h5py.File(path, "r") as opened:
            return "data" in opened and any(name.startswith("demo_") for name in opened["data"])
    except (ImportError, OSError, AttributeError, TypeError):
        return False


def recorded_environment(source: str) -> dict[str, Any] | None:
    """The environment that env_args name, if it is a Gym one."""
    import h5py

    path = Path(source).expanduser()
    with h5py.File(path, "r") as file:
        return _gym_environment(_env_args(file, str(path)))


def open_source(source: str, options: IngestOptions) -> Source:
    """Open a robomimic file.

    Raises:
        SourceFormatError: cut short, images, an unknown key or filter, or no demonstration.
    """
    import h5py

    path = Path(source).expanduser()
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise SourceFormatError(f"{path} cannot be opened as HDF5 ({one_line(error)}); fetch it again") from error
    try:
        return _source(file, path, options)
    except BaseException:
        file.close()
        raise


def _source(file: Any, path: Path, options: IngestOptions) -> Source:
    where = str(path)
    demos = _demonstrations(file, where, options.filter_key)
    first = file["data"][demos[0]]
    terms = _terms(first, f"{where}: data/{demos[0]}", options.observation_keys)
    env_args = _env_args(file, where)
    env = merge_environment(_gym_environment(env_args), options.env)
    size = int(_dataset(first, "actions", f"{where}: data/{demos[0]}").shape[-1])
    low, high = (-1.0,) * size, (1.0,) * size
    if options.env is not None and env is not None:
        observed = sum(int(term["length"]) for term in terms)
        _, low, high = fitting_layout(where, env, observations=observed, actions=size)
    notes: Counter[str] = Counter()
    success_reward: float | None = None
    if options.terminate_on is not None:
        if options.terminate_on != "success":
            raise SourceFormatError(
                f"{where}: robomimic files record no {options.terminate_on!r} to end episodes on; only success, "
                "from sparse rewards"
            )
        rewards = (_read(file["data"][demo], "rewards", f"{where}: data/{demo}") for demo in demos)
        success_reward = sparse_success_reward(rewards, where)

    def episodes() -> Iterator[SourceEpisode]:
        for demo in demos:
            yield from _episode(file["data"][demo], f"{where}: data/{demo}", terms, success_reward, notes)

    return Source(
        description=SourceDescription(
            kind="robomimic",
            name=where,
            digest=file_digest(path),
            observation=terms,
            action_low=low,
            action_high=high,
            action_dtype=str(first["actions"].dtype),
            info=() if success_reward is None else ("success",),
            env=env,
            provenance={"env_args": env_args} if env_args else {},
            total_steps=sum(
                int(_dataset(file["data"][demo], "actions", f"{where}: data/{demo}").shape[0]) for demo in demos
            ),
        ),
        episodes=episodes,
        notes=notes,
        close=file.close,
    )


def _demonstrations(file: Any, where: str, filter_key: str | None) -> list[str]:
    """Names of the demonstrations to take, by number."""
    names = [name for name in file["data"] if name.startswith("demo_") and name[5:].isdigit()]
    if filter_key is not None:
        masks = sorted(file["mask"]) if "mask" in file else []
        if filter_key not in masks:
            raise SourceFormatError(f"{where} has no filter mask/{filter_key}; it has {', '.join(masks) or 'none'}")
        kept = {name.decode() if isinstance(name, bytes) else str(name) for name in file["mask"][filter_key][()]}
        if lost := sorted(kept - set(names)):
            raise SourceFormatError(f"{where}: mask/{filter_key} names {lost[0]}, which data/ lacks: fetch it again")
        names = [name for name in names if name in kept]
    if not names:
        raise SourceFormatError(f"{where} holds no demonstration data/demo_N to take")
    return sorted(names, key=lambda name: int(name[5:]))


def _terms(demo: Any, where: str, wanted: tuple[str, ...] | None) -> tuple[dict[str, Any], ...]:
    if "obs" not in demo:
        raise SourceFormatError(
            f"{where} lacks 'obs'; it has {', '.join(sorted(demo))}: extract the observations with robomimic's "
            "dataset_states_to_obs.py first"
        )
    held = sorted(demo["obs"])
    low_dimensional = [key for key in held if len(demo["obs"][key].shape) <= 2]
    terms: list[dict[str, Any]] = []
    offset = 0
    for key in wanted if wanted is not None else held:
        if key not in held:
            near = difflib.get_close_matches(key, held, 1)
            guess = f"did you mean {near[0]!r}? " if near else ""
            raise SourceFormatError(f"{where}/obs lacks {key!r}; {guess}it has {', '.join(held)}")
        data = demo["obs"][key]
        if key not in low_dimensional:
            raise SourceFormatError(
                f"{where}/obs/{key} has shape {list(data.shape)}, an image; images cannot be stored: leave it out with "
                f"--observation-keys {','.join(low_dimensional) or '(the file has no others)'}"
            )
        length = 1 if len(data.shape) == 1 else int(data.shape[1])
        terms.append({"name": key, "offset": offset, "length": length, "dtype": str(data.dtype)})
        offset += length
    return tuple(terms)


def _dataset(group: Any, name: str, where: str) -> Any:
    if name not in group:
        raise SourceFormatError(f"{where} lacks {name!r}; it has {', '.join(sorted(group))}")
    return group[name]


def _read(group: Any, name: str, where: str) -> NDArray[Any]:
    data = _dataset(group, name, where)
    try:
        return np.asarray(data[()])
    except (OSError, RuntimeError, TypeError) as error:
        raise SourceFormatError(f"{where}/{name} cannot be read ({one_line(error)}); fetch the file again") from error


def _observations(group: Any, terms: tuple[dict[str, Any], ...], where: str, steps: int) -> NDArray[Any]:
    columns = []
    for term in terms:
        values = _read(group, term["name"], where)
        if values.shape not in ((steps, term["length"]), *([(steps,)] if term["length"] == 1 else [])):
            raise SourceFormatError(
                f"{where}/{term['name']} has shape {list(values.shape)}, expected {[steps, term['length']]}; "
                "the file is damaged: fetch or record it again"
            )
        columns.append(values.reshape(steps, term["length"]))
    return np.concatenate(columns, axis=1)


def _episode(
    demo: Any, where: str, terms: tuple[dict[str, Any], ...], success_reward: float | None, notes: Counter[str]
) -> Iterator[SourceEpisode]:
    rewards, dones = (_read(demo, name, where).reshape(-1) for name in ("rewards", "dones"))
    steps = len(rewards)
    rows = {
        "observations": _observations(_dataset(demo, "obs", where), terms, f"{where}/obs", steps),
        "actions": _read(demo, "actions", where),
        "rewards": rewards,
    }
    for name, length in (("actions", len(rows["actions"])), ("dones", len(dones))):
        if length != steps:
            raise SourceFormatError(f"{where}/{name} has {length} rows for {steps} rewards; the file is damaged")
    if not steps:
        notes["empty_episodes"] += 1
        return
    ended = np.flatnonzero(flags(dones, "dones", where))
    end = int(ended[0]) + 1 if len(ended) else steps
    terminated = bool(len(ended)) and (end < steps or done_means_terminated(float(rewards[-1])))
    truncated = bool(len(ended)) and not terminated
    notes["steps_after_done"] += steps - end
    ended_on = None if success_reward is None else "success"
    info = {} if success_reward is None else {"success": success_from_rewards(rewards, success_reward, where)[:end]}
    kept = {name: column[:end] for name, column in rows.items()}
    if "next_obs" not in demo:
        yield from close_episode(
            where, kept, terminated=terminated, truncated=truncated, info=info, terminate_on=ended_on, notes=notes
        )
        return
    following = _observations(demo["next_obs"], terms, f"{where}/next_obs", steps)
    yield SourceEpisode(
        label=where,
        observations=np.concatenate([kept["observations"], following[end - 1 : end]]),
        actions=kept["actions"],
        rewards=kept["rewards"],
        terminated=terminated,
        truncated=truncated,
        info=info,
    )


def _env_args(file: Any, where: str) -> dict[str, Any]:
    text = file["data"].attrs.get("env_args")
    if text is None:
        return {}
    try:
        args = json.loads(text)
    except (TypeError, ValueError) as error:
        raise SourceFormatError(f"{where}: attribute env_args of data is no JSON ({one_line(error)})") from error
    return args if isinstance(args, dict) else {}


def _gym_environment(env_args: dict[str, Any]) -> dict[str, Any] | None:
    if env_args.get("type") != GYM_TYPE or not env_args.get("env_name"):
        return None
    return {"id": env_args["env_name"], "kwargs": env_args.get("env_kwargs") or {}, "max_episode_steps": None}
