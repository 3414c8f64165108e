"""Minari datasets, by id or by folder, read through Minari's own API one episode at a time (HDF5 and Arrow storage).

The id is looked up under `$MINARI_DATASETS_PATH` (or `~/.minari/datasets`); one that is absent is downloaded by Minari
where a network and `minari[hf]` exist. A folder may be the dataset folder or the `data` folder inside it.

An end flag before an episode's last step splits it there: Minari keeps T + 1 observations without gaps, so the
observation after the flag is both that part's final observation and the first of the next.

A dataset that `export_minari` wrote comes back with the terms, info columns and environment of the store it was.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replay.errors import SchemaError
from replay.ingest.check import flags
from replay.ingest.digest import folder_digest
from replay.ingest.environment import merge_environment
from replay.ingest.layout import action_bounds, flatten_observations, observation_terms
from replay.ingest.minari_folders import data_folder, datasets_root, local_ids
from replay.ingest.network import unreachable
from replay.ingest.source import (
    IngestOptions,
    Source,
    SourceDescription,
    SourceEpisode,
    SourceFormatError,
    SourceNotFoundError,
    one_line,
)
from replay.ingest.success import find_column, sparse_success_reward, success_from_rewards
from replay.ingest.terms import space_of_terms
from replay.schema import StoreSpec

EPISODES_A_CALL = 128
DATASET_ID = re.compile(r"(?:[-_\w]+/)*[-_\w]+-v\d+")


def matches(source: str) -> bool:
    """A folder that holds Minari metadata, or a name of the form `namespace/name-v0` that is no path here."""
    path = Path(source).expanduser()
    if path.exists():
        return data_folder(path) is not None
    return DATASET_ID.fullmatch(source) is not None


def resolve(source: str) -> Path:
    """The `data` folder of a Minari id or folder; an id that is absent here is downloaded.

    Raises:
        SourceNotFoundError: neither here nor to be had; names the nearest and the local ids.
    """
    path = Path(source).expanduser()
    if path.exists() and (folder := data_folder(path)) is not None:
        return folder
    root = datasets_root()
    if (folder := data_folder(root / source)) is not None:
        return folder
    known = local_ids(root) if root.is_dir() else []
    try:
        if (reason := unreachable()) is not None:
            raise ConnectionError(reason)
        _download(source)
    except Exception as error:  # whatever the network or the client raises: it is not to be had
        near = difflib.get_close_matches(source, known, 1, 0.4)
        guess = f"did you mean {near[0]!r}? " if near else ""
        here = f"it holds {', '.join(known[:12])}{', ...' if len(known) > 12 else ''}" if known else "it holds none"
        raise SourceNotFoundError(
            f"Minari dataset {source!r} is not in {root} ({here}) and could not be downloaded ({one_line(error)}); "
            f"{guess}set MINARI_DATASETS_PATH to the folder that holds it, or give the dataset's folder"
        ) from error
    if (folder := data_folder(root / source)) is None:
        raise SourceNotFoundError(f"Minari downloaded {source!r} but left no data in {root / source}; try again")
    return folder


def _download(dataset_id: str) -> None:
    import io

    import minari

    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        minari.download_dataset(dataset_id)


def open_source(source: str, options: IngestOptions) -> Source:
    """Open a Minari dataset.

    Raises:
        SourceNotFoundError: no such dataset.
        SourceFormatError: damaged, empty, discrete actions, image observations, or made by an unsupported Minari.
    """
    folder = resolve(source)
    metadata = _metadata(folder)
    name = str(metadata["dataset_id"])
    dataset = _load(folder, name)
    where = f"{name} ({folder})"
    if dataset.total_episodes == 0:
        raise SourceFormatError(f"{where}: the dataset has no episodes; record some before ingesting it")
    exported = _exported(metadata, folder)
    # Minari sorts the keys of the spaces it reads; the terms of an export keep their own order.
    space = dataset.observation_space if exported is None else space_of_terms(exported.terms())
    terms = observation_terms(space, where) if exported is None else tuple(exported.terms())
    low, high = action_bounds(dataset.action_space, where)
    first = next(_episodes(dataset, where))
    success = find_column(first.infos, options.terminate_on or "success")
    success_reward: float | None = None
    if success is None and options.terminate_on is not None:
        if options.terminate_on != "success":
            raise SourceFormatError(
                f"{where}: infos has no {options.terminate_on!r} to end episodes on; it has "
                f"{', '.join(sorted(first.infos or {})) or 'nothing'}"
            )
        success_reward = sparse_success_reward((e.rewards for e in _episodes(dataset, where)), where)
    column = (options.terminate_on or "success") if success is not None or success_reward is not None else None
    others = tuple(name for name in (exported.info if exported else ()) if name != column)
    notes: Counter[str] = Counter()

    def episodes() -> Iterator[SourceEpisode]:
        marked = False
        for recorded in _episodes(dataset, where):
            label = f"{where}: episode {recorded.id}"
            info: dict[str, NDArray[Any]] = {}
            if column is not None:
                info[column] = (
                    _info_column(recorded, success, label)
                    if success is not None
                    else success_from_rewards(recorded.rewards, success_reward or 0.0, label)
                )
            info |= {name: _info_column(recorded, name, label) for name in others}
            for episode in _split(recorded, space, low, info, label, notes):
                marked = marked or episode.terminated or episode.truncated
                yield episode
        # Terminations that were lost in recording would be bootstrapped through: better refused than guessed.
        if not marked and options.terminate_on is None and not (options.env or {}).get("max_episode_steps"):
            raise SourceFormatError(
                f"{where} has no episode end of any kind: terminations and truncations are false at every step; set "
                "them on each episode's last step, or give --max-episode-steps if all ended by time"
            )

    return Source(
        description=SourceDescription(
            kind="minari",
            name=name,
            digest=folder_digest(folder, _data_files(folder)),
            observation=terms,
            action_low=low,
            action_high=high,
            action_dtype=str(np.asarray(first.actions).dtype) if exported is None else exported.action_dtype,
            info=_in_order(exported, ((column,) if column is not None else ()) + others),
            env=merge_environment(_recorded_environment(metadata), options.env),
            provenance=_provenance(metadata, success_reward),
            total_steps=int(dataset.total_steps),
        ),
        episodes=episodes,
        notes=notes,
    )


def _exported(metadata: dict[str, Any], folder: Path) -> StoreSpec | None:
    """The spec of the store that the dataset was exported from, if it was."""
    if "slipway" not in metadata:
        return None
    try:
        return StoreSpec.from_json(metadata["slipway"])
    except (SchemaError, TypeError) as error:
        raise SourceFormatError(
            f"{folder / 'metadata.json'}: its 'slipway' is no spec of a store ({one_line(error)}); remove that key to "
            "read it as any Minari dataset, or export it again"
        ) from error


def _in_order(exported: StoreSpec | None, info: tuple[str, ...]) -> tuple[str, ...]:
    """Info columns as the exported store had them, then those that are new."""
    before = tuple(name for name in (exported.info if exported else ()) if name in info)
    return before + tuple(name for name in info if name not in before)


def recorded_environment(source: str) -> dict[str, Any] | None:
    """The environment spec that a dataset records, from its metadata alone."""
    return _recorded_environment(_metadata(resolve(source)))


def _metadata(folder: Path) -> dict[str, Any]:
    path = folder / "metadata.json"
    try:
        metadata: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SourceFormatError(
            f"{path} is not readable as JSON ({one_line(error)}); fetch the dataset again"
        ) from None
    for key in ("dataset_id", "observation_space", "action_space", "total_episodes"):
        if not isinstance(metadata, dict) or key not in metadata:
            raise SourceFormatError(f"{path} lacks {key!r}; it is no Minari dataset, or fetch it again")
    return metadata


def _load(folder: Path, name: str) -> Any:
    try:
        import minari
    except ImportError as error:
        raise SourceFormatError(
            f"reading Minari datasets needs minari: pip install '.[train]' in Slipway's checkout ({error})"
        ) from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return minari.MinariDataset(folder)
        except Exception as error:  # Minari raises whatever its parts raise on damaged metadata
            raise SourceFormatError(
                f"{name} ({folder}): Minari cannot open it ({one_line(error)}); fetch the dataset again"
            ) from error


def _episodes(dataset: Any, where: str) -> Iterator[Any]:
    """Minari's episodes in order, with damage turned into our errors."""
    recorded: Any = None
    iterator: Iterator[Any] = iter(())
    for index in range(dataset.total_episodes):
        try:
            # Minari opens the file at each call, which costs more than an episode; HDF5 frees its caches at closing.
            if index % EPISODES_A_CALL == 0:
                iterator = dataset.iterate_episodes(dataset.episode_indices[index : index + EPISODES_A_CALL])
            recorded = next(iterator)
        except KeyError as error:
            raise SourceFormatError(
                f"{where}: episode {index} lacks a field ({one_line(error)}); the dataset is incomplete: fetch it again"
            ) from error
        except Exception as error:  # h5py, pyarrow and Minari raise many kinds on damaged files
            raise SourceFormatError(
                f"{where}: episode {index} cannot be read ({one_line(error)}); the dataset is damaged: fetch it again"
            ) from error
        yield recorded


