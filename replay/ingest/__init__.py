"""Logged data into the replay store: `ingest(source, out)`.

One importer a file, each with `matches(source)` and `open_source(source, options)`; `IMPORTERS` is the registry, tried
in order. What an importer needs (minari, gymnasium, h5py, pyarrow) is imported when it is used.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from replay.ingest import arrays, hdf5, lerobot, minari, robomimic, slipway, tables
from replay.ingest.dry_run import inspect
from replay.ingest.minari_folders import datasets_root, local_ids
from replay.ingest.source import (
    IngestError,
    IngestOptions,
    OutputExistsError,
    Source,
    SourceFormatError,
    SourceNotFoundError,
    SourceValueError,
    one_line,
)
from replay.ingest.write import write_store

__all__ = [
    "IngestError",
    "OutputExistsError",
    "SourceFormatError",
    "SourceNotFoundError",
    "SourceValueError",
    "ingest",
    "recorded_environment",
]


class Importer(Protocol):
    """What each importer's module offers; cheap until `open_source` is called."""

    def matches(self, source: str, /) -> bool:
        """Whether the source is of this kind, by its name and a few bytes."""

    def recorded_environment(self, source: str, /) -> dict[str, Any] | None:
        """The environment spec that the source records, read without its data."""

    def open_source(self, source: str, options: IngestOptions, /) -> Source:
        """Read the metadata; refuse what cannot be stored."""


# Folders are told apart by what they hold, so a store comes before a Minari folder; an id that is no path comes last.
IMPORTERS: dict[str, Importer] = {
    "slipway": slipway,
    "robomimic": robomimic,
    "hdf5": hdf5,
    "npz": arrays,
    "table": tables,
    "lerobot": lerobot,
    "minari": minari,
}


def ingest(
    source: str | Path,
    out: str | Path,
    *,
    terminate_on: str | None = None,
    env: dict[str, Any] | None = None,
    clip_actions: bool = False,
    observation_keys: Sequence[str] | None = None,
    filter_key: str | None = None,
    columns: dict[str, Any] | str | Path | None = None,
    dry_run: bool = False,
    progress: Callable[[int, int | None], None] | None = None,
) -> dict[str, Any]:
    """Make a store from logged data: whole or not at all.

    Args:
        source: a Minari dataset id or folder, a D4RL-style or robomimic HDF5 file, an .npz, a CSV or Parquet log, a
            LeRobot v3 folder, or another Slipway store.
        out: the store to make. The same source and options on a finished store change nothing (`already`).
        terminate_on: a per-step info, e.g. "success": each episode is cut at its first non-zero value and stored as
            terminated there. Sparse rewards serve where "success" is not recorded. None: ends as recorded.
        env: spec `{"id", "kwargs", "max_episode_steps"}`, any of them, completing or replacing the recorded one.
            HDF5 and .npz record none: without it they get one term "observation" and action bounds of ±1.
        clip_actions: clip actions into their bounds instead of refusing those outside.
        observation_keys: parts of the observation to take, in this order (robomimic, LeRobot). None: all but images.
        filter_key: a robomimic mask, e.g. "train": only its demonstrations are taken.
        columns: column map of a CSV or Parquet log, or the TOML or JSON file that holds it (see `tables.py`).
        dry_run: read and check everything, write nothing; see `dry_run.inspect` for what is returned.
        progress: called with (steps done, steps in all or None) after each episode.

    Returns:
        JSON-able summary: path, kind, name, digest, env, already, mended, and the store's `info()`.

    Raises:
        IngestError: one line saying what is wrong, where, and what to do; nothing is left behind.
    """
    name = str(source)
    if Path(out) == Path():
        raise IngestError("the output is empty, or the folder you are in: name the store to make, e.g. --out data.zarr")
    try:
        plain_env = json.loads(json.dumps(env))
    except (TypeError, ValueError) as error:
        raise IngestError(f"environment {env} cannot be stored as JSON ({error})") from None
    if columns is not None:
        columns = tables.check_map(columns, "columns") if isinstance(columns, dict) else tables.read_map(Path(columns))
    options = IngestOptions(
        terminate_on=terminate_on,
        env=plain_env,
        clip_actions=clip_actions,
        observation_keys=None if observation_keys is None else tuple(observation_keys),
        filter_key=filter_key,
        columns=columns,
    )
    importer = _importer(name)
    for option, value, kinds in (
        ("observation_keys", observation_keys, (robomimic, lerobot)),
        ("filter_key", filter_key, (robomimic,)),
        ("columns", columns, (tables,)),
    ):
        if value is not None and importer not in kinds:
            served = " and ".join(kind for kind, module in IMPORTERS.items() if module in kinds)
            raise IngestError(f"{name}: --{option.replace('_', '-')} serves {served} sources only; leave it out")
    try:
        opened = importer.open_source(name, options)
    except OSError as error:
        raise SourceFormatError(f"{name} cannot be read ({one_line(error)}); check its permissions") from error
    try:
        if dry_run:
            return inspect(opened, options, progress)
        return write_store(opened, Path(out).expanduser(), options, progress)
    finally:
        opened.close()


def recorded_environment(source: str | Path) -> dict[str, Any] | None:
    """The environment spec `{"id", "kwargs", "max_episode_steps"}` that a source records, or None.

    For callers that choose `terminate_on` by the task. A Minari id that is not here is downloaded.

    Raises:
        IngestError: no such source, or its metadata is damaged.
    """
    try:
        return _importer(str(source)).recorded_environment(str(source))
    except OSError as error:
        raise SourceFormatError(f"{source} cannot be read ({one_line(error)}); check its permissions") from error


def _importer(name: str) -> Importer:
    if not name:
        raise SourceNotFoundError("the source is empty: name a dataset, file or folder")
    for importer in IMPORTERS.values():
        if importer.matches(name):
            return importer
    path = Path(name).expanduser()
    kinds = (
        "a Minari dataset (folder or id namespace/name-v0), a D4RL-style or robomimic .hdf5, an .npz, a .csv "
        "or .parquet, a LeRobot folder or a Slipway store"
    )
    if path.is_dir():
        inside = local_ids(path)
        if inside:
            choice = path / inside[0]
            shown = ", ".join(inside[:8]) + (", ..." if len(inside) > 8 else "")
            raise SourceFormatError(f"{path} is not a Minari dataset but holds {shown}; give one, e.g. {choice}")
        stores = sorted(file.parent for file in path.glob("[!.]*.zarr/zarr.json"))
        if stores:
            number = "a store" if len(stores) == 1 else f"{len(stores)} stores"
            raise SourceFormatError(f"{path} is not a store but holds {number}; give one, e.g. {stores[0]}")
        held = sorted(entry.name for entry in path.iterdir())
        plain = [name for name in held if not name.startswith(".")]
        shown = ", ".join(plain[:8]) + (", ..." if len(plain) > 8 else "")
        shown = shown or ("hidden files only" if held else "nothing")
        raise SourceFormatError(f"{path} is a folder that holds {shown}; a source is {kinds}")
    if path.exists():
        raise SourceFormatError(f"{path} is of no known kind; a source is {kinds}")
    beside = sorted(entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else []
    known = local_ids(datasets_root()) if datasets_root().is_dir() else []
    near = difflib.get_close_matches(path.name, beside, 1) or difflib.get_close_matches(name, known, 1, 0.4)
    guess = f"did you mean {near[0]!r}? " if near else ""
    raise SourceNotFoundError(f"{name} is no file or folder; {guess}a source is {kinds}")
