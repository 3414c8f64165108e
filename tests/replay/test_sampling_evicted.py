"""Samplers beside eviction: every one goes on, and none draws a row that is gone or an episode without its head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replay import Store
from replay.sampler import PrioritisedSampler
from tests.replay import formula
from tests.replay.test_selections import OPTIONS


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_samplers_go_on_with_the_rows_that_are_left(tmp_path: Path, options: dict[str, Any]) -> None:
    store = Store.create(tmp_path / "s.zarr", formula.spec(), chunk_rows=formula.CHUNK_ROWS)
    if "source_weights" in options:
        options = {**options, "source_weights": {7: 1.0}}
    writer = store.writer("a", durability="process", source_id=7, capacity_steps=300)
    t = np.arange(61)
    sampler, returns = None, options.get("return_temperature") is not None
    for number in range(40):
        observations = np.stack([0 * t, 0 * t + number, t, 0 * t, 0 * t], axis=1)
        writer.append_episode(observations, np.zeros((60, 2)), t[:-1], terminated=False, truncated=True)
        if sampler is None:
            sampler = store.sampler(64, rng=np.random.default_rng(number), **options)
        else:
            sampler.reader.refresh()
        tail = sampler.reader.index.spans["a"].row
        for _ in range(3):
            batch = sampler.next()
            packed = batch.packed if batch.packed.ndim == 2 else batch.packed[:, options.get("burn_in", 0)]
            rows = packed[:, 1] * 61 + packed[:, 2]
            assert (rows >= tail).all() and (rows < writer.head).all()
            if returns:
                assert (packed[:, 1] * 61 >= tail).all()
            if isinstance(sampler, PrioritisedSampler):
                assert batch.rows is not None  # type: ignore[union-attr]
                sampler.update_priorities(batch.rows, np.abs(batch.observations[:, 2]))  # type: ignore[union-attr]
    assert tail > 1500
    writer.close()
