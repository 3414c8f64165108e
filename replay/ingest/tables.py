"""CSV and Parquet logs, with a column map (`slipway ingest log.csv --columns map.toml`):

    observation = { position = ["x", "y"], velocity = ["vx", "vy"] }   # or a list of columns: one term each
    action = ["fx", "fy"]
    reward = "reward"
    terminated = "done"       # optional, as is truncated
    truncated = "timeout"
    episode = "episode"       # optional where terminated or truncated marks every end
    timestamp = "t"           # optional: must grow within an episode
    info = ["success"]        # optional per-step columns to keep
    action_low = [-1, -1]     # optional with action_high: else the environment's bounds, else the data's range
    action_high = [1, 1]

In Parquet a column may hold a list of numbers a row. Episodes are cut and closed as `rows.py` and `ends.py` say.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from replay.ingest import arrow
from replay.ingest.digest import file_digest
from replay.ingest.environment import fitting_layout, merge_environment
from replay.ingest.rows import Batch, action_range, episodes_of, missing_column
from replay.ingest.source import IngestError, IngestOptions, Source, SourceDescription, SourceFormatError, one_line
from replay.ingest.success import find_column

SUFFIXES = (".csv", ".tsv", ".parquet")
ONE = ("reward", "terminated", "truncated", "episode", "timestamp")
CSV_FAULT = re.compile(
    r"(?:In CSV column #(?P<column>\d+)|CSV parse error): (?:Row #(?P<row>\d+): )?(?:CSV conversion error to double: )?"
    r"(?P<fault>.*)"
)
ROLES = ("observation", "action", *ONE, "info", "action_low", "action_high")


def matches(source: str) -> bool:
    """A file named .csv, .tsv or .parquet."""
    path = Path(source).expanduser()
    return path.is_file() and path.suffix.lower() in SUFFIXES


def recorded_environment(source: str) -> dict[str, Any] | None:
    """None: a table names no environment."""
    return None


def read_map(path: Path) -> dict[str, Any]:
    """A column map from TOML or JSON.

    Raises:
        IngestError: unreadable, or a role that there is not, or one that is needed but missing.
    """
    try:
        text = path.read_text()
        columns = json.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise IngestError(f"column map {path} cannot be read ({one_line(error)})") from error
    return check_map(columns, str(path))


def check_map(columns: Any, where: str) -> dict[str, Any]:
    """A column map as it was given, if it makes sense.

    Raises:
        IngestError: names the role.
    """
    if not isinstance(columns, dict):
        raise IngestError(f"column map {where} is no table of roles: {', '.join(ROLES)}")
    for role, value in columns.items():
        if role not in ROLES:
            near = difflib.get_close_matches(role, ROLES, 1)
            guess = f"did you mean {near[0]!r}? " if near else ""
            raise IngestError(f"column map {where}: there is no role {role!r}; {guess}there are {', '.join(ROLES)}")
        lists = list(value.values()) if role == "observation" and isinstance(value, dict) else [value]
        for entry in lists:
            kind = int | float if role in ("action_low", "action_high") else str
            fits = isinstance(entry, str) if role in ONE else isinstance(entry, list) and bool(entry)
            if not fits or (isinstance(entry, list) and not all(isinstance(item, kind) for item in entry)):
                asked = "one column name" if role in ONE else "a list of column names"
                asked = "a list of numbers" if kind is not str else asked
                raise IngestError(f"column map {where}: {role} must be {asked}, not {json.dumps(entry)}")
        named = [name for entry in lists if isinstance(entry, list) for name in entry if isinstance(name, str)]
        if twice := [name for name in named if named.count(name) > 1]:
            raise IngestError(f"column map {where}: {role} names column {twice[0]!r} twice; leave one out")
    for role in ("observation", "action", "reward"):
        if not columns.get(role):
            raise IngestError(f"column map {where} lacks {role!r}")
    if not any(role in columns for role in ("episode", "terminated", "truncated")):
        raise IngestError(f"column map {where} names no episode, terminated or truncated: nothing tells episodes apart")
    if ("action_low" in columns) != ("action_high" in columns):
        raise IngestError(f"column map {where} has one of action_low and action_high: give both or neither")
    low, high = columns.get("action_low", ()), columns.get("action_high", ())
    if len(low) != len(high):
        raise IngestError(f"column map {where}: action_low has {len(low)} numbers, action_high {len(high)}")
    for dimension, (least, most) in enumerate(zip(low, high, strict=True)):
        if not -math.inf < least < most < math.inf:
            raise IngestError(
                f"column map {where}: action_low[{dimension}] is {least} and action_high[{dimension}] {most}; both "
                "must be finite, and low below high"
            )
    return columns


def open_source(source: str, options: IngestOptions) -> Source:
    """Open a CSV or Parquet log.

    Raises:
        IngestError: no column map.
        SourceFormatError: a column is missing or not numeric, or the file is damaged.
    """
    path = Path(source).expanduser()
    if options.columns is None:
        raise IngestError(
            f"{path}: a table needs a column map: --columns map.toml with observation, action, reward and episode or "
            "terminated (docs/store.md shows one)"
        )
    columns = options.columns
    mapped = columns["observation"]
    groups = mapped if isinstance(mapped, dict) else {name: [name] for name in mapped}
    held = _check_columns(path, columns, groups)
    info = tuple(columns.get("info", ()))
    column = find_column(info, options.terminate_on) if options.terminate_on is not None else None
    if options.terminate_on is not None and column is None:
        raise SourceFormatError(
            f"{path}: the column map keeps no info {options.terminate_on!r} to end episodes on; it keeps "
            f"{', '.join(info) or 'none'}: add it to info, or give --terminate-on none"
        )
    renamed = {name: options.terminate_on or name if name == column else name for name in info}
    read = partial(_batches, path, columns, groups, renamed, held)
    env = merge_environment(None, options.env)
    names = _names(columns, groups, renamed, held)
    low, high, bounds_from = _bounds(path, columns, env, names, read)
    notes: Counter[str] = Counter()
    return Source(
        description=SourceDescription(
            kind="table",
            name=str(path),
            digest=file_digest(path),
            observation=_terms(path, groups, held),
            action_low=low,
            action_high=high,
            action_dtype="float64",
            info=tuple(renamed.values()),
            columns=names,
            env=env,
            provenance={"action_bounds": bounds_from},
            total_steps=arrow.open_parquet(path).metadata.num_rows if path.suffix.lower() == ".parquet" else None,
        ),
        episodes=lambda: episodes_of(read(), notes, terminate_on=options.terminate_on),
        notes=notes,
    )


def _bounds(
    path: Path,
    columns: dict[str, Any],
    env: dict[str, Any] | None,
    names: dict[str, tuple[str, ...]],
    read: Callable[[], Iterator[Batch]],
) -> tuple[tuple[float, ...], tuple[float, ...], str]:
    """Action bounds (low, high), and what they are from; refuses an environment of another layout."""
    acted = names["actions"]
    bounds = None
    if env is not None:
        bounds = fitting_layout(str(path), env, observations=len(names["observations"]), actions=len(acted))[1:]
    if "action_low" in columns:
        low, high = tuple(map(float, columns["action_low"])), tuple(map(float, columns["action_high"]))
        if len(low) != len(acted):
            raise SourceFormatError(
                f"{path}: the action has {len(acted)} columns, action_low and action_high of the column map {len(low)}"
            )
        return low, high, "column map"
    if bounds is not None:
        return *bounds, "environment"
    return *action_range(read(), str(path), acted), "range of the data"


def _names(
    columns: dict[str, Any], groups: dict[str, list[str]], info: dict[str, str], widths: dict[str, int]
) -> dict[str, tuple[str, ...]]:
    """The file's column behind each value of a step."""
    return {
        "observations": tuple(name for names in groups.values() for name in names for _ in range(widths[name])),
        "actions": tuple(name for name in columns["action"] for _ in range(widths[name])),
        "rewards": (columns["reward"],),
        **{f"info {stored!r}": (name,) for name, stored in info.items()},
    }


