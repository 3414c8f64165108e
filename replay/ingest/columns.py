"""Files of flat columns, N transitions one after the other (D4RL HDF5, .npz): their columns, shapes and spaces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from replay.ingest.check import refuse_unreal
from replay.ingest.environment import fitting_layout
from replay.ingest.source import SourceFormatError


@dataclass(frozen=True, kw_only=True)
class FlatColumns:
    """The columns of a flat file by role; values are arrays or HDF5 datasets (anything sliceable with a shape)."""

    where: str
    """The file, for messages."""
    observations: Any
    """[N, O]."""
    actions: Any
    """[N, A]."""
    rewards: Any
    """[N] or [N, 1]."""
    terminals: Any | None
    """[N] or None."""
    timeouts: Any | None
    """[N] or None."""
    next_observations: Any | None
    """[N, O] or None."""
    info: Mapping[str, Any]
    """Per-step columns, each [N]."""

    @property
    def rows(self) -> int:
        """N."""
        return int(self.rewards.shape[0]) if len(self.rewards.shape) else 0


def pick(columns: Mapping[str, Any], names: tuple[str, ...], where: str, *, required: bool = True) -> Any | None:
    """The first of `names` that the file has.

    Raises:
        SourceFormatError: none is there but one is required; names the fields that are.
    """
    found = next((name for name in names if name in columns), None)
    if found is None and required:
        raise SourceFormatError(
            f"{where} lacks {names[0]!r}; it has {', '.join(sorted(columns)) or 'nothing'}: needed are observations, "
            "actions, rewards and terminals or timeouts"
        )
    return None if found is None else columns[found]


def check_shapes(columns: FlatColumns) -> None:
    """Refuse columns that are empty, of unequal length, no real numbers, images, or discrete actions.

    Raises:
        SourceFormatError: names the field, its shape and what was expected.
    """
    where, rows = columns.where, columns.rows
    named = {
        "observations": columns.observations,
        "actions": columns.actions,
        "terminals": columns.terminals,
        "timeouts": columns.timeouts,
        "next_observations": columns.next_observations,
        **columns.info,
    }
    if tuple(columns.rewards.shape) not in ((rows,), (rows, 1)):
        raise SourceFormatError(f"{where}: rewards has shape {list(columns.rewards.shape)}, expected one a step: [N]")
    if rows == 0:
        raise SourceFormatError(f"{where}: rewards is empty; the file holds no step to ingest")
    for field, column in named.items():
        if column is not None and (len(column.shape) == 0 or column.shape[0] != rows):
            raise SourceFormatError(
                f"{where}: {field} has shape {list(column.shape)} but rewards has {rows} rows; all must have the same "
                "number of rows: the file is damaged or cut short, fetch or record it again"
            )
        if column is not None:
            refuse_unreal(column, field, where)
    refuse_unreal(columns.rewards, "rewards", where)
    shape, dtype = tuple(columns.observations.shape), columns.observations.dtype
    if len(shape) > 2:
        kind = "images are not supported yet" if dtype == np.uint8 else "one flat vector a step is needed"
        raise SourceFormatError(f"{where}: observations has shape {list(shape)} ({dtype}); {kind}, expected [N, O]")
    following = columns.next_observations
    if len(shape) != 2 or (following is not None and tuple(following.shape) != shape):
        other = "" if following is None else f", next_observations {list(following.shape)}"
        raise SourceFormatError(f"{where}: observations has shape {list(shape)}{other}; both must be [N, O]")
    for field in ("terminals", "timeouts", *columns.info):
        column = named[field]
        if column is not None and tuple(column.shape) not in ((rows,), (rows, 1)):
            raise SourceFormatError(f"{where}: {field} has shape {list(column.shape)}, expected one a step: [N]")
    acted, kind = columns.actions.shape, columns.actions.dtype
    if not np.issubdtype(kind, np.floating) or len(acted) != 2:
        mend = "Slipway learns continuous actions only: expected floats [N, A]"
        if np.issubdtype(kind, np.floating) and len(acted) == 1:
            mend = f"one action of one number a step is [N, 1]: reshape actions to [{rows}, 1]"
        raise SourceFormatError(f"{where}: actions has shape {list(acted)} and dtype {kind}; {mend}")


def spaces_of(
    columns: FlatColumns, env: dict[str, Any] | None
) -> tuple[tuple[dict[str, Any], ...], tuple[float, ...], tuple[float, ...]]:
    """(observation terms, action low, action high): the environment's where one is given, else one term and ±1 (D4RL).

    Raises:
        SourceFormatError: the environment's observation or action size is not the file's.
    """
    size, actions = int(columns.observations.shape[1]), int(columns.actions.shape[1])
    if env is None:
        term = {"name": "observation", "offset": 0, "length": size, "dtype": str(columns.observations.dtype)}
        return (term,), (-1.0,) * actions, (1.0,) * actions
    return fitting_layout(columns.where, env, observations=size, actions=actions)