def _info_column(recorded: Any, key: str | None, label: str) -> NDArray[Any]:
    """One per-step info [T]. Minari's collector records T + 1 (the first is the reset's), other writers T."""
    steps = len(recorded.rewards)
    if recorded.infos is None or key not in recorded.infos:
        raise SourceFormatError(f"{label} lacks infos/{key}, which the first episode has; record it for every episode")
    column = np.asarray(recorded.infos[key])
    if column.ndim == 2 and column.shape[1] == 1:
        column = column[:, 0]
    if column.shape not in ((steps,), (steps + 1,)):
        raise SourceFormatError(
            f"{label}: infos/{key} has shape {list(column.shape)} for {steps} steps; it must have {steps} or "
            f"{steps + 1} values"
        )
    return column[-steps:] if steps else column[:0]


def _split(
    recorded: Any, space: Any, low: tuple[float, ...], info: dict[str, NDArray[Any]], label: str, notes: Counter[str]
) -> Iterator[SourceEpisode]:
    """One Minari episode as one, or several if end flags stand before its last step."""
    observations = flatten_observations(space, recorded.observations, label)
    actions = np.asarray(recorded.actions)
    actions = actions.reshape(len(actions), -1) if actions.ndim else actions.reshape(0, len(low))
    steps = len(recorded.rewards)
    terminations = flags(recorded.terminations, "terminations", label)
    truncations = flags(recorded.truncations, "truncations", label)
    for field, length, expected in (
        ("observations", len(observations), steps + 1),
        ("actions", len(actions), steps),
        ("terminations", len(terminations), steps),
        ("truncations", len(truncations), steps),
    ):
        if length != expected:
            raise SourceFormatError(
                f"{label}: {field} has {length} rows for {steps} rewards, expected {expected}; "
                "the dataset is damaged: fetch or record it again"
            )
    ends = [int(end) + 1 for end in np.flatnonzero(terminations | truncations)]
    if not ends or ends[-1] != steps:
        ends.append(steps)
    notes["end_flags_inside_episodes"] += len(ends) - 1
    start = 0
    for end in ends:
        yield SourceEpisode(
            label=label if len(ends) == 1 else f"{label}, steps {start} to {end - 1}",
            observations=observations[start : end + 1],
            actions=actions[start:end],
            rewards=np.asarray(recorded.rewards)[start:end],
            terminated=bool(end and terminations[end - 1]),
            truncated=bool(end and truncations[end - 1]),
            info={key: column[start:end] for key, column in info.items()},
        )
        start = end


