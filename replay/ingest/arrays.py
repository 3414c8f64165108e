"""NumPy archives (.npz): observations, actions, rewards, terminals or terminated, timeouts or truncated.

Optional: next_observations, success. An .npz cannot be read in parts, so its arrays are held in memory: keep data of
many gigabytes in HDF5. See `flat.py` for how episodes are cut.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from replay.ingest.columns import FlatColumns, pick
from replay.ingest.digest import file_digest
from replay.ingest.flat import flat_source
from replay.ingest.source import IngestOptions, Source, SourceFormatError, one_line
from replay.ingest.success import SUCCESS_NAMES


def matches(source: str) -> bool:
    """A file named .npz."""
    path = Path(source).expanduser()
    return path.is_file() and path.suffix.lower() == ".npz"


def recorded_environment(source: str) -> dict[str, Any] | None:
    """None: an .npz names no environment."""
    return None


def open_source(source: str, options: IngestOptions) -> Source:
    """Open an .npz of flat arrays.

    Raises:
        SourceFormatError: no NumPy archive, damaged, pickled objects, or without the needed arrays.
    """
    path = Path(source).expanduser()
    where = str(path)
    wanted = {
        *("observations", "actions", "rewards", "next_observations"),
        *("terminals", "terminations", "terminated", "timeouts", "truncations", "truncated"),
        *SUCCESS_NAMES,
        *((options.terminate_on,) if options.terminate_on else ()),
    }
    arrays: dict[str, Any] = {}
    field = "the archive"
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            for field in archive.files:
                # Columns of other names are listed when one is missing, but not read.
                arrays[field] = archive[field] if field in wanted else np.empty(0)
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, AttributeError, TypeError) as error:
        raise SourceFormatError(
            f"{where}: {field} cannot be read ({one_line(error)}); save plain numeric arrays with numpy.savez"
        ) from error
    columns = FlatColumns(
        where=where,
        observations=pick(arrays, ("observations",), where),
        actions=pick(arrays, ("actions",), where),
        rewards=pick(arrays, ("rewards",), where),
        terminals=pick(arrays, ("terminals", "terminations", "terminated"), where, required=False),
        timeouts=pick(arrays, ("timeouts", "truncations", "truncated"), where, required=False),
        next_observations=pick(arrays, ("next_observations",), where, required=False),
        info={key: arrays[key] for key in (*SUCCESS_NAMES, options.terminate_on) if key is not None and key in arrays},
    )
    return flat_source(columns, options, kind="npz", digest=file_digest(path))
