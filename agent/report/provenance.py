"""What tells the data of one experiment from another's, wherever it lies."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np

from replay.schema import StoreSpec

COLLECTED = "collect"
"""Kind of the stores that `slipway collect` makes: their request, the seed aside, tells what they are."""


def data_identity(spec: StoreSpec, returns: np.ndarray) -> str:
    """Equal for the same data, and for data collected by the same request under another seed; else different.

    `returns` are those of its episodes.
    """
    source = spec.source or {}
    collected = _origin(source).get("kind") == COLLECTED
    # Copies of a log have their digest from its rows, which each seed draws anew.
    parts = [_without(source, {"name", "seed", "digest"} if collected else {"name"}), spec.env, spec.layout_fingerprint]
    text = json.dumps(parts, sort_keys=True).encode()
    return hashlib.sha256(text if collected else text + returns.tobytes()).hexdigest()


def _origin(source: dict[str, Any]) -> dict[str, Any]:
    """Of a copy of a copy, the source of the first."""
    recorded = source.get("recorded")
    return _origin(recorded) if recorded else source


def _without(source: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """`source` without `names`, in what a copy says of its original too."""
    kept = {key: value for key, value in source.items() if key not in names}
    recorded = source.get("recorded")
    return {**kept, "recorded": _without(recorded, names)} if recorded else kept
