"""What a resumed learner owes for the steps collected while it was gone, and what it was owed before."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from agent.board import Board, CollectorSlot
from agent.config import OnlineConfig, TrainConfig
from agent.files import read_lines
from agent.ratio import Ratio
from agent.run_directory import RunDirectory
from agent.training_log import TrainingLog
from tests.agent.learners import make_learner

PRETRAINED, WARMUP = 100, 50
CONFIG = TrainConfig(
    pretrain_steps=PRETRAINED,
    online_steps=10_000,
    online=OnlineConfig(utd=2.0, tolerance_steps=100, warmup_steps=WARMUP),
)


def ratio_of(path: Path, *, steps: int, updates: int) -> Ratio:
    run = RunDirectory(path)
    board = Board(run.board)
    board.collector(0)[CollectorSlot.STEPS] = steps
    algorithm = make_learner(offline_steps=PRETRAINED)
    algorithm.updates = PRETRAINED + updates
    return Ratio(CONFIG, board, algorithm, TrainingLog(run, weight_clip=100.0))


@pytest.mark.parametrize("ahead", [-150, 0, 150])
@pytest.mark.parametrize("since", [0, 700])
def test_only_what_was_collected_since_the_checkpoint_is_forgiven(tmp_path: Path, ahead: int, since: int) -> None:
    """However often it is stopped and resumed: nobody gets another tolerance, and no update is made up for."""
    steps, updates = 1050, 2000 + ahead
    saved = ratio_of(tmp_path, steps=steps, updates=updates).state_dict()
    end = ratio_of(tmp_path, steps=steps, updates=updates).last_update()
    for stops in range(1, 4):
        steps += since
        ratio = ratio_of(tmp_path, steps=steps, updates=updates)
        ratio.load_state_dict(saved)
        ratio.resume(steps)
        assert ratio.limiter.deficit(steps, updates) == -ahead
        assert ratio.last_update() == end - 2 * since * stops
        saved = ratio.state_dict()
    forgiven = [event["deficit"] for event in read_lines(tmp_path / "events.jsonl")]
    assert forgiven == ([2.0 * since] * 3 if since else [])


def test_a_warm_up_that_went_on_without_the_learner_asks_for_nothing(tmp_path: Path) -> None:
    ratio = ratio_of(tmp_path, steps=WARMUP + 30, updates=0)
    ratio.resume(WARMUP + 30)
    assert ratio.limiter.deficit(WARMUP + 30, 0) == 0.0
    within = ratio_of(tmp_path, steps=WARMUP - 20, updates=0)
    within.resume(WARMUP - 20)
    assert within.limiter.base_steps == WARMUP
    assert dataclasses.asdict(CONFIG.online)["warmup_steps"] == WARMUP
