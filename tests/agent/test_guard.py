"""The guard's arithmetic, and what the learner does about an alarm and about the best evaluation."""

from __future__ import annotations

import json
import os
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agent import checkpoint
from agent.algorithms.base import Algorithm
from agent.algorithms.sac import SAC
from agent.board import Board, Slot
from agent.checkpoint_writer import CheckpointWriter
from agent.config import GuardConfig
from agent.evaluations import switch_report
from agent.evaluator import record_score
from agent.files import Follower, read_lines
from agent.guard import Guard, squared_error
from agent.oversight import Oversight
from agent.run_directory import RunDirectory
from agent.scores import student, summarize
from agent.training_log import TrainingLog
from envs.catalog import Task
from tests.agent.learners import learn, make_algorithm, make_learner
from tests.faults.test_full_disk_training import fill
from tests.small_disk import mounted


def score(label: str, mean: float, *, std: float = 1.0, episodes: int = 26, version: int = 1) -> dict[str, Any]:
    of = {"policy_version": version, "updates": 10 * version}
    return {"label": label, "mean": mean, "std": std, "episodes": episodes, **of}


PRETRAINED = score("pretrained", 10.0, episodes=101)


def test_an_alarm_needs_the_window_s_mean_below_the_floor_not_one_bad_evaluation() -> None:
    guard = Guard(GuardConfig(window=2))
    assert guard.add(PRETRAINED) is None
    assert guard.add(score("curve", 5.0, version=2)) is None  # the window is not full
    assert guard.add(score("curve", 14.9, version=3)) is None  # a mean of 9.95
    assert guard.add(score("curve", 4.0, version=4)) is not None


@pytest.mark.parametrize(("errors", "alarms"), [(2.0, True), (2.6, False)])
def test_the_floor_counts_the_errors_of_both_means(errors: float, alarms: bool) -> None:
    guard = Guard(GuardConfig(window=2, standard_errors=errors))
    guard.add(PRETRAINED)
    guard.add(score("curve", 9.6, version=2))
    # The deviations are the episodes' own: SE² = 1/100 + (1/25 + 1/25)/4 = 0.03, and 0.4 below J(π0) is 2.31 of them.
    assert (guard.add(score("curve", 9.6, version=3)) is not None) == alarms


def test_the_error_of_a_mean_is_the_one_that_its_interval_has() -> None:
    rng = np.random.default_rng(0)
    for episodes in (2, 5, 20):
        it = summarize(Task(id="Anything-v0"), rng.normal(size=episodes), np.ones(episodes), None)
        assert it.ci is not None
        half = student(episodes - 1) * np.sqrt(squared_error(it.to_json()))
        assert it.ci == pytest.approx((it.mean - half, it.mean + half))


@pytest.mark.parametrize("errors", [2.0, 0.0])
def test_single_episodes_raise_no_alarm(errors: float) -> None:
    guard = Guard(GuardConfig(window=1, standard_errors=errors))
    guard.add(score("pretrained", 10.0, std=0.0, episodes=1))
    assert guard.add(score("curve", -1e9, std=0.0, episodes=1, version=2)) is None


def test_after_an_alarm_older_policies_count_no_more_and_the_pause_ends() -> None:
    guard = Guard(GuardConfig(window=1, pause_steps=500))
    guard.add(PRETRAINED)
    assert guard.add(score("curve", 0.0, version=5))
    guard.hold(online_steps=1000, since=9)
    assert guard.holds(1499)
    assert not guard.holds(1500)
    assert guard.add(score("curve", 0.0, version=8)) is None
    resumed = Guard(GuardConfig(window=1, pause_steps=500))
    resumed.load_state_dict(guard.state_dict())
    assert resumed.holds(1200)
    assert resumed.add(score("curve", 0.0, version=7)) is None
    resumed.add(PRETRAINED)
    assert resumed.add(score("curve", 0.0, version=9))


