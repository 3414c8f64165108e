"""A store as a Minari dataset: `export_minari(Store.open("arm.zarr"), "robot/arm-v0", Path("datasets"))`.

Read back by `replay.ingest` it gives the same episodes and the same spec: what Minari's own metadata cannot say (the
order of the terms, source dtypes, info columns) stands under its key "slipway". Minari knows no interrupted episodes:
they are exported as truncated, so that no step is lost, and counted in the summary.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from replay.episodes import Episode, episode_table, iterate_episodes
from replay.errors import EmptyReplayError, ReplayError, StorageError, StoreExistsError
from replay.ingest.source import one_line
from replay.ingest.terms import space_of_terms, unflatten
from replay.ingest.write import beside
from replay.schema import StoreSpec
from replay.store import Store

DATASET_ID = re.compile(r"(?:[-_\w]+/)*[-_\w]+-v\d+")


class ExportError(ReplayError):
    """The store cannot be exported as asked: a malformed id, or Minari is missing or refuses.

    Mend: choose another `--dataset-id` or `--out`, or ingest anew with an environment.
    """


def export_minari(
    store: Store,
    dataset_id: str,
    out: Path | str,
    *,
    progress: Callable[[int, int | None], None] | None = None,
) -> dict[str, Any]:
    """Write every episode of a store to the Minari dataset `out`/`dataset_id`: whole or not at all.

    Observations become float32 Boxes, nested as the terms are named; each info column becomes `infos[NAME]` [T + 1],
    whose first value, the reset's, is 0. Of live streams the export holds what was committed when it began. One
    episode is in memory at a time.

    Args:
        store: what to export.
        dataset_id: Minari id, namespace/name-v0.
        out: a folder of Minari datasets; with `MINARI_DATASETS_PATH` set to it, Minari finds the dataset by its id.
        progress: called with (steps done, steps in all) after each episode.

    Returns:
        JSON-able summary: path, dataset_id, env, episodes, steps, terminated, truncated, and interrupted (exported as
        truncated).

    Raises:
        ExportError: a malformed id, or Minari is not installed or cannot write.
        StoreExistsError: `out` holds such a dataset already.
        EmptyReplayError: the store holds no episode.
        StorageError: the operating system refuses, a full disk for instance.
    """
    if DATASET_ID.fullmatch(dataset_id) is None:
        raise ExportError(f"{dataset_id!r} is no Minari id: give one like robot/arm-v0")
    folder = Path(out).expanduser().absolute() / dataset_id  # Minari joins relative paths twice
    if folder.exists() or folder.is_symlink():
        raise StoreExistsError(f"{folder} exists already: raise the version in the id, or remove the folder first")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import minari
            from minari.dataset.minari_storage import MinariStorage
        except ImportError as error:
            raise ExportError(
                f"exporting to Minari needs it: pip install '.[train]' in Slipway's checkout ({error})"
            ) from None
        reader = store.reader()
        try:
            table = episode_table(reader)
            if not len(table.stream):
                raise EmptyReplayError(
                    f"{store.path} holds no episode with a step and its successor: record some first"
                )
            total = int(table.length.sum())
            with beside(folder) as partial:
                data = partial / "data"
                try:
                    data.mkdir(parents=True)
                    _ensure_space(data / "reserve", len(table.stream), total, store.spec)
                    storage = MinariStorage.new(
                        data,
                        observation_space=space_of_terms(store.spec.terms()),
                        action_space=_action_space(store.spec),
                        env_spec=_environment_spec(store.spec.env),
                    )
                    storage.update_metadata(_metadata(store.spec, dataset_id, minari.__version__))
                    storage.update_episodes(_buffers(iterate_episodes(reader), store.spec, total, progress))
                    written = minari.MinariDataset(data)
                    if (written.total_episodes, written.total_steps) != (len(table.stream), total):
                        raise ExportError(
                            f"{folder}: Minari holds {written.total_steps} steps of {total} after writing; export again"
                        )
                    for path in data.iterdir():
                        with path.open("rb") as file:
                            os.fsync(file.fileno())
                except OSError as error:
                    raise StorageError(
                        f"{folder} cannot be written ({one_line(error)}); nothing is left of it: free space, or choose "
                        "another place"
                    ) from error
        finally:
            reader.close()
    return {
        "path": str(folder),
        "dataset_id": dataset_id,
        "env": store.spec.env,
        "episodes": len(table.stream),
        "steps": total,
        "terminated": int(table.terminated.sum()),
        "truncated": int(table.truncated.sum()),
        "interrupted": int(table.interrupted.sum()),
    }


def _ensure_space(path: Path, episodes: int, steps: int, spec: StoreSpec) -> None:
    """Reserve what the export will take, and free it again: HDF5 may crash the process where a write fails later.

    Raises:
        OSError: there is not so much space.
    """
    floats = spec.observation_size + spec.action_size + 1 + len(spec.info)
    # HDF5 takes about 3 kB for each array of an episode, measured;.
    needed = int(1.1 * 4 * floats * (steps + episodes)) + 4096 * episodes * (len(spec.observation) + len(spec.info) + 5)
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, needed)
    path.unlink()


def _buffers(
    episodes: Iterator[Episode], spec: StoreSpec, total: int, progress: Callable[[int, int | None], None] | None
) -> Iterator[Any]:
    """Episodes as Minari's buffers, made while Minari writes them."""
    from minari.data_collector import EpisodeBuffer

    done = 0
    for number, episode in enumerate(episodes):
        steps = len(episode.rewards)
        last = np.arange(steps) == steps - 1
        yield EpisodeBuffer(
            id=number,
            observations=unflatten(spec.terms(), episode.observations),
            actions=episode.actions,
            rewards=episode.rewards,
            terminations=last & episode.terminated,
            truncations=last & (episode.truncated or episode.interrupted),
            infos={name: np.append(np.float32(0), column) for name, column in episode.info.items()},
        )
        done += steps
        if progress is not None:
            progress(done, total)


