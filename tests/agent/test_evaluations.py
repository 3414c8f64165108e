"""When the supervisor starts an evaluation; the processes are real ones that end at once."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from agent.board import CollectorSlot, Phase, Slot
from agent.child import Child
from agent.commands.train import report
from agent.config import EvaluationConfig, OnlineConfig, TrainConfig
from agent.evaluations import Evaluations
from agent.files import read_lines
from agent.run_directory import RunDirectory
from agent.supervisor import Supervisor
from agent.training import summary
from tests.agent_report.runs import evaluation, make_run_in

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    monkeypatch.chdir(ROOT)
    run = RunDirectory(tmp_path / "run")
    run.save_config(TrainConfig())
    return run


def evaluations(run: RunDirectory, config: TrainConfig) -> tuple[Supervisor, Evaluations]:
    """Of a run whose first version is published and whose warm-up has begun."""
    run.policies.mkdir(parents=True, exist_ok=True)
    for suffix in (".onnx", ".onnx.sha256"):
        (run.policies / f"v000001{suffix}").touch()
    supervisor = Supervisor(run, config, stopping=lambda: False)
    supervisor.board[Slot.POLICY_VERSION] = 1
    supervisor.board[Slot.PHASE] = Phase.WARMUP

    def make_child(name: str, command: list[str]) -> Child:
        return Child(
            name=name, command=["tests.agent.child", str(run.board), str(run.path / "starts"), "is refused"],
            log=run.logs / f"{name}.log",
        )  # fmt: skip

    return supervisor, Evaluations(run, config, supervisor.board, supervisor.incidents, make_child)


def names(it: Evaluations) -> list[str]:
    for child in it.running:
        child.kill()
    return [child.name for child in it.running]


def test_the_pretrained_policys_evaluation_waits_for_the_first_online_step(run: RunDirectory) -> None:
    supervisor, it = evaluations(run, TrainConfig(online_steps=10_000))
    it.keep(final=False)
    assert names(it) == []
    supervisor.board.collector(0)[CollectorSlot.STEPS] = 1
    it.keep(final=False)
    assert names(it) == ["evaluation-pretrained-0"]


@pytest.mark.parametrize(
    "config",
    [TrainConfig(online_steps=0), TrainConfig(online_steps=10_000, online=OnlineConfig(collectors=0))],
    ids=["pretraining alone", "lockstep"],
)
def test_where_no_collector_is_to_step_it_starts_at_once(run: RunDirectory, config: TrainConfig) -> None:
    _, it = evaluations(run, config)
    it.keep(final=False)
    assert names(it) == ["evaluation-pretrained-0"]


def test_a_score_wanted_by_a_learner_that_died_is_wanted_no_more(run: RunDirectory) -> None:
    # The next learner may stand elsewhere when another evaluation makes way for it.
    config = TrainConfig(online_steps=20_000, online=OnlineConfig(collectors=0))
    supervisor, it = evaluations(run, config)
    board = supervisor.board
    board[Slot.PHASE] = Phase.ONLINE
    it.keep(final=False)
    assert names(it) == ["evaluation-pretrained-0"]
    board[Slot.SCORE_WANTED] = 10_000
    supervisor.learner.process = subprocess.Popen(["false"])
    supervisor.learner.process.wait()
    assert not supervisor.watch_learner()
    it.keep(final=False)  # collects the pretrained policy's
    assert names(it) == []
    board[Slot.SCORE_WANTED] = 10_000
    it.keep(final=False)
    assert names(it) == ["evaluation-curve-10000"]


def test_a_point_of_the_curve_is_scored_at_its_step_or_left_out(run: RunDirectory) -> None:
    # Scored later it would bear the step of a policy that is gone: the guard and BEST would judge by another.
    config = TrainConfig(online_steps=60_000, evaluation=EvaluationConfig(every_steps=10_000))
    supervisor, it = evaluations(run, config)
    board = supervisor.board
    board[Slot.PHASE] = Phase.ONLINE
    started = []
    for steps, ends in ((9_000, False), (10_010, False), (14_000, True), (14_010, False), (20_020, False)):
        board.collector(0)[CollectorSlot.STEPS] = steps
        it.keep(final=False)
        started.append([child.name for child in it.running])
        for child in it.running if ends else ():
            child.kill()
    # The pretrained policy's ends at 14,000 steps: the point at 10,000 had its turn while it ran.
    assert started == [["evaluation-pretrained-0"]] * 3 + [[], ["evaluation-curve-20000"]]
    names(it)


def test_after_a_stop_no_point_of_before_is_scored_with_the_policy_of_now(run: RunDirectory) -> None:
    config = TrainConfig(online_steps=60_000, evaluation=EvaluationConfig(every_steps=10_000))
    supervisor, _ = evaluations(run, config)
    supervisor.board.collector(0)[CollectorSlot.STEPS] = 17_000  # the agent before was stopped here
    supervisor, it = evaluations(run, config)
    supervisor.board[Slot.PHASE] = Phase.ONLINE
    it.keep(final=False)
    assert names(it) == ["evaluation-pretrained-0"]
    it.keep(final=False)
    assert names(it) == []
    supervisor.board.collector(0)[CollectorSlot.STEPS] = 20_001
    it.keep(final=False)
    assert names(it) == ["evaluation-curve-20000"]


def test_data_of_another_reward_count_names_no_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kwargs = {"remove_task_when_completed": False, "terminate_on_tasks_completed": False}
    kitchen = {"id": "FrankaKitchen-v1", "kwargs": kwargs, "max_episode_steps": 280}
    run = make_run_in(tmp_path, evaluation("pretrained", 0, 1.5, (1.4, 1.6)), env=kitchen)
    supervisor = Supervisor(run, run.load_config(), stopping=lambda: False)
    supervisor.evaluations._report_switch()
    (event,) = read_lines(run.events)
    assert event["switch"]["suggested"] is None
    assert event["message"] == "pretrained 1.5 ± 0.03, data 0.275, its rewards counted otherwise: no recipe follows"
    outcome = {**summary(run, run.load_config()), "finished": True}
    assert outcome["dataset"] == {"mean": 0.275, "comparable": False}
    assert report(outcome, as_json=False) == 0
    assert "does not compare" in capsys.readouterr().out