def test_a_guard_that_is_off_or_has_no_pretrained_score_says_nothing() -> None:
    for guard in (Guard(GuardConfig(window=1)), Guard(GuardConfig(window=1, enabled=False))):
        assert guard.add(score("curve", -1e9, version=2)) is None
    off = Guard(GuardConfig(window=1, enabled=False))
    off.add(PRETRAINED)
    assert off.add(score("curve", -1e9, version=2)) is None


class Overseen:
    """An oversight of a small learner, with evaluations written as the evaluator writes them."""

    def __init__(self, path: Path, algorithm: Algorithm[Any] | None = None) -> None:
        self.run = RunDirectory(path)
        for folder in (path, self.run.checkpoints):
            folder.mkdir(parents=True, exist_ok=True)
        self.board = Board(self.run.board)
        self.algorithm = algorithm or make_learner(offline_steps=0)
        self.writer = CheckpointWriter(self.run.checkpoints, keep=2)
        log = TrainingLog(self.run, weight_clip=100.0)
        config = GuardConfig(window=1, pause_steps=100)
        self.oversight = Oversight(self.run, config, self.board, self.algorithm, log, self.writer)
        self.published: list[np.ndarray] = []

    def weights(self) -> np.ndarray:
        return np.concatenate([v.ravel() for v in self.algorithm.actor.exported_weights().values()])

    def evaluation(self, label: str, mean: float, *, version: int) -> None:
        self.board[Slot.POLICY_VERSION] = max(version, self.board[Slot.POLICY_VERSION])
        self.run.metric("evaluation", online_steps=0, **score(label, mean, version=version))

    def publish(self) -> None:
        self.published.append(self.weights())
        self.board[Slot.POLICY_VERSION] += 1

    def save(self) -> None:
        state = self.algorithm.state_dict()
        self.writer.submit(self.algorithm.updates, state["tensors"], {}, first=dict)

    def look(self, online_steps: int) -> None:
        self.oversight.look(online_steps=online_steps, save=self.save, publish=self.publish)


@pytest.mark.parametrize("name", ["sac", "wsrl"])
def test_the_temperature_stands_still_while_the_actor_is_held(name: str, tmp_path: Path) -> None:
    it, rng = Overseen(tmp_path, make_algorithm(name, offline_steps=0, policy_delay=1)), np.random.default_rng(0)
    it.evaluation("pretrained", 10.0, version=1)
    it.oversight.begin(online_updates=0, online_steps=0)
    sac = it.algorithm
    assert isinstance(sac, SAC)

    def temperature() -> float:
        learn(sac, rng, 5)
        return sac.temperature().item()

    free = temperature()
    it.evaluation("curve", 0.0, version=2)
    it.look(online_steps=1000)
    held = temperature()
    assert held == free != sac.config.initial_temperature
    it.look(online_steps=1100)
    assert it.board[Slot.ACTOR_PAUSED] == 0 and temperature() != held
    it.writer.close()


def switched(path: Path) -> Overseen:
    """One whose pretrained policy has its score, at the switch."""
    it = Overseen(path)
    it.evaluation("pretrained", 10.0, version=1)
    it.oversight.begin(online_updates=0, online_steps=0)
    return it


def test_an_alarm_publishes_the_pretrained_weights_and_holds_the_actor_while_values_learn(tmp_path: Path) -> None:
    it, rng = Overseen(tmp_path), np.random.default_rng(0)
    pretrained = it.weights()
    it.evaluation("pretrained", 10.0, version=1)
    it.oversight.begin(online_updates=0, online_steps=0)
    learn(it.algorithm, rng, 5)
    assert not np.array_equal(it.weights(), pretrained)
    it.evaluation("curve", 0.0, version=2)
    it.look(online_steps=1000)
    (published,) = it.published
    np.testing.assert_array_equal(published, pretrained)
    values = [p.clone() for p in it.algorithm.networks["critic"].parameters()]
    learn(it.algorithm, rng, 5)
    np.testing.assert_array_equal(it.weights(), pretrained)
    assert any(not torch.equal(a, b) for a, b in zip(values, it.algorithm.networks["critic"].parameters(), strict=True))
    it.look(online_steps=1050)
    assert it.board[Slot.ACTOR_PAUSED] == 1
    it.look(online_steps=1100)
    assert it.board[Slot.ACTOR_PAUSED] == 0
    learn(it.algorithm, rng, 5)
    assert not np.array_equal(it.weights(), pretrained)
    kinds = [event["kind"] for event in read_lines(it.run.events)]
    assert kinds == ["guard", "guard_released"]
    it.writer.close()


