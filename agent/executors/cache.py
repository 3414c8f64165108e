"""What was measured of this machine, kept between runs: a JSON file of values by key."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from agent.files import write_atomic

T = TypeVar("T")


def read_cache(path: Path, make: Callable[[Any], T]) -> dict[str, T]:
    """`make` of each value, by key; a missing or unreadable file is an empty cache."""
    try:
        return {key: make(value) for key, value in json.loads(path.read_bytes()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def write_cache(path: Path, values: Mapping[str, Any]) -> None:
    """Keep `values`; a folder that cannot be written only costs the next run its measurement."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(values).encode())
    except OSError:
        return