def _action_space(spec: StoreSpec) -> Any:
    from gymnasium.spaces import Box

    return Box(np.asarray(spec.action_low, np.float32), np.asarray(spec.action_high, np.float32), dtype=np.float32)


def _environment_spec(env: dict[str, Any] | None) -> Any:
    """Gymnasium's spec of the store's environment: the registered one, where there is one, with what the store adds."""
    if env is None:
        return None
    import gymnasium
    from gymnasium.envs.registration import EnvSpec

    from replay.ingest.environment import registered

    found = registered(env["id"])
    kwargs = {**(found.kwargs if found is not None else {}), **(env.get("kwargs") or {})}
    limit = env.get("max_episode_steps") or (found.max_episode_steps if found is not None else None)
    try:
        if found is None:
            return EnvSpec(id=env["id"], kwargs=kwargs, max_episode_steps=limit)
        spec = EnvSpec.from_json(found.to_json())
    except (gymnasium.error.Error, TypeError, ValueError) as error:
        raise ExportError(f"environment {env['id']!r} cannot be written as a spec ({one_line(error)})") from error
    spec.kwargs, spec.max_episode_steps = kwargs, limit
    return spec


def _metadata(spec: StoreSpec, dataset_id: str, minari_version: str) -> dict[str, Any]:
    source = spec.source or {}
    author = source.get("author")
    return {
        "dataset_id": dataset_id,
        "minari_version": minari_version,
        "description": "Exported from a Slipway replay store.",
        **{key: source[key] for key in ("algorithm_name", "code_permalink") if isinstance(source.get(key), str)},
        **({"author": {str(name) for name in author}} if isinstance(author, list) else {}),
        **{key: source[key] for key in ("ref_min_score", "ref_max_score") if source.get(key) is not None},
        "slipway": json.loads(json.dumps({**spec.to_json(), "source": None})),
    }
