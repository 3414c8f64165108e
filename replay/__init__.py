"""Slipway's replay: a crash-safe Zarr store of experience that samples at memory speed. numpy only, loaded lazily."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from replay.episodes import Episode as Episode
    from replay.errors import ReplayError as ReplayError
    from replay.limiter import Limiter as Limiter
    from replay.reader import StoreReader as StoreReader
    from replay.sampler import Batch as Batch
    from replay.sampler import MixedSampler as MixedSampler
    from replay.sampler import PrioritisedSampler as PrioritisedSampler
    from replay.sampler import SequenceSampler as SequenceSampler
    from replay.sampler import UniformSampler as UniformSampler
    from replay.schema import ObservationTerm as ObservationTerm
    from replay.schema import StoreSpec as StoreSpec
    from replay.store import Store as Store
    from replay.stream import StreamWriter as StreamWriter

_MODULES = {
    "Batch": "replay.sampler",
    "Episode": "replay.episodes",
    "Limiter": "replay.limiter",
    "MixedSampler": "replay.sampler",
    "ObservationTerm": "replay.schema",
    "PrioritisedSampler": "replay.sampler",
    "ReplayError": "replay.errors",
    "SequenceSampler": "replay.sampler",
    "Store": "replay.store",
    "StoreReader": "replay.reader",
    "StoreSpec": "replay.schema",
    "StreamWriter": "replay.stream",
    "UniformSampler": "replay.sampler",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'replay' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