def _check_columns(path: Path, columns: dict[str, Any], groups: dict[str, list[str]]) -> dict[str, int]:
    """Values a row of every column that the map names; refuses those that are not there."""
    if path.suffix.lower() == ".parquet":
        held = arrow.open_parquet(path).schema_arrow.names
    else:
        held = _header(path)
    roles = [(name, f"observation {term!r}") for term, names in groups.items() for name in names]
    roles += [(name, role) for role in ("action", "info") for name in columns.get(role, ())]
    roles += [(columns[role], role) for role in ONE if role in columns]
    for name, role in roles:
        if name not in held:
            raise missing_column(str(path), name, role, held)
    widths = {}
    numeric = [name for name, role in roles if role.split()[0] in ("observation", "action")]
    for row, batch in _raw(path, [name for name, _ in roles], columns, numeric):
        for name in numeric:
            values = arrow.numbers(batch, name, f"{path}, from row {row}")
            widths[name] = 1 if values.ndim == 1 else values.shape[1]
        return widths
    raise SourceFormatError(f"{path} has columns but no row; record some steps first")


def _terms(path: Path, groups: dict[str, list[str]], widths: dict[str, int]) -> tuple[dict[str, Any], ...]:
    terms, offset = [], 0
    for term, names in groups.items():
        length = sum(widths[name] for name in names)
        terms.append({"name": term, "offset": offset, "length": length, "dtype": "float64"})
        offset += length
    return tuple(terms)