def test_a_resumed_learner_goes_back_to_the_pretrained_weights_of_the_first(tmp_path: Path) -> None:
    first = switched(tmp_path)
    pretrained = first.weights()
    first.writer.close()
    second = Overseen(tmp_path)
    learn(second.algorithm, np.random.default_rng(0), 5)
    second.oversight.begin(online_updates=5, online_steps=1000)
    second.evaluation("curve", 0.0, version=2)
    second.look(online_steps=1000)
    np.testing.assert_array_equal(second.published[0], pretrained)
    second.writer.close()


@pytest.mark.parametrize("checkpoint", ["before the alarm", "within the pause"])
def test_a_learner_resumed_past_a_pause_says_its_end_only_where_the_checkpoint_knows_the_pause(
    tmp_path: Path, checkpoint: str
) -> None:
    first = switched(tmp_path)
    before = first.oversight.state_dict()
    learn(first.algorithm, np.random.default_rng(0), 20)
    first.evaluation("curve", 0.0, version=2)
    first.look(online_steps=1000)
    within = first.oversight.state_dict()
    assert (before["paused"], within["paused"], first.board[Slot.ACTOR_PAUSED]) == (0, 1, 1)
    first.writer.close()
    # Killed; meanwhile the collectors have gone past the pause's end at 1,100 steps.
    second = Overseen(tmp_path)
    second.oversight.load_state_dict(before if checkpoint == "before the alarm" else within)
    second.oversight.begin(online_updates=5, online_steps=1200, publish=second.publish)
    kinds = [event["kind"] for event in read_lines(second.run.events)]
    if checkpoint == "within the pause":
        assert (kinds, second.board[Slot.ACTOR_PAUSED]) == (["guard", "guard_released"], 0)
    else:  # the policy that raised the alarm is here again
        assert (kinds, second.board[Slot.ACTOR_PAUSED], len(second.published)) == (["guard", "guard"], 1, 1)
    second.writer.close()


def test_an_alarm_whose_evaluation_ended_while_no_learner_was_there_is_acted_on(tmp_path: Path) -> None:
    first = switched(tmp_path)
    pretrained = first.weights()
    first.writer.close()
    first.evaluation("curve", 0.0, version=2)
    second = Overseen(tmp_path)
    learn(second.algorithm, np.random.default_rng(0), 5)
    second.oversight.begin(online_updates=5, online_steps=1000, publish=second.publish)
    (published,) = second.published
    np.testing.assert_array_equal(published, pretrained)
    assert second.board[Slot.ACTOR_PAUSED] == 1
    second.look(online_steps=1001)
    assert len(second.published) == 1
    second.writer.close()


def test_an_alarm_dealt_with_by_a_learner_that_had_lost_updates_is_not_raised_again(tmp_path: Path) -> None:
    first = switched(tmp_path)
    before = first.oversight.state_dict()
    learn(first.algorithm, np.random.default_rng(0), 20)
    first.evaluation("curve", 0.0, version=2)
    first.look(online_steps=1000)
    first.writer.close()
    # Killed before its next checkpoint: the next has fewer updates than the policies scored so far.
    second = Overseen(tmp_path)
    learn(second.algorithm, np.random.default_rng(0), 5)
    second.oversight.load_state_dict(before)
    second.oversight.begin(online_updates=5, online_steps=1000, publish=second.publish)
    assert len(second.published) == 1
    after = second.oversight.state_dict()
    second.writer.close()
    third = Overseen(tmp_path)
    third.oversight.load_state_dict(after)
    third.oversight.begin(online_updates=5, online_steps=1050, publish=third.publish)
    assert third.published == []
    third.evaluation("curve", 0.0, version=third.board[Slot.POLICY_VERSION])
    third.look(online_steps=1060)
    assert len(third.published) == 1, "a policy since the alarm counts"
    third.writer.close()


