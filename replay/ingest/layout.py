"""Gymnasium spaces as named terms of one flat float32 vector, in the order of `gymnasium.spaces.flatten`.

Dict keys come in the space's own order, nested names are joined with "/", a Tuple's parts are named by their index,
a plain Box is one term "observation", a Discrete is one-hot.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replay.ingest.source import SourceFormatError


def leaves(space: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """The (path, leaf space) pairs of a possibly nested space, in flattening order."""
    from gymnasium import spaces

    if isinstance(space, spaces.Dict):
        for key, part in space.spaces.items():
            yield from leaves(part, (*path, str(key)))
    elif isinstance(space, spaces.Tuple):
        for index, part in enumerate(space.spaces):
            yield from leaves(part, (*path, index))
    else:
        yield path, space


def term_name(path: tuple[str | int, ...]) -> str:
    """ "achieved_goal/kettle" for a nested leaf, "observation" for a space without parts."""
    return "/".join(str(part) for part in path) or "observation"


def observation_terms(space: Any, where: str) -> tuple[dict[str, Any], ...]:
    """Terms `{"name", "offset", "length", "dtype"}` of a space; images, text and sequences are refused.

    Raises:
        SourceFormatError: a part has no fixed flat length, or is an image. `where` names the source in the message.
    """
    from gymnasium import spaces

    terms: list[dict[str, Any]] = []
    offset = 0
    for path, leaf in leaves(space):
        name = term_name(path)
        if isinstance(leaf, spaces.Box) and leaf.dtype == np.uint8 and len(leaf.shape) >= 2:
            raise SourceFormatError(
                f"{where}: observation {name!r} is an image (uint8 {list(leaf.shape)}); image observations are not "
                "supported yet: use a dataset with state observations"
            )
        if not isinstance(leaf, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
            raise SourceFormatError(
                f"{where}: observation {name!r} is a {type(leaf).__name__} space, which has no fixed flat length; "
                "only Box, Discrete, MultiDiscrete, MultiBinary and Dict or Tuple of them can be stored"
            )
        length = int(spaces.flatdim(leaf))
        terms.append({"name": name, "offset": offset, "length": length, "dtype": str(leaf.dtype)})
        offset += length
    if offset == 0:
        raise SourceFormatError(f"{where}: the observation space {space} is empty; there is nothing to learn from")
    return tuple(terms)


def flatten_observations(space: Any, values: Any, where: str) -> NDArray[Any]:
    """Flatten recorded observations (nested dicts and tuples of arrays [n, ...]) to one array [n, O].

    Raises:
        SourceFormatError: a part is missing, has another shape than its space, or another length than the others.
    """
    columns = []
    rows: int | None = None
    first = ""
    for path, leaf in leaves(space):
        name = term_name(path)
        value = values
        for part in path:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                raise SourceFormatError(
                    f"{where}: observations lack {name!r}, which the observation space names; "
                    "the dataset is incomplete: fetch or record it again"
                ) from None
        array = np.asarray(value)
        column = _flatten_leaf(leaf, array, f"{where}, observations[{name!r}]")
        if rows is None:
            rows, first = len(column), name
        elif len(column) != rows:
            raise SourceFormatError(
                f"{where}: observations[{name!r}] has {len(column)} rows but observations[{first!r}] has {rows}; "
                "the dataset is damaged: fetch or record it again"
            )
        columns.append(column)
    return columns[0] if len(columns) == 1 else np.concatenate(columns, axis=1)


def _flatten_leaf(leaf: Any, array: NDArray[Any], where: str) -> NDArray[Any]:
    """One leaf's values [n, *shape] as [n, flatdim]."""
    from gymnasium import spaces

    shape = tuple(leaf.shape)
    if array.ndim == 0 or array.shape[1:] != shape:
        # Minari stores Discrete as [n], some files as [n, 1].
        if array.ndim == 0 or int(np.prod(array.shape[1:])) != int(np.prod(shape)):
            raise SourceFormatError(
                f"{where} has shape {list(array.shape)} but its space {leaf} asks for {['n', *shape]}; "
                "the dataset's space and data disagree: fetch or record it again"
            )
        array = array.reshape(len(array), *shape)
    if isinstance(leaf, spaces.Discrete):
        return _one_hot(array.reshape(-1, 1), np.array([leaf.start]), np.array([leaf.n]), where)
    if isinstance(leaf, spaces.MultiDiscrete):
        return _one_hot(array.reshape(len(array), -1), np.ravel(leaf.start), np.ravel(leaf.nvec), where)
    return array.reshape(len(array), -1)


def _one_hot(values: NDArray[Any], start: NDArray[Any], sizes: NDArray[Any], where: str) -> NDArray[np.float32]:
    """Concatenated one-hot vectors: values [n, k] with `sizes` [k] choices counted from `start` [k]."""
    index = values.astype(np.int64) - start
    wrong = np.argwhere((index < 0) | (index >= sizes) | (values != np.floor(values)))
    if len(wrong):
        row, part = wrong[0]
        raise SourceFormatError(
            f"{where} at step {row} is {values[row, part]}, outside its {sizes[part]} choices from {start[part]}; "
            "the dataset's space and data disagree: fetch or record it again"
        )
    offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    flat = np.zeros((len(values), int(sizes.sum())), np.float32)
    np.put_along_axis(flat, index + offsets, 1.0, axis=1)
    return flat


def action_bounds(space: Any, where: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Finite (low, high) of a Box action space, flattened.

    Raises:
        SourceFormatError: the actions are discrete, or the bounds are not finite.
    """
    from gymnasium import spaces

    if not isinstance(space, spaces.Box):
        raise SourceFormatError(
            f"{where}: actions are {type(space).__name__} ({space}); Slipway learns Box (continuous) actions only: "
            "choose a dataset with continuous actions"
        )
    low, high = space.low.astype(np.float64).ravel(), space.high.astype(np.float64).ravel()
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()):
        dimension = int(np.argmin(np.isfinite(low) & np.isfinite(high) & (low < high)))
        raise SourceFormatError(
            f"{where}: action dimension {dimension} has bounds [{low[dimension]}, {high[dimension]}]; both must be "
            "finite and low below high: give the environment whose action space has finite bounds"
        )
    # In float32, so that a dataset's bounds equal those of an environment that keeps them in another precision.
    return tuple(low.astype(np.float32).tolist()), tuple(high.astype(np.float32).tolist())
