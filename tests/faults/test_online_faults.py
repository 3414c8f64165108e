"""One fine-tuning through all that can befall it: learner, collector and supervisor killed, SIGTERM, and on to its end.

The acts follow one another on one run (a start costs seconds): the learner is killed with -9, then SIGTERM stops the
agent; it is resumed, its collector killed, then the supervisor itself; it is resumed once more and ends. Each act is a
fixture that tells what was seen; the tests state the promises.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replay.schema import META_COLUMNS
from replay.store import Store
from tests.faults.agent import Agent, Rows, alive, events, lines
from tests.faults.conftest import PRETRAIN_STEPS, TOLERANCE_STEPS, UTD, WARMUP_STEPS
from tests.integration.command import run

ONLINE_STEPS = 2400
GOAL = slice(2, 4)
COMMAND = ("finetune", "tuned", "--online-steps", ONLINE_STEPS, "--json")


@dataclass(frozen=True, kw_only=True)
class Act:
    """What was seen in one life of the agent."""

    before: Rows
    """The online store just before the first kill of this act."""
    after: Rows
    """The online store when the agent had ended."""
    status: dict[str, Any]
    """The last status.json."""
    events: list[dict[str, Any]]
    """Incidents of this act alone."""
    code: int = 0
    """Exit code of the agent."""
    seconds: float = 0.0
    """From the signal that ended it until it and its children were gone."""
    second_agent: subprocess.CompletedProcess[str] | None = None
    """The same command, given while the agent ran."""
    said: dict[str, Any] | None = None
    """JSON that the agent printed."""
    pid: int = 0
    """Process id of the agent."""


def status_of(path: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((path / "status.json").read_text())
    return record


@pytest.fixture(scope="module")
def tuned(place: Path, copy_of_pretrained: Callable[[str], Path]) -> Path:
    """The run under attack: a copy of the pretrained one."""
    return copy_of_pretrained("tuned")


@pytest.fixture(scope="module")
def learner_killed(place: Path, tuned: Path) -> Act:
    """Kill the learner before its first online checkpoint, let it come back, stop the agent by SIGTERM."""
    with Agent(*COMMAND, cwd=place, run=tuned) as agent:
        agent.wait_online(updates=20)
        before = Rows.of(tuned / "replay.zarr")
        first = agent.kill("learner")
        second_agent = run(*COMMAND, cwd=place)
        agent.wait_for("another learner", lambda: agent.children().get("learner", first) != first)
        agent.wait_for("the learner's resume", lambda: any(e["kind"] == "limiter_rebased" for e in events(tuned)))
        agent.wait_online(steps=len(before) + 50, updates=50)
        code, seconds = agent.stop()
        said = json.loads(agent.process.communicate()[0])
    return Act(
        before=before, after=Rows.of(tuned / "replay.zarr"), status=status_of(tuned), events=events(tuned), code=code,
        seconds=seconds, second_agent=second_agent, said=said, pid=agent.process.pid,
    )  # fmt: skip


@pytest.fixture(scope="module")
def supervisor_killed(place: Path, tuned: Path, learner_killed: Act) -> Act:
    """Resume, kill a collector, let it come back, then kill the supervisor itself."""
    # As if the stop had come before the first evaluation was through: it is made up for now.
    kept = [record for record in lines(tuned / "metrics.jsonl") if record["kind"] != "evaluation"]
    (tuned / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in kept))
    with Agent(*COMMAND, cwd=place, run=tuned) as agent:
        agent.wait_online(steps=learner_killed.status["online_steps"] + 50)
        before = Rows.of(tuned / "replay.zarr")
        first = agent.kill("collector")
        agent.wait_for("another collector", lambda: agent.children().get("collector", first) != first)
        agent.wait_online(steps=len(before) + 150)
        # At least one online checkpoint lies behind, and a published version that it does not know of.
        agent.wait_for("a checkpoint", lambda: len(list((tuned / "checkpoints").glob("0*"))) > 3)
        children = agent.children()
        started = time.monotonic()
        agent.process.kill()
        agent.process.wait()
        while any(alive(pid) for pid in children.values()) and time.monotonic() - started < 30.0:
            time.sleep(0.02)
        seconds = time.monotonic() - started
    return Act(
        before=before, after=Rows.of(tuned / "replay.zarr"), status=status_of(tuned),
        events=events(tuned)[len(learner_killed.events) :], seconds=seconds,
    )  # fmt: skip


@pytest.fixture(scope="module")
def completed(place: Path, tuned: Path, learner_killed: Act, supervisor_killed: Act) -> Act:
    """Resume once more and go to the end."""
    with Agent(*COMMAND, cwd=place, run=tuned) as agent:
        said = agent.finish()
    return Act(
        before=supervisor_killed.after, after=Rows.of(tuned / "replay.zarr"), status=status_of(tuned),
        events=events(tuned)[len(learner_killed.events) + len(supervisor_killed.events) :], said=said,
    )  # fmt: skip


# --- one fault after the other --------------------------------------------------------------------------------------


def test_a_killed_learner_is_restarted_and_the_incident_recorded(learner_killed: Act) -> None:
    (restart,) = [event for event in learner_killed.events if event["kind"] == "restart"]
    assert restart["process"] == "learner"
    assert restart["exit_code"] == -9


def test_updates_lost_with_the_learner_are_forgiven_not_burst(learner_killed: Act) -> None:
    """It fell back to the end of pretraining: the updates since are not made up for while collectors wait."""
    (rebased,) = [event for event in learner_killed.events if event["kind"] == "limiter_rebased"]
    assert rebased["deficit"] > 0
    resumed = [event["updates"] for event in learner_killed.events if event["kind"] == "resumed"]
    assert resumed == [PRETRAIN_STEPS, PRETRAIN_STEPS]


def test_a_second_agent_on_the_run_is_refused_with_the_pid_of_the_first(learner_killed: Act) -> None:
    second = learner_killed.second_agent
    assert second is not None
    assert second.returncode == 2
    (line,) = second.stderr.splitlines()
    assert f"pid {learner_killed.pid}" in line
    assert "another --out" in line


def test_sigterm_while_fine_tuning_exits_0_within_ten_seconds(learner_killed: Act) -> None:
    assert learner_killed.code == 0
    assert learner_killed.seconds < 10.0
    assert learner_killed.said is not None
    assert learner_killed.said["finished"] is False
    assert not [event for event in learner_killed.events if event["kind"] == "killed"]


def test_every_step_of_a_stopped_run_can_be_sampled(learner_killed: Act, tuned: Path) -> None:
    """The stop cut the running episode, so that its last step has a successor."""
    spec = Store.open(tuned / "replay.zarr").spec
    (rows,) = learner_killed.after.rows.values()
    valid, first = rows[:, spec.offsets["valid"]] > 0, rows[:, spec.offsets["first"]] > 0
    assert int(valid.sum()) == learner_killed.status["online_steps"] > WARMUP_STEPS
    assert not valid[-1]
    assert not (valid[:-1] & first[1:]).any()


def test_a_stop_saves_everything_and_counters_go_on_after_the_resume(
    learner_killed: Act, supervisor_killed: Act, completed: Act
) -> None:
    resumed = [e["updates"] for e in supervisor_killed.events if e["kind"] == "resumed"]
    assert resumed == [PRETRAIN_STEPS + learner_killed.status["online_updates"]]
    assert supervisor_killed.status["online_steps"] >= learner_killed.status["online_steps"]
    assert completed.status["online_steps"] >= ONLINE_STEPS
    for act in (learner_killed, supervisor_killed, completed):
        assert act.status["pretrain_step"] == PRETRAIN_STEPS


def test_a_killed_collector_is_restarted_and_the_incident_recorded(supervisor_killed: Act) -> None:
    (restart,) = [event for event in supervisor_killed.events if event["kind"] == "restart"]
    assert restart["process"] == "collector-000"
    assert restart["exit_code"] == -9


def test_children_of_a_killed_supervisor_die_within_seconds(supervisor_killed: Act) -> None:
    assert supervisor_killed.seconds < 10.0


def test_a_killed_supervisor_s_run_completes_by_the_same_command(completed: Act) -> None:
    assert completed.said is not None
    assert completed.said["finished"] is True
    assert {"pretrained", "finetuned"} <= completed.said.keys()
    assert completed.status["phase"] == "done"
    assert [event["kind"] for event in completed.events if event["kind"] == "resumed"] == ["resumed"]


# --- what holds over all of them ------------------------------------------------------------------------------------


def test_no_committed_row_was_ever_lost_or_rewritten(
    learner_killed: Act, supervisor_killed: Act, completed: Act
) -> None:
    story = [
        learner_killed.before, learner_killed.after, supervisor_killed.before, supervisor_killed.after, completed.after,
    ]  # fmt: skip
    for earlier, later in itertools.pairwise(story):
        assert earlier.is_prefix_of(later)
        assert len(earlier) < len(later)


def test_no_step_was_stored_twice(completed: Act, tuned: Path) -> None:
    spec = Store.open(tuned / "replay.zarr").spec
    steps = 0
    for stream, rows in completed.after.rows.items():
        valid = rows[:, spec.offsets["valid"]] > 0
        times = completed.after.meta[stream][valid, META_COLUMNS.index("t_mono_ns")]
        assert (np.diff(times) > 0).all()
        steps += int(valid.sum())
    assert steps == completed.status["online_steps"]


def test_no_episode_was_glued_together_from_two(completed: Act, tuned: Path) -> None:
    episodes = list(Store.open(tuned / "replay.zarr").episodes())
    assert len(episodes) > 10
    for episode in episodes:
        assert (episode.observations[:, GOAL] == episode.observations[0, GOAL]).all()
        assert np.linalg.norm(np.diff(episode.observations[:, :2], axis=0), axis=1).max() < 0.6
        assert (np.diff(episode.policy_version) >= 0).all()
    assert sum(episode.interrupted for episode in episodes) <= 5


def test_policy_versions_never_go_back_across_restarts(completed: Act) -> None:
    for meta in completed.after.meta.values():
        assert (np.diff(meta[:, META_COLUMNS.index("policy_version")]) >= 0).all()
        assert meta[0, 0] >= 1


def test_the_pretrained_score_is_of_the_pretrained_policy_however_late_it_is_taken(completed: Act, tuned: Path) -> None:
    (scored,) = [record for record in lines(tuned / "metrics.jsonl") if record.get("label") == "pretrained"]
    assert scored["updates"] == PRETRAIN_STEPS
    (final,) = [record for record in lines(tuned / "metrics.jsonl") if record.get("label") == "finetuned"]
    assert final["updates"] > PRETRAIN_STEPS


def test_the_ratio_holds_from_the_last_restart_to_the_end(completed: Act, tuned: Path) -> None:
    newest = (tuned / "checkpoints" / "LATEST").read_text()
    limiter = json.loads((tuned / "checkpoints" / newest / "state.json").read_text())["limiter"]
    steps = completed.status["online_steps"] - limiter["base_steps"]
    updates = completed.status["online_updates"] - limiter["base_updates"]
    assert abs(UTD * steps - updates) <= UTD * TOLERANCE_STEPS + 1