def test_checkpoints_of_evaluations_that_failed_are_pruned_like_any_other(tmp_path: Path) -> None:
    it, rng = switched(tmp_path), np.random.default_rng(0)
    for version in range(2, 9):  # none of them ever gets its score
        learn(it.algorithm, rng, 10)
        it.board[Slot.SCORED_VERSION] = version
        it.look(online_steps=0)
        assert it.writer.wait() is None
        assert it.writer.spare == {f"{it.algorithm.updates:09d}"}
    assert len(checkpoint.complete(it.run.checkpoints)) <= 3
    it.evaluation("curve", 5.0, version=8)
    it.look(online_steps=0)
    assert json.loads(it.run.best.read_text())["policy_version"] == 8
    it.writer.close()


def test_an_evaluation_that_turns_out_best_on_a_full_disk_is_noted_when_there_is_space(tmp_path: Path) -> None:
    with mounted(tmp_path, "8m") as disk:
        it = switched(disk / "run")
        learn(it.algorithm, np.random.default_rng(0), 10)
        it.board[Slot.SCORED_VERSION] = 2
        it.look(online_steps=0)
        assert it.writer.wait() is None
        it.evaluation("curve", 20.0, version=2)
        fill(disk / "filler")
        it.look(online_steps=0)
        it.look(online_steps=0)
        assert not it.run.best.exists()
        assert it.writer.spare == {"000000010"}
        (disk / "filler").unlink()
        it.look(online_steps=0)
        assert json.loads(it.run.best.read_text())["checkpoint"] == "000000010"
        it.writer.close()


def test_an_evaluation_that_waits_for_space_shows_signs_of_life(tmp_path: Path) -> None:
    with mounted(tmp_path, "1m") as disk:
        run = RunDirectory(disk)
        beat = disk / "beat"
        beat.touch()
        fill(disk / "filler")
        writing = threading.Thread(target=record_score, args=(run, beat), kwargs=score("curve", 1.0), daemon=True)
        writing.start()
        for _ in range(2):
            os.utime(beat, (0.0, 0.0))
            end = time.monotonic() + 20.0
            while beat.stat().st_mtime == 0.0:
                assert time.monotonic() < end, "no sign of life"
                time.sleep(0.01)
        (disk / "filler").unlink()
        writing.join(20.0)
        assert [record["mean"] for record in run.evaluations()] == [1.0]


def published(run: RunDirectory, *versions: int) -> None:
    run.policies.mkdir(exist_ok=True)
    for version in versions:
        for suffix in ("", ".sha256"):
            (run.policies / f"v{version:06d}.onnx{suffix}").touch()


def test_a_pretrained_policy_scored_before_the_switch_is_the_best_until_another_is_better(tmp_path: Path) -> None:
    it, rng = Overseen(tmp_path), np.random.default_rng(0)
    published(it.run, 1)
    learn(it.algorithm, rng, 10)
    it.evaluation("pretrained", 10.0, version=1)
    for _ in range(2):  # the second as after a restart within the warm-up
        it.oversight.begin(online_updates=0, online_steps=0, publish=it.publish)
        assert it.writer.spare == {"000000010"}
    learn(it.algorithm, rng, 10)
    it.board[Slot.SCORED_VERSION] = 2
    it.look(online_steps=0)
    it.evaluation("curve", 9.0, version=2)
    it.look(online_steps=0)
    assert json.loads(it.run.best.read_text())["checkpoint"] == "000000010"
    assert it.writer.spare == {"000000010"}
    it.writer.close()


