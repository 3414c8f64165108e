"""Is this the policy that this robot or environment expects?"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from export.contract import Contract
from export.errors import ContractError


def check_expected(actual: Any, expected: Any, *, where: str, path: str = "") -> None:
    """Raise ContractError unless `expected`, a part of a contract as plain data, agrees with `actual`.

    Mappings are compared on the expected keys only; sequences entry by entry and in length, so an order is part of the
    promise; numbers after float32, the precision in which the graph knows them.
    """
    at = path or "contract"
    if isinstance(expected, Mapping):
        for key, value in expected.items():
            if not isinstance(actual, Mapping) or key not in actual:
                raise ContractError(f"{where}: {_missing(actual, key, path)}")
            check_expected(actual[key], value, where=where, path=f"{path}{key}.")
    elif isinstance(expected, Sequence | np.ndarray) and not isinstance(expected, str):
        if not isinstance(actual, Sequence) or len(actual) != len(expected):
            size = len(actual) if isinstance(actual, Sequence) else actual
            raise ContractError(
                f"{where}: contract {at.rstrip('.')} has {size} entries, {len(expected)} are expected here; "
                "use a policy exported for this robot or environment"
            )
        for index, (a, b) in enumerate(zip(actual, expected, strict=True)):
            check_expected(a, b, where=where, path=f"{path.rstrip('.')}[{index}].")
    elif not _agree(actual, expected):
        raise ContractError(
            f"{where}: contract {at.rstrip('.')} is {actual!r}, {expected!r} is expected here; "
            "use a policy exported for this robot or environment"
        )


def _missing(actual: Any, key: str, path: str) -> str:
    """Why a contract's part `actual` has no `key`: this policy leaves it out, or no contract knows such a key."""
    free = path.startswith("env.")  # an environment's own arguments
    if not isinstance(actual, Mapping) or free or (not path and key in {each.name for each in fields(Contract)}):
        return f"contract has no {path}{key}, which is expected here; use a policy exported for this robot"
    near = difflib.get_close_matches(key, actual, n=1)
    known = f"did you mean {path}{near[0]}?" if near else f"its keys are {', '.join(actual)}"
    return (
        f"{path}{key} is expected here (by a robot's own `contract`?), but no policy's contract has such a key; {known}"
    )


def _agree(actual: Any, expected: Any) -> bool:
    number = (int, float, np.number)
    if isinstance(actual, number) and isinstance(expected, number):
        return bool(np.float32(actual) == np.float32(expected))
    return bool(actual == expected)
