"""Whoever acts in the policy's place: executed, stored and flagged so, learned from in both halves of the batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agent.board import Board
from agent.errors import ConfigError
from agent.feeding import Feed
from agent.interventions import FIELD, Intervention
from agent.learner import Learner
from agent.own_code import find_factory
from agent.run_directory import RunDirectory
from agent.training import train
from replay.store import Store
from tests.agent.test_lockstep import STEPS, config_of, live, started

MODULE = "tests.agent.interveners"
ZEROS = np.zeros(2, np.float32)


@pytest.fixture(scope="module")
def corrected(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A whole run with interventions, stopped and resumed in its middle."""
    run = started(tmp_path_factory.mktemp("corrected"), "run", intervention=f"{MODULE}:Push")
    assert not live(run, until=lambda board: board.online_steps() >= 170)
    assert live(run)
    return run


def test_steps_are_stored_as_executed_and_flagged(corrected: RunDirectory) -> None:
    episodes = list(Store.open(corrected.replay).episodes())
    assert sum(len(episode.rewards) for episode in episodes) >= STEPS - 1
    assert len(episodes) > 3
    for episode in episodes:
        # The last step of a stream has no successor yet and is left out of its episode.
        due = np.arange(1, len(episode.rewards) + 1) % 4 == 0
        assert episode.intervention.tolist() == due.tolist()
        assert (episode.actions[due] == 1.0).all(), "clipped to the bounds and executed"
        assert (np.abs(episode.actions[~due]) < 1.0).any()


def test_interventions_are_sampled_into_both_halves(corrected: RunDirectory) -> None:
    learner = Learner(corrected, corrected.load_config(), Board(corrected.board), lambda: False)
    assert learner.restore()
    mixed = learner.batches.mix()
    learner.batches.online_reader.refresh()
    size = learner.config.algorithm.batch_size
    counts = np.zeros(2)
    with Feed(mixed, learner.prepare, ahead=0):
        for _ in range(200):
            flags = mixed.next().intervention > 0
            counts += flags[: size // 2].sum(), flags[size // 2 :].sum()
    learner.writer.close()
    offline, online = counts / (200 * size / 2)
    flagged = sum(int(e.intervention.sum()) for e in Store.open(corrected.replay).episodes())
    assert online == pytest.approx(0.25, abs=0.06)
    assert offline == pytest.approx(flagged / (flagged + learner.store.num_rows), abs=0.06)


def test_a_spec_that_names_nothing_to_call_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    config = config_of(tmp_path, "new")
    for spec, words in (
        ("brakes", "module:name"),
        ("no_such_module:make", "no module named no_such_module"),
        (f"{MODULE}:make", "has no make"),
        (f"{MODULE}:number", "is of type int"),
        (f"{MODULE}:nothing", "returned a NoneType, which cannot be called"),
        (f"{MODULE}:no_device", "its factory raised ConnectionError: the gamepad is not plugged in"),
        (f"{MODULE}:leaves", "its factory: ended with exit code 3"),
    ):
        with pytest.raises(ConfigError, match=r"^online\.intervention: ") as refused:
            train(replace(config, online=replace(config.online, intervention=spec)))
        assert words in str(refused.value)
        assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("factory", "words"),
    [("no_device", "its factory raised ConnectionError: the gamepad is not"), ("nothing", "returned a NoneType")],
)
def test_a_factory_that_fails_is_refused(factory: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Intervention(f"{MODULE}:{factory}", 2)


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("too_wide", "return 2 finite numbers, or None"),
        ("not_finite", "return 2 finite numbers, or None"),
        ("words", "'left'"),
        ("unplugged", "raised ConnectionError: the gamepad was unplugged"),
    ],
)
def test_an_answer_that_is_no_action_is_refused(factory: str, words: str) -> None:
    intervention = Intervention(f"{MODULE}:{factory}", 2)
    intervention.reset()
    with pytest.raises(ConfigError, match=words):
        intervention(ZEROS, ZEROS)


def test_the_policy_sees_nothing_of_what_an_intervener_does_to_its_arguments() -> None:
    assert find_factory(f"{MODULE}:Push", named_by=FIELD)
    observation, action = np.ones(3, np.float32), np.ones(2, np.float32)
    intervention = Intervention(f"{MODULE}:Push", 2)
    assert intervention(observation, action) is not None
    assert (observation == 1.0).all()
    assert (action == 1.0).all()