def test_the_first_version_s_score_never_belongs_to_a_later_checkpoint(tmp_path: Path) -> None:
    it = Overseen(tmp_path)
    published(it.run, 1, 2)
    it.oversight.begin(online_updates=0, online_steps=0)  # nothing pretrained: no checkpoint is of it
    assert it.writer.spare == set()
    learn(it.algorithm, np.random.default_rng(0), 10)
    it.board[Slot.SCORED_VERSION] = 1  # scored late, or again after it failed
    it.look(online_steps=0)
    it.evaluation("pretrained", 10.0, version=1)
    it.look(online_steps=0)
    assert not it.run.best.exists()
    it.writer.close()


def test_the_best_evaluation_s_checkpoint_outlives_newer_ones(tmp_path: Path) -> None:
    it, rng = Overseen(tmp_path), np.random.default_rng(0)
    learn(it.algorithm, rng, 3)
    it.oversight.begin(online_updates=0, online_steps=0)
    it.save()
    it.evaluation("pretrained", 0.5, version=0)
    it.look(online_steps=0)
    assert json.loads(it.run.best.read_text())["checkpoint"] == "000000003"
    means = {2: 1.0, 3: 5.0, 4: 3.0, 5: 4.0, 6: 2.0}
    for version, mean in means.items():
        learn(it.algorithm, rng, 10)
        it.board[Slot.SCORED_VERSION] = version  # the supervisor starts an evaluation
        it.look(online_steps=0)
        learn(it.algorithm, rng, 1)
        it.save()
        assert it.writer.wait() is None
        it.evaluation("curve", mean, version=version)
        it.look(online_steps=0)
    it.save()
    assert it.writer.wait() is None
    best = json.loads(it.run.best.read_text())
    # The third version was scored from the state after 3 + 10 + 1 + 10 updates.
    assert (best["checkpoint"], best["mean"], best["policy_version"]) == ("000000024", 5.0, 3)
    kept = [path.name for path in checkpoint.complete(it.run.checkpoints)]
    assert kept[0] == best["checkpoint"]
    assert len(kept) == 3  # and the newest two
    assert checkpoint.is_loadable(it.run.checkpoints / best["checkpoint"])
    it.writer.close()
    again = Overseen(tmp_path)
    assert again.writer.spare == {best["checkpoint"]}
    again.writer.close()


def test_a_follower_sees_each_line_once_and_none_by_halves(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    follower = Follower(path)
    assert follower.new() == []
    path.write_bytes(b'{"a":1}\n{"b"')
    assert follower.new() == [{"a": 1}]
    assert follower.new() == []
    with path.open("ab") as file:
        file.write(b':2}\nbroken\n{"c":3}\n')
    assert follower.new() == [{"b": 2}, {"c": 3}]


def test_a_follower_of_one_kind_holds_nothing_else_of_a_long_file(tmp_path: Path) -> None:
    # A learner reads its run's metrics at every start: a long run must not make its successors larger.
    path, other = tmp_path / "lines.jsonl", json.dumps({"kind": "train", **{f"figure_{n}": 0.5 for n in range(50)}})
    scores = [json.dumps({"kind": "evaluation", "n": n}) for n in range(3)]
    path.write_text("".join(f"{line}\n" for score in scores for line in [*[other] * 2000, score]))
    tracemalloc.start()
    found = Follower(path).new("evaluation")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [record["n"] for record in found] == [0, 1, 2]
    assert read_lines(path, "evaluation") == found
    assert peak < 100_000 < path.stat().st_size


@pytest.mark.parametrize(("mean", "recipe"), [(10.0, "default"), (10.5, "fast"), (9.5, "safe")])
def test_the_switch_report_names_a_recipe_by_the_lead_over_the_data(mean: float, recipe: str) -> None:
    lone = switch_report(score("pretrained", mean, std=0.0, episodes=1), 10.0, comparable=True)
    assert (lone["standard_error"], lone["suggested"]) == (None, "default")
    report = switch_report(score("pretrained", mean), 10.0, comparable=True)
    assert report == {"pretrained": mean, "standard_error": 0.2, "dataset": 10.0, "suggested": recipe}
    other = switch_report(score("pretrained", mean), 10.0, comparable=False)
    assert other == {**report, "suggested": None}
