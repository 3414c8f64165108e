"""When the supervisor starts an evaluation; the processes are real ones that end at once."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from agent.board import CollectorSlot, Phase, Slot
from agent.child import Child
from agent.config import OnlineConfig, TrainConfig
from agent.evaluations import Evaluations
from agent.run_directory import RunDirectory
from agent.supervisor import Supervisor

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
