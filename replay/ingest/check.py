"""The checks that every episode passes before it is stored, whatever it was read from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replay.ingest.source import SourceDescription, SourceEpisode, SourceFormatError, SourceValueError

BOUND_TOLERANCE = 1e-6
"""An action this far outside its bounds (relative to bounds above 1) is rounding, not an error."""


def checked(
    episode: SourceEpisode, description: SourceDescription, *, clip_actions: bool, notes: Counter[str]
) -> SourceEpisode:
    """The episode as float32 arrays of the right shapes, finite, with actions inside their bounds.

    Raises:
        SourceFormatError: a field of another length or width than the others ask for.
        SourceValueError: NaN or infinity, or an action outside its bounds (unless they are clipped).
    """
    steps = len(episode.rewards)
    expected = {
        "observations": (steps + 1, description.observation_size),
        "actions": (steps, description.action_size),
        "rewards": (steps,),
        **{f"info {name!r}": (steps,) for name in description.info},
    }
    fields: dict[str, NDArray[Any]] = {
        "observations": episode.observations,
        "actions": episode.actions,
        "rewards": episode.rewards,
        **{f"info {name!r}": episode.info[name] for name in description.info},
    }
    single: dict[str, NDArray[np.float32]] = {}
    for field, array in fields.items():
        if tuple(array.shape) != expected[field]:
            raise SourceFormatError(
                f"{episode.label}: {field} has shape {list(array.shape)}, expected {list(expected[field])} for "
                f"{steps} steps; the data is damaged: fetch or record it again"
            )
        refuse_unreal(array, field, episode.label)
        # A value beyond float32 becomes an infinity and is reported as one.
        with np.errstate(over="ignore", invalid="ignore"):
            single[field] = np.ascontiguousarray(array, np.float32)
        _refuse_non_finite(single[field], array, field, episode, description)
    single["actions"] = bounded(
        single["actions"],
        description.action_low,
        description.action_high,
        episode.label,
        clip=clip_actions,
        notes=notes,
    )
    return replace(
        episode,
        observations=single["observations"],
        actions=single["actions"],
        rewards=single["rewards"],
        info={name: single[f"info {name!r}"] for name in description.info},
    )


def refuse_unreal(column: Any, field: str, where: str) -> None:
    """Refuse a column (an array or HDF5 dataset) of anything but real numbers and flags.

    Raises:
        SourceFormatError: complex numbers, text, times; names the first of them.
    """
    if column.dtype.kind not in "biuf":
        first = f", at row 0 {column[0]!s:.40}" if len(column) else ""
        raise SourceFormatError(
            f"{where}: {field} holds no real numbers but {column.dtype}{first}; save it as floats or integers"
        )


def flags(column: Any, field: str, where: str, *, first_row: int = 0) -> NDArray[np.bool_]:
    """A column of 0 and 1, or of booleans, as booleans [n].

    Raises:
        SourceFormatError: another value; names the row, counted from `first_row`.
    """
    array = np.asarray(column).reshape(len(column))
    wrong = (array != 0) & (array != 1)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise SourceFormatError(
            f"{where}: {field} at row {first_row + row} is {array[row]!s:.40}; a flag is 0 or 1: save it as booleans"
        )
    return np.asarray(array != 0, np.bool_)


def _refuse_non_finite(
    array: NDArray[np.float32], source: NDArray[Any], field: str, episode: SourceEpisode, description: SourceDescription
) -> None:
    finite = np.isfinite(array)
    if finite.all():
        return
    place = np.unravel_index(int(np.argmin(finite)), array.shape)
    at, value = f"{field} at step {place[0]}", f"is {float(source[place])}"
    if array.ndim == 2:
        at += f", column {place[1]}"
    names = description.columns.get(field)
    if names is not None and episode.first_row is not None:
        at = f"column {names[int(place[1]) if array.ndim == 2 else 0]!r} in row {episode.first_row + int(place[0])}"
        value = "is empty or NaN" if np.isnan(source[place]) else value
    raise SourceValueError(
        f"{episode.label}: {at} {value}; only finite float32 values can be learned from: mend the recording or leave "
        "the episode out"
    )


def bounded(
    actions: NDArray[np.float32],
    low: Sequence[float],
    high: Sequence[float],
    label: str,
    *,
    clip: bool,
    notes: Counter[str],
) -> NDArray[np.float32]:
    """Actions [T, A] inside [low, high], clipped and counted if asked.

    Raises:
        SourceValueError: an action is outside by more than rounding; names step and dimension.
    """
    lowest, highest = np.asarray(low, np.float32), np.asarray(high, np.float32)
    if clip:
        clipped = np.clip(actions, lowest, highest)
        notes["actions_clipped"] += int((clipped != actions).any(axis=1).sum())
        return clipped
    slack = BOUND_TOLERANCE * np.maximum(1.0, np.maximum(np.abs(lowest), np.abs(highest)))
    inside = (actions >= lowest - slack) & (actions <= highest + slack)
    if not inside.all():
        step, dimension = np.unravel_index(int(np.argmin(inside)), inside.shape)
        raise SourceValueError(
            f"{label}: actions at step {step}, dimension {dimension} is {float(actions[step, dimension]):.7g}, outside "
            f"[{float(lowest[dimension]):.7g}, {float(highest[dimension]):.7g}]; clip the actions (--clip-actions) "
            "or name the environment with the bounds that they were recorded in (--env)"
        )
    return actions