def _raw(path: Path, names: list[str], columns: dict[str, Any], numeric: Iterable[str]) -> Iterator[tuple[int, Any]]:
    """Record batches of the needed columns."""
    names = list(dict.fromkeys(names))
    if path.suffix.lower() == ".parquet":
        yield from arrow.parquet_batches(path, names)
        return
    words = {columns[role] for role in ("terminated", "truncated", "episode") if role in columns}
    words |= set(columns.get("info", ())) - set(numeric)  # often true and false
    yield from _csv(path, {name: "string" if name in words else "float64" for name in names})


def _header(path: Path) -> list[str]:
    """The column names of a CSV file."""
    with _open_csv(path, {}) as reader:
        names: list[str] = reader.schema.names
        return names


def _csv(path: Path, types: dict[str, str]) -> Iterator[tuple[int, Any]]:
    """(number of the first row, record batch) of the columns that have a type in `types`."""
    row = 0
    with _open_csv(path, {"column_types": types, "include_columns": list(types)}) as reader:
        for batch in reader:
            if batch.num_rows:
                yield row, batch
            row += batch.num_rows


@contextmanager
def _open_csv(path: Path, convert: dict[str, Any]) -> Iterator[Any]:
    """A pyarrow CSV reader; what it refuses, now and later, is named by column and row."""
    failure = arrow.pyarrow().ArrowException
    from pyarrow import csv

    try:
        yield csv.open_csv(
            path,
            read_options=csv.ReadOptions(use_threads=False, block_size=arrow.CSV_BLOCK_BYTES),
            parse_options=csv.ParseOptions(delimiter="\t" if path.suffix.lower() == ".tsv" else ","),
            convert_options=csv.ConvertOptions(**convert),
        )
    except (OSError, failure) as error:
        raise SourceFormatError(_csv_fault(path, one_line(error))) from error


def _csv_fault(path: Path, words: str) -> str:
    """pyarrow's words with the column's name, and its row as ours are counted: from 0, without the header."""
    found = CSV_FAULT.fullmatch(words)
    if found is None:
        return f"{path} cannot be read ({words}); needed are a line of column names and one line for each step"
    place = f"row {int(found['row']) - 2}: " if found["row"] else ""
    if found["column"] is None:
        return f"{path}: {place}{found['fault']}; correct that line"
    name = _header(path)[int(found["column"])]
    return f"{path}: {place}column {name!r} holds no number ({found['fault']}); correct it, or map another column"


def _batches(
    path: Path, columns: dict[str, Any], groups: dict[str, list[str]], info: dict[str, str], widths: dict[str, int]
) -> Iterator[Batch]:
    observed = [name for names in groups.values() for name in names]
    needed = [*observed, *columns["action"], *info, *(columns[role] for role in ONE if role in columns)]
    for row, batch in _raw(path, needed, columns, [*observed, *columns["action"]]):
        count, where = batch.num_rows, str(path)
        place = f"{where}, from row {row}"

        def wide(names: list[str], batch: Any = batch, count: int = count, place: str = place) -> Any:
            parts = [arrow.numbers(batch, name, place).reshape(count, -1) for name in names]
            for name, part in zip(names, parts, strict=True):
                if part.shape[1] != widths[name]:
                    raise SourceFormatError(
                        f"{place}: column {name!r} holds {part.shape[1]} values a row, at first {widths[name]}"
                    )
            return np.concatenate(parts, axis=1)

        def flag(role: str, batch: Any = batch, row: int = row, count: int = count) -> Any:
            if role not in columns:
                return np.zeros(count, np.bool_)
            return arrow.flags(batch, columns[role], str(path), row)

        yield Batch(
            where=where,
            first_row=row,
            observations=wide(observed),
            actions=wide(columns["action"]),
            rewards=arrow.values(batch, columns["reward"], where, row),
            terminated=flag("terminated"),
            truncated=flag("truncated"),
            episode=np.asarray(batch.column(columns["episode"]).to_pylist(), object) if "episode" in columns else None,
            clock=arrow.values(batch, columns["timestamp"], where, row) if "timestamp" in columns else None,
            info={stored: arrow.values(batch, name, where, row) for name, stored in info.items()},
        )
