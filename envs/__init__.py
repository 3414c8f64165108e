"""World × policy: simulated environments behind one flat float32 interface, and the scripted experts for them.

Importing this package is cheap: the simulators load when `make_env` is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from envs.catalog import CATALOG, Task, counts_as_scored, evaluation_spec, lookup, normalized_score, training_spec
from envs.errors import EnvError, EnvFault

if TYPE_CHECKING:
    from envs.make import describe as describe
    from envs.make import make_env as make_env

__all__ = [
    "CATALOG", "EnvError", "EnvFault", "Task", "counts_as_scored", "evaluation_spec", "lookup", "normalized_score",
    "training_spec",
]  # fmt: skip

_HOME = {"describe": "make", "make_env": "make"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'envs' has no attribute {name!r}")
    return getattr(importlib.import_module(f"envs.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
