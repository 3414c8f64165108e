"""Samplers: batches from a StoreReader, drawn with a passed generator, resumable exactly.

The code is in `replay.sampling`; `make_sampler` puts its parts together by options.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from replay.errors import SchemaError
from replay.reader import StoreReader
from replay.sampling.batch import Batch, SequenceBatch
from replay.sampling.epochs import Epochs
from replay.sampling.flagged import PooledSampler
from replay.sampling.mixture import MixedSampler
from replay.sampling.priorities import Prioritised
from replay.sampling.ranges import Ranges
from replay.sampling.returns import BestEpisodes, ReturnWeighted
from replay.sampling.returns_to_go import ReturnsToGo
from replay.sampling.selection import Selection, Uniform
from replay.sampling.sequences import SequenceSampler
from replay.sampling.transitions import PrioritisedSampler, TransitionSampler, UniformSampler

__all__ = [
    "Batch",
    "MixedSampler",
    "PooledSampler",
    "PrioritisedSampler",
    "ReturnsToGo",
    "SequenceBatch",
    "SequenceSampler",
    "TransitionSampler",
    "UniformSampler",
    "make_sampler",
]


def make_sampler(
    reader: StoreReader,
    batch_size: int,
    *,
    rng: np.random.Generator,
    n_step: int = 1,
    gamma: float | None = None,
    length: int | None = None,
    burn_in: int = 0,
    recent: int | None = None,
    stream_weights: Mapping[str, float] | None = None,
    source_weights: Mapping[int, float] | None = None,
    return_temperature: float | None = None,
    top_fraction: float | None = None,
    epochs: bool = False,
    alpha: float | None = None,
    beta: float = 0.4,
    beta_steps: int | None = None,
    returns_to_go: Mapping[str, float] | None = None,
) -> TransitionSampler | SequenceSampler:
    """See `Store.sampler`, which has the same options.

    Raises:
        SchemaError: options that make no sense, alone or together.
    """
    chosen = [
        name
        for name, given in (
            ("recent, stream_weights or source_weights", (recent, stream_weights, source_weights) != (None,) * 3),
            ("return_temperature", return_temperature is not None),
            ("top_fraction", top_fraction is not None),
            ("epochs", epochs),
            ("alpha", alpha is not None),
        )
        if given
    ]
    if len(chosen) > 1:
        raise SchemaError(f"options {' and '.join(chosen)} each choose the rows in their own way: pass one of them")
    if alpha is None and (beta != 0.4 or beta_steps is not None):
        raise SchemaError("beta and beta_steps belong to prioritised draws: pass alpha too, e.g. 0.6")
    if length is None and burn_in:
        raise SchemaError(f"burn_in is {burn_in} without a length: burn-in belongs to sequences")
    if length is not None and (n_step != 1 or gamma is not None or alpha is not None):
        raise SchemaError("sequences (length) exclude n_step, gamma and alpha: leave these out")
    if length is not None and returns_to_go is not None:
        raise SchemaError("sequences (length) exclude returns_to_go: leave one of them out")
    known = None if returns_to_go is None else ReturnsToGo(reader, **returns_to_go)
    selection: Selection
    if alpha is not None:
        selection = Prioritised(reader, rng, alpha=alpha, beta=beta, beta_steps=beta_steps)
        return PrioritisedSampler(
            reader, batch_size, selection, rng=rng, n_step=n_step, gamma=gamma, returns_to_go=known
        )
    if epochs:
        selection = Epochs(rng)
    elif return_temperature is not None:
        selection = ReturnWeighted(reader, rng, return_temperature)
    elif top_fraction is not None:
        selection = BestEpisodes(reader, rng, top_fraction)
    elif chosen:
        selection = Ranges(reader, rng, recent=recent, streams=stream_weights, sources=source_weights)
    else:
        selection = Uniform(rng)
    if length is not None:
        return SequenceSampler(reader, batch_size, selection, rng=rng, length=length, burn_in=burn_in)
    return TransitionSampler(reader, batch_size, selection, rng=rng, n_step=n_step, gamma=gamma, returns_to_go=known)
