"""D4RL-style HDF5: flat datasets observations, actions, rewards, terminals, timeouts; next_observations, infos.

Read in blocks through h5py slices, so memory does not grow with the file. `metadata/*` and the file's attributes are
kept as provenance where they are short. See `flat.py` for the quirks of such files.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from replay.ingest.columns import FlatColumns, pick
from replay.ingest.digest import file_digest
from replay.ingest.flat import flat_source
from replay.ingest.source import IngestOptions, Source, SourceFormatError, one_line
from replay.ingest.success import SUCCESS_NAMES

SIGNATURE = b"\x89HDF\r\n\x1a\n"


def matches(source: str) -> bool:
    """A file named .hdf5 or .h5, or one that begins like HDF5."""
    path = Path(source).expanduser()
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(SIGNATURE)) == SIGNATURE or path.suffix.lower() in (".hdf5", ".h5")


def recorded_environment(source: str) -> dict[str, Any] | None:
    """None: a D4RL file names no environment."""
    return None


def open_source(source: str, options: IngestOptions) -> Source:
    """Open a D4RL-style HDF5 file.

    Raises:
        SourceFormatError: not HDF5, cut short, or without the needed datasets.
    """
    try:
        import h5py
    except ImportError as error:
        raise SourceFormatError(
            f"reading HDF5 needs h5py: pip install '.[train]' in Slipway's checkout ({error})"
        ) from None
    path = Path(source).expanduser()
    with path.open("rb") as file:
        if file.read(len(SIGNATURE)) != SIGNATURE:
            raise SourceFormatError(f"{path} is not an HDF5 file, whatever its name says; check what was downloaded")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise SourceFormatError(
            f"{path} cannot be opened as HDF5 ({one_line(error)}); it is damaged or cut short: fetch it again"
        ) from error
    try:
        columns = _columns(file, path, options)
        opened = flat_source(
            columns, options, kind="hdf5", digest=file_digest(path), provenance=_provenance(file, h5py.Dataset)
        )
    except BaseException:
        file.close()
        raise
    return replace(opened, close=file.close)


def _columns(file: Any, path: Path, options: IngestOptions) -> FlatColumns:
    where = str(path)
    names = {name: value for name, value in file.items() if hasattr(value, "shape")}
    infos = file["infos"] if "infos" in file and hasattr(file["infos"], "keys") else {}
    wanted = {*SUCCESS_NAMES, options.terminate_on}
    return FlatColumns(
        where=where,
        observations=pick(names, ("observations",), where),
        actions=pick(names, ("actions",), where),
        rewards=pick(names, ("rewards",), where),
        terminals=pick(names, ("terminals", "terminations", "terminated"), where, required=False),
        timeouts=pick(names, ("timeouts", "truncations", "truncated"), where, required=False),
        next_observations=pick(names, ("next_observations",), where, required=False),
        info={str(key): group[key] for group in (names, infos) for key in group if key in wanted},
    )


def _provenance(file: Any, dataset_type: Any) -> dict[str, Any]:
    """Scalars among the file's attributes and its `metadata` group as text or numbers."""
    found: dict[str, Any] = dict(file.attrs.items())
    if "metadata" in file and hasattr(file["metadata"], "items"):
        found |= {k: v[()] for k, v in file["metadata"].items() if isinstance(v, dataset_type) and v.shape == ()}
    plain = {}
    for key, value in found.items():
        item = value.item() if hasattr(value, "item") else value
        item = item.decode(errors="replace") if isinstance(item, bytes) else item
        if isinstance(item, bool | int | float) or (isinstance(item, str) and len(item) <= 500):
            plain[str(key)] = item
    return {"metadata": plain} if plain else {}
