"""The two training loops: they update as often as they should, stop when asked, and keep the update-to-data ratio."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from agent.board import Board, CollectorSlot, Phase, Slot
from agent.finetuning import finetune
from agent.pretraining import pretrain
from agent.transitions import Transitions
from replay.limiter import Limiter


class Counting:
    """Stands for an algorithm and for all that a loop calls; a step of an environment for every `pause`."""

    def __init__(self, *, updates: int = 0, steps: int = 0, stop_at: int = 10**9) -> None:
        self.updates, self.steps, self.stop_at = updates, steps, stop_at
        self.batches, self.waits, self.after, self.publications = 0, 0, 0, 0

    def next(self) -> Any:
        self.batches += 1
        return self

    def __call__(self, _batch: Any) -> Any:
        return self

    def update(self, _batch: Transitions) -> dict[str, Tensor]:
        self.updates += 1
        return {"loss": torch.zeros(())}

    def maybe(self) -> None:
        self.publications += 1

    def waiting(self, _seconds: float) -> None:
        self.waits += 1
        self.steps += 1

    def after_update(self, _result: dict[str, Tensor]) -> None:
        self.after += 1

    def stopping(self) -> bool:
        return self.updates >= self.stop_at


def offline(it: Counting, steps: int) -> bool:
    return pretrain(
        it, it, steps=steps, stopping=it.stopping, after_update=it.after_update  # type: ignore[arg-type]
    )  # fmt: skip


def online(it: Counting, limiter: Limiter, *, first: int, last: int) -> bool:
    return finetune(
        it, it,  # type: ignore[arg-type]
        limiter=limiter, collected_steps=lambda: it.steps, first_update=first, last_update=last,
        publication=it, stopping=it.stopping, waiting=it.waiting, after_update=it.after_update, pause_seconds=0.0,
    )  # fmt: skip


def test_pretraining_goes_on_from_where_it_stands_to_the_total() -> None:
    it = Counting(updates=30)
    assert offline(it, 100)
    assert (it.updates, it.batches, it.after) == (100, 70, 70)
    assert offline(it, 100)
    assert it.updates == 100


def test_pretraining_stops_when_asked_and_says_so() -> None:
    it = Counting(stop_at=7)
    assert not offline(it, 100)
    assert it.updates == 7


@pytest.mark.parametrize("utd", [0.25, 1.0, 4.0])
def test_online_updates_never_run_ahead_of_the_ratio_by_more_than_the_tolerance(utd: float) -> None:
    first, warmup, tolerance = 100, 50, 10
    it = Counting(updates=first, steps=warmup)
    limiter = Limiter(utd=utd, tolerance_steps=tolerance, base_steps=warmup)
    excess = []
    it.after_update = lambda result: excess.append(it.updates - first - utd * (it.steps - warmup))  # type: ignore[method-assign,misc]
    last = first + round(utd * 200)
    assert online(it, limiter, first=first, last=last)
    assert it.updates == last
    assert max(excess) <= max(utd * tolerance, (1 + utd) / 2)
    # With data that come only while the learner waits, it waits once for each step beyond the tolerance.
    assert it.waits == pytest.approx(200 - tolerance, abs=2)


def test_online_updates_do_not_wait_for_data_that_are_there() -> None:
    it = Counting(steps=10_000)
    assert online(it, Limiter(utd=1.0, tolerance_steps=1), first=0, last=500)
    assert (it.waits, it.updates, it.publications) == (0, 500, 500)


def test_the_learner_stops_when_asked_even_while_it_waits() -> None:
    it = Counting()
    it.stopping = lambda: it.waits >= 3  # type: ignore[method-assign]
    limiter = Limiter(utd=1.0, tolerance_steps=1, base_steps=100)
    assert not online(it, limiter, first=0, last=500)
    assert it.updates < 10


# --- the board that paces them ----------------------------------------------------------------------------------------


def test_what_one_process_writes_on_the_board_another_reads(tmp_path: Any) -> None:
    path = tmp_path / "board.bin"
    writer, reader = Board(path), Board(path)
    writer[Slot.PHASE] = Phase.ONLINE
    writer[Slot.LIMITER_STEPS] = 2**60
    writer.collector(63)[CollectorSlot.STEPS] = 5
    writer.collector(0)[CollectorSlot.STEPS] = 7
    assert reader.phase is Phase.ONLINE
    assert reader[Slot.LIMITER_STEPS] == 2**60
    assert reader.online_steps() == 12
    assert not reader.stopping
    writer[Slot.STOP] = 1
    assert reader.stopping


def test_the_board_survives_its_processes(tmp_path: Any) -> None:
    board = Board(tmp_path / "board.bin")
    board[Slot.POLICY_VERSION] = 9
    del board
    assert Board(tmp_path / "board.bin")[Slot.POLICY_VERSION] == 9


def test_no_two_slots_share_a_place(tmp_path: Any) -> None:
    board = Board(tmp_path / "board.bin")
    values = np.arange(1, len(Slot) + 1)
    for slot, value in zip(Slot, values, strict=True):
        board[slot] = int(value)
    for index in range(64):
        board.collector(index)[:] = 1000 + index
    assert [board[slot] for slot in Slot] == values.tolist()
    assert [int(board.collector(index)[3]) for index in range(64)] == [1000 + index for index in range(64)]
