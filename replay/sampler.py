"""Samplers: batches from a StoreReader, drawn with a passed generator, resumable exactly.

The code is in `replay.sampling`.
"""

from __future__ import annotations

from replay.sampling.batch import Batch
from replay.sampling.mixture import MixedSampler
from replay.sampling.transitions import TransitionSampler, UniformSampler

__all__ = ["Batch", "MixedSampler", "TransitionSampler", "UniformSampler"]
