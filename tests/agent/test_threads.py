"""Threads: doubled as long as a measurement says that it pays, one where no core is free, the same after a resume."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agent.board import Board
from agent.config import OnlineConfig, TrainConfig
from agent.execution import Execution
from agent.executors import threads
from agent.executors.compiled import Compiled
from agent.executors.threads import choose_threads, free_cores, read_counts
from agent.files import read_lines
from agent.run_directory import RunDirectory
from tests.agent.learners import digest, learn, make_learner, random_transitions
from tests.agent.test_executors import in_another_process

MANY = 10**9
"""Updates to come, enough to measure for."""


@pytest.fixture(autouse=True)
def one_thread_again() -> Iterator[None]:
    yield
    torch.set_num_threads(1)


def test_choosing_leaves_the_learner_as_it_is_and_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    algorithm, other = make_learner(), make_learner()
    for each in (algorithm, other):
        learn(each, np.random.default_rng(0), 3)
    cache = tmp_path / "cache" / "threads.json"
    chosen = choose_threads(algorithm, most=2, updates=MANY, cache=cache)
    assert digest(algorithm) == digest(other)
    assert chosen.count == torch.get_num_threads() in (1, 2)
    assert "ms an eager update on 1" in chosen.reason
    monkeypatch.setattr(threads, "run", lambda *_: pytest.fail("measured twice"))
    again = choose_threads(algorithm, most=2, updates=MANY, cache=cache)
    assert (again.count, torch.get_num_threads()) == (chosen.count, chosen.count)


@pytest.mark.parametrize(
    "milliseconds, most, count",
    [
        ({1: 10.0, 2: 5.5, 4: 3.0, 8: 2.0}, 8, 8),
        ({1: 10.0, 2: 5.5, 4: 3.0, 8: 2.0}, 7, 4),
        ({1: 10.0, 2: 5.5, 4: 5.0, 8: 1.0}, 8, 2),
        ({1: 10.0, 2: 8.6}, 2, 1),
        ({1: 10.0, 2: 30.0}, 2, 1),
    ],
)
def test_threads_are_doubled_as_long_as_that_saves_enough(
    milliseconds: dict[int, float], most: int, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The times of a machine that this one is not.
    monkeypatch.setattr(threads, "run", lambda *_: milliseconds[torch.get_num_threads()] / 1e3)
    chosen = choose_threads(make_learner(), most=most, updates=MANY, cache=tmp_path / "threads.json")
    assert chosen.count == count == torch.get_num_threads()


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.full)])
def test_updates_on_two_threads_in_two_processes_end_with_the_same_bits(compiled: bool) -> None:
    program = f"import tests.agent.test_threads as t; print(t.digest_of_two_threads({compiled}))"
    assert in_another_process(program, PYTHONHASHSEED="12345") == digest_of_two_threads(compiled)


def digest_of_two_threads(compiled: bool) -> str:
    """After updates large enough to be shared by the threads."""
    torch.set_num_threads(2)
    algorithm = make_learner(hidden=(256, 256), batch_size=256, dropout=0.1)
    if compiled:
        algorithm.executor = Compiled(pytest.fail)
    rng = np.random.default_rng(0)
    for _ in range(10):
        algorithm.update(random_transitions(rng, rows=256))
    return digest(algorithm)


@pytest.mark.parametrize("most, updates", [(1, MANY), (8, 100)])
def test_one_thread_where_no_core_is_free_or_little_is_to_come(tmp_path: Path, most: int, updates: int) -> None:
    torch.set_num_threads(2)
    assert choose_threads(make_learner(), most=most, updates=updates, cache=tmp_path / "threads.json").count == 1
    assert torch.get_num_threads() == 1 and not (tmp_path / "threads.json").exists()


@pytest.mark.parametrize("content", [b"", b"[]", b'{"a": null}', b"\xff"])
def test_a_damaged_cache_is_an_empty_one(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "threads.json").write_bytes(content)
    assert read_counts(tmp_path / "threads.json") == {}


def test_cores_that_others_need_are_not_free() -> None:
    cores = len(os.sched_getaffinity(0))
    assert 1 <= free_cores(0) <= cores
    assert free_cores(cores) == 1


def chosen_by(place: Path, config: TrainConfig, saved: dict[str, Any] | None = None) -> int:
    place.mkdir()
    run = RunDirectory(place)
    execution = Execution(run, Board(run.board), make_learner(), config)
    execution.resume(saved)
    execution.choose(to_come=MANY)
    count: int = execution.state_dict()["threads"]
    assert count == torch.get_num_threads()
    return count


def test_a_run_has_the_threads_it_asks_for_or_its_checkpoint_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.execution.free_cores", lambda taken: 4 - taken)
    monkeypatch.setattr(threads, "run", lambda *_: pytest.fail("measured"))
    measured, asked = TrainConfig(executor="eager"), TrainConfig(executor="eager", threads=3)
    saved = {"executor": "eager", "precision": "float32", "threads": 2}
    assert chosen_by(tmp_path / "asked", asked) == 3
    assert [event["threads"] for event in read_lines(tmp_path / "asked" / "events.jsonl")] == [3]
    assert chosen_by(tmp_path / "resumed", measured, saved) == 2
    assert not (tmp_path / "resumed" / "events.jsonl").exists()
    # On a machine with fewer cores it goes on all the same, and says that it is not bit-exact.
    assert chosen_by(tmp_path / "smaller", measured, {**saved, "threads": 16}) == 4
    (event,) = read_lines(tmp_path / "smaller" / "events.jsonl")
    assert event["kind"] == "execution_differs" and "16 → 4" in event["message"]


def test_collectors_and_the_sampler_keep_their_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.execution.free_cores", lambda taken: 4 - taken)
    monkeypatch.setattr(threads, "user_cache", lambda: tmp_path)
    monkeypatch.setattr(threads, "run", lambda *_: 1.0 / torch.get_num_threads())
    config = TrainConfig(executor="eager", online_steps=1000, online=OnlineConfig(collectors=2))
    assert chosen_by(tmp_path / "online", config) == 1
    assert chosen_by(tmp_path / "offline", replace(config, online_steps=0)) == 2
