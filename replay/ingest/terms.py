"""Observation terms back as a Gymnasium space, and stored observations back as its values: what an export needs.

Names are taken apart at "/"; parts named "0", "1", ... in order become a Tuple, others a Dict that keeps the terms'
order. Names that no space can have (one inside another, parts interleaved) leave one flat Box of all terms.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Node = slice | dict[str, Any]
"""Columns of the flat observation, or named parts."""


def space_of_terms(terms: Iterable[Mapping[str, Any]]) -> Any:
    """A Gymnasium space of float32 Boxes for `{"name", "offset", "length"}` terms; flattens to the same columns."""
    return _space(_tree(list(terms)))


def unflatten(terms: Iterable[Mapping[str, Any]], observations: NDArray[np.float32]) -> Any:
    """Observations [n, O] as (nested dicts and tuples of) arrays [n, length], as `space_of_terms` names them."""
    return _values(_tree(list(terms)), observations)


def _tree(terms: list[Mapping[str, Any]]) -> Node:
    whole = slice(0, sum(int(term["length"]) for term in terms))
    if len(terms) == 1 and terms[0]["name"] == "observation":
        return whole
    root: dict[str, Any] = {}
    for term in terms:
        *parents, leaf = str(term["name"]).split("/")
        if {"", ".", ".."} & {*parents, leaf}:
            return whole
        node: Any = root
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                return whole
        if leaf in node:
            return whole
        node[leaf] = slice(int(term["offset"]), int(term["offset"]) + int(term["length"]))
    in_order = [part.start for part in _slices(root)] == [int(term["offset"]) for term in terms]
    return root if in_order else whole


def _slices(node: Node) -> Iterator[slice]:
    if isinstance(node, slice):
        yield node
    else:
        for part in node.values():
            yield from _slices(part)


def _is_tuple(node: dict[str, Any]) -> bool:
    return list(node) == [str(index) for index in range(len(node))]


def _space(node: Node) -> Any:
    from gymnasium import spaces

    if isinstance(node, slice):
        return spaces.Box(-np.inf, np.inf, (node.stop - node.start,), np.float32)
    if _is_tuple(node):
        return spaces.Tuple([_space(part) for part in node.values()])
    # An OrderedDict, because Gymnasium sorts the keys of any other mapping.
    return spaces.Dict(OrderedDict((key, _space(part)) for key, part in node.items()))


def _values(node: Node, observations: NDArray[np.float32]) -> Any:
    if isinstance(node, slice):
        return observations[:, node]
    if _is_tuple(node):
        return tuple(_values(part, observations) for part in node.values())
    return {key: _values(part, observations) for key, part in node.items()}
