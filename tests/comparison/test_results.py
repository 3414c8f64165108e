"""What a comparison says of its methods where runs are missing: no interval without two runs, no time of none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.comparison.plan import Run
from agent.comparison.results import Method, summarize
from agent.config import TrainConfig

NAN = float("nan")


def methods(first: Any, second: Any, spent: dict[int, float] | None = None) -> list[Method]:
    """Of two variants with scores [R, T] each; `spent` seconds by seed."""
    scores = {"a": np.array(first), "b": np.array(second)}
    runs = [
        Run(task="t", variant=label, seed=seed, config=TrainConfig(out=Path(f"nowhere/{label}/{seed}")))
        for label in scores for seed in range(len(scores[label]))
    ]  # fmt: skip
    seconds = spent or {}
    return summarize(list(scores), scores, runs, {}, lambda run: seconds.get(run.seed, 0.0), np.random.default_rng(0))


@pytest.mark.parametrize(
    ("first", "second", "intervals"),
    [
        ([[1.0]], [[2.0]], (False, False, False)),
        ([[1.0], [2.0]], [[2.0], [NAN]], (True, False, False)),
        ([[1.0], [NAN]], [[2.0], [3.0]], (False, True, False)),
        ([[1.0], [2.0]], [[2.0], [3.0]], (True, True, True)),
        (
            [[1.0, 5.0], [2.0, 6.0]],
            [[2.0, 6.0], [3.0, NAN]],
            (True, False, False),
        ),  # of two tasks, one has a single run
    ],
    ids=["one each", "second has one", "first has one", "two each", "one on a task"],
)
def test_there_is_an_interval_only_of_methods_with_two_runs_on_every_task(
    first: Any, second: Any, intervals: tuple[bool, bool, bool]
) -> None:
    a, b = methods(first, second)
    assert (a.iqm_ci is not None, b.iqm_ci is not None, b.improvement_ci is not None) == intervals
    assert a.iqm is not None and b.iqm is not None and b.improvement is not None  # of what there is


def test_a_method_takes_as_long_as_the_runs_that_were_begun() -> None:
    a, _ = methods([[1.0], [NAN], [NAN]], [[1.0], [NAN], [NAN]], {0: 60.0})
    assert a.seconds == 60.0
    assert methods([[NAN]], [[NAN]])[0].seconds is None
