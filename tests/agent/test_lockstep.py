"""Lockstep: a fine-tuning that is killed or stopped ends bit for bit as an undisturbed one, in weights and in rows."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box

from agent import checkpoint
from agent.algorithms.iql_config import IQLConfig
from agent.board import Board, CollectorSlot, Phase, Slot
from agent.child import Child
from agent.config import CheckpointConfig, EvaluationConfig, GuardConfig, OnlineConfig, TrainConfig
from agent.config_files import validate
from agent.errors import ConfigError, RunError
from agent.evaluations import Evaluations
from agent.incidents import Incidents
from agent.learner import Learner
from agent.lockstep import refuse_several
from agent.run_directory import RunDirectory
from agent.setup_run import set_up
from envs.make import describe, make_env
from export.template import Template
from replay.schema import StoreSpec
from replay.store import Store
from tests.faults.agent import events
from tests.integration.command import ROOT

HOPPER = "Hopper-v5"
WARMUP, STEPS, UTD = 60, 260, 0.5
SEEDS = np.random.SeedSequence(0)


class Drift(gymnasium.Env[Any, Any]):
    """Observes how many steps its process has taken in all: no seed repeats that."""

    observation_space = Box(-1e6, 1e6, (2,), np.float64)
    action_space = Box(-1.0, 1.0, (1,), np.float32)
    taken = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.np_random.uniform(size=2), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        Drift.taken += 1
        return np.array([float(action[0]), Drift.taken]), 0.0, False, False, {}


gymnasium.register("Drift-v0", Drift, max_episode_steps=20, disable_env_checker=True)


def make_data(path: Path, env_id: str) -> None:
    """A few random episodes."""
    env, rng = make_env(env_id, max_episode_steps=40), np.random.default_rng(0)
    described = describe(env)
    spec = StoreSpec.from_terms(
        described["observation"], described["action_low"], described["action_high"], env=described["env"]
    )
    with Store.create(path, spec).writer("data", durability="process") as writer:
        for episode in range(8):
            observation, _ = env.reset(seed=episode)
            first, ended = True, False
            while not ended:
                action = rng.uniform(env.action_low, env.action_high).astype(np.float32)
                following, reward, terminated, truncated, _ = env.step(action)
                ended = terminated or truncated
                writer.append(
                    observation, action, reward, terminated=terminated, truncated=truncated,
                    next_observation=following, first=first,
                )  # fmt: skip
                observation, first = following, False
    env.close()


def config_of(place: Path, name: str, **online: Any) -> TrainConfig:
    return TrainConfig(
        replay=place / "data.zarr", out=place / name, pretrain_steps=30, online_steps=STEPS, executor="eager",
        algorithm=IQLConfig(hidden=(16, 16), batch_size=16, dropout=0.1), log_every=25,
        online=OnlineConfig(
            **{"collectors": 0, "warmup_steps": WARMUP, "utd": UTD, "publish_updates": 10, **online}  # type: ignore[arg-type]
        ),
        checkpoint=CheckpointConfig(every_updates=25),
    )  # fmt: skip


def started(place: Path, name: str, env_id: str = HOPPER, **online: Any) -> RunDirectory:
    if not (place / "data.zarr").exists():
        make_data(place / "data.zarr", env_id)
    run = RunDirectory(place / name)
    set_up(run, config_of(place, name, **online))
    for folder in (run.logs, run.policies, run.checkpoints):
        folder.mkdir(exist_ok=True)
    return run


def live(run: RunDirectory, *, until: Callable[[Board], bool] = lambda board: False) -> bool:
    """One life of the learner in this process, stopped as by SIGTERM once `until(board)`; whether it ended."""
    board = Board(run.board)
    learner = Learner(run, run.load_config(), board, lambda: until(board))
    learner.restore()
    learner.log.open()
    finished = learner.train()
    learner.writer.close()
    learner.log.close()
    return finished


def killed(run: RunDirectory, *, at_steps: int) -> None:
    """One life of the learner in a process of its own, killed with -9 once it has taken so many steps."""
    board = Board(run.board)
    board[Slot.PHASE] = Phase.STARTING
    process = subprocess.Popen([sys.executable, "-m", "agent.learner", str(run.path), str(os.getpid())], cwd=ROOT)
    deadline = time.monotonic() + 60.0
    while board.phase < Phase.WARMUP or board.online_steps() < at_steps:
        assert process.poll() is None, "the learner ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def outcome(run: RunDirectory) -> tuple[dict[str, bytes], dict[str, Any], dict[str, bytes]]:
    """Every tensor and the whole state of the last checkpoint, but what counts versions; and all rows by stream."""
    found = checkpoint.load_latest(run.checkpoints, on_fallback=pytest.fail)
    assert found is not None
    state = {key: value for key, value in found.state.items() if key not in ("policy_version", "watermark")}
    reader = Store.open(run.replay).reader()
    rows = {stream: reader.rows(stream, 0, head).tobytes() for stream, head in reader.heads.items()}
    return {name: tensor.numpy().tobytes() for name, tensor in found.tensors.items()}, state, rows


@contextlib.contextmanager
def scored(run: RunDirectory) -> Iterator[None]:
    """Evaluations beside the learner as the supervisor runs them, each in its own process."""
    board, over = Board(run.board), threading.Event()
    board[Slot.PHASE] = Phase.STARTING
    board[Slot.SCORE_WANTED] = board[Slot.SCORE_ENDED] = 0

    def make_child(name: str, command: list[str]) -> Child:
        return Child(name=name, command=command, log=run.logs / f"{name}.log")

    evaluations = Evaluations(run, run.load_config(), board, Incidents(run), make_child)

    def keep() -> None:
        while not over.is_set():
            evaluations.keep(final=False)
            time.sleep(0.02)
        for child in evaluations.running:
            child.kill()

    keeper = threading.Thread(target=keep)
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lockstep")


@pytest.fixture(scope="module")
def undisturbed(place: Path) -> RunDirectory:
    run = started(place, "undisturbed")
    assert live(run)
    return run


def test_a_run_has_its_steps_updates_and_published_versions(undisturbed: RunDirectory) -> None:
    tensors, state, _ = outcome(undisturbed)
    assert state["numbers"]["updates"] == 30 + UTD * (STEPS - WARMUP)
    assert state["lockstep"]["steps"] == STEPS == Board(undisturbed.board).online_steps()
    # One to begin with, one every tenth update, one at the end.
    assert Board(undisturbed.board)[Slot.POLICY_VERSION] == 2 + UTD * (STEPS - WARMUP) / 10
    assert any(name.startswith("adam.") for name in tensors)
    meta = Store.open(undisturbed.replay).reader().meta("collector-000", 0, state["lockstep"]["head"])
    assert set(meta[:WARMUP, 0]) == {1}, "the warm-up acts with the pretrained policy"
    assert len(set(meta[:, 0])) > 5


def test_killed_and_stopped_anywhere_it_ends_bit_for_bit_as_the_undisturbed(
    place: Path, undisturbed: RunDirectory
) -> None:
    run = started(place, "disturbed")
    # In mid-episode, some steps beyond a checkpoint; then stopped in the middle of what had been repeated.
    killed(run, at_steps=195)
    assert len(Store.open(run.replay).reader().meta("collector-000", 0, 195)) == 195
    assert not live(run, until=lambda board: board.online_steps() >= 170)
    assert Board(run.board).online_steps() == 170
    assert live(run)
    assert outcome(run) == outcome(undisturbed)
    assert {event["kind"] for event in events(run.path)} == {"executor", "resumed"}


def test_swapped_by_episode_a_stopped_run_ends_bit_for_bit_too_and_each_episode_is_one_version_s(place: Path) -> None:
    whole, broken = (started(place, name, swap="episode") for name in ("whole", "broken"))
    assert live(whole)

    def outdated(board: Board) -> bool:
        acting = board.collector(0)[CollectorSlot.POLICY_VERSION]
        return board.online_steps() > 150 and acting < board[Slot.POLICY_VERSION]

    assert not live(broken, until=outdated)
    saved = checkpoint.load_latest(broken.checkpoints, on_fallback=pytest.fail)
    assert saved is not None
    assert any(name.startswith("lockstep.waiting.") for name in saved.tensors)
    assert live(broken)
    assert outcome(broken) == outcome(whole)
    store = Store.open(whole.replay)
    reader = store.reader()
    head = reader.heads["collector-000"]
    versions = reader.meta("collector-000", 0, head)[:, 0]
    first = reader.rows("collector-000", 0, head)[:, store.spec.offsets["first"]] > 0
    assert first[1:][versions[1:] != versions[:-1]].all()
    assert len(set(versions)) > 4


def test_a_learner_that_died_thrice_without_a_checkpoint_saves_eight_times_as_often(place: Path) -> None:
    run = started(place, "dying")
    config = run.load_config()
    run.save_config(replace(config, checkpoint=replace(config.checkpoint, every_updates=40, keep=9)))
    Board(run.board)[Slot.LEARNER_DEATHS] = 3
    assert not live(run, until=lambda board: board[Slot.ONLINE_UPDATES] >= 13)
    names = {int(path.name) for path in checkpoint.complete(run.checkpoints)}
    # Beside the phase's end and the stop; one that is still being written lets the next pass.
    assert names & {5, 10, 15, 20, 25, 35}, names


def guarded(place: Path, name: str) -> RunDirectory:
    """A run whose learning is much too fast to do its policy good, judged at 100 and 200 steps."""
    run = started(place, name)
    config = run.load_config()
    run.save_config(
        replace(
            config, algorithm=replace(config.algorithm, learning_rate=0.03),  # type: ignore[arg-type]
            evaluation=EvaluationConfig(episodes=3, final_episodes=3, every_steps=100),
            guard=GuardConfig(window=1, standard_errors=0.0, pause_steps=60),
        )
    )  # fmt: skip
    return run


def alarms(run: RunDirectory) -> list[tuple[str, int]]:
    return [(e["kind"], e["online_steps"]) for e in events(run.path) if e["kind"].startswith("guard")]


@pytest.fixture(scope="module")
def judged(place: Path) -> RunDirectory:
    run = guarded(place, "judged")
    with scored(run):
        assert live(run)
    return run


def test_the_guard_judges_each_evaluation_at_its_very_step_and_holds_the_actor(judged: RunDirectory) -> None:
    records = {(r["label"], r["online_steps"]): r for r in judged.evaluations()}
    assert set(records) == {("pretrained", 0), ("curve", 100), ("curve", 200)}
    assert ("guard", 100) in alarms(judged)
    assert ("guard_released", 160) in alarms(judged)
    # The alarm's version holds the pretrained weights, and so do all until the release.
    versions = {}
    for path in judged.policies.glob("v*.onnx"):
        template = Template.from_bytes(path.read_bytes())
        versions[template.contract.policy_version] = [template.weight(n).tobytes() for n in template.weight_names]
    (alarm,) = [e for e in events(judged.path) if e["kind"] == "guard" and e["online_steps"] == 100]
    assert versions[alarm["policy_version"]] == versions[1] != versions[records["curve", 100]["policy_version"]]
    meta = Store.open(judged.replay).reader().meta("collector-000", 0, 100)
    assert meta[:, 0].max() < alarm["policy_version"]


def test_guarded_and_killed_anywhere_it_ends_bit_for_bit_as_the_undisturbed(place: Path, judged: RunDirectory) -> None:
    run = guarded(place, "guarded")
    with scored(run):
        # After the alarm: it is repeated from the checkpoint before, by the score that stands in metrics.jsonl.
        killed(run, at_steps=140)
    with scored(run):
        # Where it stands and waits for a score.
        assert not live(run, until=lambda board: board[Slot.SCORE_WANTED] == 200)
    with scored(run):
        assert live(run)
    assert outcome(run) == outcome(judged)
    assert set(alarms(run)) == set(alarms(judged))
    for one, other in zip(run.evaluations(), judged.evaluations(), strict=True):
        assert (one["label"], one["online_steps"], one["mean"]) == (
            other["label"],
            other["online_steps"],
            other["mean"],
        )


def test_an_evaluation_that_fails_holds_lockstep_up_no_longer(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = guarded(place, "unscored")
    monkeypatch.setattr(Child, "start", functools.partialmethod(start_broken, Child.start))
    with scored(run):
        assert live(run)
    assert [e["kind"] for e in events(run.path)].count("evaluation_failed") == 3
    assert Board(run.board).online_steps() == STEPS


def start_broken(child: Child, start: Callable[[Child], None]) -> None:
    """An evaluation that finds no policy to score."""
    child.command[2] = "999999"
    start(child)


@pytest.mark.full
def test_killed_twenty_times_it_ends_bit_for_bit_as_the_undisturbed(place: Path, undisturbed: RunDirectory) -> None:
    run = started(place, "battered")
    for steps in sorted(np.random.default_rng(1).integers(1, STEPS - 5, 20).tolist()):
        killed(run, at_steps=steps)
    assert live(run)
    assert outcome(run) == outcome(undisturbed)


def test_another_seed_ends_elsewhere(place: Path, undisturbed: RunDirectory) -> None:
    # The negative control of the comparisons above.
    run = RunDirectory(place / "other")
    set_up(run, replace(config_of(place, "other"), seed=1))
    for folder in (run.logs, run.policies, run.checkpoints):
        folder.mkdir(exist_ok=True)
    assert live(run)
    for one, other in zip(outcome(run), outcome(undisturbed), strict=True):
        assert one != other


def test_an_environment_that_does_not_repeat_itself_is_told_of_and_costs_no_row(tmp_path: Path) -> None:
    run = started(tmp_path, "drifting", "Drift-v0")
    assert not live(run, until=lambda board: board.online_steps() >= 151)
    before = outcome(run)[2]["collector-000"]
    assert live(run)
    after = outcome(run)[2]["collector-000"]
    assert after.startswith(before)
    told = [event["kind"] for event in events(run.path)]
    assert told.count("lockstep_differs") == 1
    reader = Store.open(run.replay).reader()
    assert Board(run.board).online_steps() == STEPS
    assert reader.num_rows > STEPS


def test_a_checkpoint_of_a_run_with_collectors_is_gone_on_from_consistently(
    place: Path, undisturbed: RunDirectory
) -> None:
    # The state that a run with collectors leaves has no place in an episode to go on from.
    run = started(place, "changed")
    assert not live(run, until=lambda board: board.online_steps() >= 151)
    found = checkpoint.load_latest(run.checkpoints, on_fallback=pytest.fail)
    assert found is not None
    state = {**found.state, "lockstep": None}
    own = {name: tensor for name, tensor in found.tensors.items() if not name.startswith("lockstep.")}
    shutil.rmtree(run.checkpoints / found.name)
    checkpoint.save(run.checkpoints, int(found.name), own, state, keep=2)
    assert live(run)
    # Steps since the checkpoint, if there were any, are forgiven.
    kinds = [e["kind"] for e in events(run.path)]
    assert kinds[kinds.index("lockstep_differs") :] in (["lockstep_differs"], ["lockstep_differs", "limiter_rebased"])
    assert Board(run.board).online_steps() == STEPS


def test_lockstep_drives_one_environment(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"online\.envs_per_collector is 2"):
        validate(config_of(tmp_path, "several", envs_per_collector=2))


def test_steps_of_several_environments_are_refused_naming_their_streams(tmp_path: Path) -> None:
    spec = StoreSpec.from_terms([{"name": "observation", "offset": 0, "length": 2, "dtype": "float32"}], [-1.0], [1.0])
    store = Store.create(tmp_path / "replay.zarr", spec)
    for name in ("collector-000", "collector-001"):
        refuse_several(store)
        with store.writer(name) as writer:
            writer.append(
                np.zeros(2), np.zeros(1), 0.0,
                terminated=True, truncated=False, next_observation=np.zeros(2), first=True,
            )  # fmt: skip
    with pytest.raises(RunError, match=r"several environments \(collector-000, collector-001\)"):
        refuse_several(store)
