"""The limiter keeps updates near utd x steps and never blocks both sides."""

from __future__ import annotations

import json

import numpy as np
import pytest

from replay import Limiter, ReplayError

UTDS = [0.02, 0.1, 0.25, 1 / 3, 0.5, 1.0, 1.7, 2.0, 4.0, 20.0]
TOLERANCES = [0, 0.5, 1, 3, 10, 100]


@pytest.mark.parametrize("utd", UTDS)
@pytest.mark.parametrize("tolerance", TOLERANCES)
def test_no_state_blocks_both_sides(utd: float, tolerance: float) -> None:
    limiter = Limiter(utd=utd, tolerance_steps=tolerance)
    for steps in range(120):
        around = round(utd * steps)
        for updates in range(max(0, around - 50), around + 50):
            assert limiter.may_update(steps, updates) or limiter.may_collect(steps, updates), (steps, updates)


@pytest.mark.parametrize("utd", UTDS)
@pytest.mark.parametrize("tolerance", TOLERANCES)
@pytest.mark.parametrize("eagerness", [0.0, 0.03, 0.5, 0.97, 1.0])
def test_updates_stay_within_tolerance_whichever_side_is_faster(utd: float, tolerance: float, eagerness: float) -> None:
    """`eagerness`: how often the learner is asked before the collector; 0 and 1 are the extremes of slowness."""
    rng = np.random.default_rng(3)
    limiter = Limiter(utd=utd, tolerance_steps=tolerance)
    steps = updates = 0
    for _ in range(3000):
        learner_first = rng.random() < eagerness
        if learner_first and limiter.may_update(steps, updates):
            updates += 1
        elif limiter.may_collect(steps, updates):
            steps += 1
        else:
            assert limiter.may_update(steps, updates)
            updates += 1
        assert abs(utd * steps - updates) <= limiter.slack + 1e-6
    assert limiter.slack == max(utd * tolerance, (1 + utd) / 2)
    assert steps > 0 and updates > 0


@pytest.mark.parametrize("ahead", [-15.0, 0.0, 15.0])
def test_forgiven_steps_ask_for_no_update_and_whoever_was_ahead_still_is(ahead: float) -> None:
    limiter = Limiter(utd=2.0, tolerance_steps=10, base_steps=100, base_updates=500)
    updates = 600 + int(ahead)
    assert limiter.deficit(150, updates) == -ahead
    assert limiter.forgive(1000) == 2000.0  # collected since the checkpoint, whose updates are lost
    assert limiter.deficit(1150, updates) == -ahead


def test_state_survives_json_and_preloaded_data_does_not_count() -> None:
    limiter = Limiter(utd=0.5, tolerance_steps=4, base_steps=1_000_000, base_updates=20_000)
    other = Limiter(utd=0.5, tolerance_steps=4)
    other.load_state_dict(json.loads(json.dumps(limiter.state_dict())))
    assert other.deficit(1_000_010, 20_000) == limiter.deficit(1_000_010, 20_000) == 5.0


@pytest.mark.parametrize(("utd", "tolerance"), [(0.0, 1), (-1.0, 1), (float("nan"), 1), (1.0, -1), (1.0, float("inf"))])
def test_senseless_settings_are_refused(utd: float, tolerance: float) -> None:
    with pytest.raises(ReplayError):
        Limiter(utd=utd, tolerance_steps=tolerance)