def _recorded_environment(metadata: dict[str, Any]) -> dict[str, Any] | None:
    """The recorded environment as a plain spec, read from the JSON so that the environment need not be installed."""
    if isinstance(metadata.get("slipway"), dict):
        env: dict[str, Any] | None = metadata["slipway"].get("env")
        return env
    return _environment(metadata, "env_spec")


def _environment(metadata: dict[str, Any], field: str) -> dict[str, Any] | None:
    if not metadata.get(field):
        return None
    try:
        spec = json.loads(metadata[field])
    except (TypeError, ValueError) as error:
        raise SourceFormatError(
            f"{metadata['dataset_id']}: {field} in its metadata.json is no JSON ({one_line(error)}); mend or remove "
            "that key, or fetch the dataset again"
        ) from error
    if not isinstance(spec, dict) or not isinstance(spec.get("id"), str):
        raise SourceFormatError(
            f"{metadata['dataset_id']}: {field} in its metadata.json names no environment 'id'; mend or remove that "
            "key, or fetch the dataset again"
        )
    return {"id": spec["id"], "kwargs": spec.get("kwargs") or {}, "max_episode_steps": spec.get("max_episode_steps")}


def _provenance(metadata: dict[str, Any], success_reward: float | None) -> dict[str, Any]:
    provenance = {
        key: metadata[key]
        for key in ("algorithm_name", "author", "code_permalink", "minari_version", "ref_min_score", "ref_max_score")
        if metadata.get(key) is not None
    }
    if evaluated := _environment(metadata, "eval_env_spec"):
        provenance["eval_env"] = evaluated
    if success_reward is not None:
        provenance["success_reward"] = success_reward
    return provenance


def _data_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
