"""The demo's experiment: a maze, a mediocre expert, and what pretraining and fine-tuning make of its logs.

Every stage leaves its artefact in the output folder and is passed over where that is complete, so that the same
command resumes.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from agent import console
from agent.algorithms.iql_config import IQLConfig
from agent.board import Board, Phase
from agent.calls import export
from agent.commands import collect, deploy, ingest
from agent.commands.train import train_with_progress
from agent.config import CheckpointConfig, EvaluationConfig, OnlineConfig, TrainConfig
from agent.config_files import load_preset, merge
from agent.errors import RunError
from agent.files import write_atomic
from agent.report import write_report
from agent.run_directory import RunDirectory
from agent.scores import summarize
from agent.seeds import check_seed
from envs.catalog import lookup
from envs.experts.waypoint import WaypointConfig
from export.verify import verify
from replay.statistics import returns
from replay.store import Store

ENV = "PointMaze_UMaze-v3"
MEDIOCRE = WaypointConfig(speed=0.25, speed_spread=0.2, noise=1.0, random_episode_fraction=0.7)


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """Sizes of the demo; the defaults are what README's table was made with."""

    dataset_steps: int = 10_000
    """Logged environment steps."""
    time_limit: int = 150
    """Steps an episode may take, in the data, online and in evaluation."""
    expert: WaypointConfig = field(default_factory=lambda: MEDIOCRE)
    """The scripted controller, mediocre on purpose."""
    pretrain_steps: int = 15_000
    """Offline updates."""
    online_steps: int = 60_000
    """Online environment steps, warm-up included."""
    evaluation_episodes: int = 300
    """Episodes behind each figure of the table."""


def train_config(settings: DemoSettings, *, replay: Path, out: Path, seed: int) -> TrainConfig:
    """The demo's training run: the pointmaze preset with small networks."""
    base = merge(TrainConfig(), load_preset("pointmaze"), where="preset pointmaze")
    assert isinstance(base.algorithm, IQLConfig)
    return dataclasses.replace(
        base,
        replay=replay,
        out=out,
        preset="pointmaze",
        seed=seed,
        pretrain_steps=settings.pretrain_steps,
        online_steps=settings.online_steps,
        algorithm=dataclasses.replace(
            base.algorithm, hidden=(128, 128), batch_size=128, learning_rate=1e-3, target_rate=0.02
        ),
        online=OnlineConfig(warmup_steps=3_000, utd=0.5, offline_fraction=0.25, tolerance_steps=500),
        evaluation=EvaluationConfig(
            episodes=40, final_episodes=settings.evaluation_episodes, every_steps=max(1, settings.online_steps // 6)
        ),
        checkpoint=CheckpointConfig(every_updates=5_000),
    )


class Demo:
    """The stages and their artefacts below one folder."""

    def __init__(self, out: Path, settings: DemoSettings, *, seed: int) -> None:
        check_seed(seed)
        self.out, self.settings, self.seed = out, settings, seed
        self.log, self.dataset, self.run, self.bundle = (
            out / name for name in ("log.zarr", "dataset.zarr", "run", "policy")
        )
        self.seconds: dict[str, float] = {}

    def play(self) -> dict[str, Any]:
        """All stages in order; returns the record that `slipway demo --json` prints."""
        self._own_folder()
        started = time.monotonic()
        with self._stage("collect", "logging a mediocre expert in a maze"):
            self.collect()
        with self._stage("ingest", "reading the log into the replay store"):
            ingest.ingest_with_progress(ingest.Args(source=str(self.log), out=self.dataset))
        config = train_config(self.settings, replay=self.dataset, out=self.run, seed=self.seed)
        outcome = self.train(config)
        if not outcome["finished"]:
            raise self._stopped()
        with self._stage("export", "exporting and comparing with the trained network"):
            # An export names the commit it was made by, so a later one of the same weights may differ.
            if not self.bundle.exists():
                export(self.run, self.bundle)
            verify(self.bundle)
        with self._stage("deploy", "flying the exported policy in the control loop"):
            deployed = self.deploy()
        with self._stage("report", "writing the report"):
            page = write_report(self.run)
        wall = time.monotonic() - started
        data = summarize_returns(returns(Store.open(self.dataset)))
        return {
            "dataset": data,
            "pretrained": outcome["pretrained"],
            "finetuned": outcome["finetuned"],
            "deployed": deployed,
            "wall_s": round(wall, 1),
            "stages_s": self.seconds,
            "bundle": str(self.bundle),
            "report": str(page),
        }

    def collect(self) -> None:
        """Log the expert, once."""
        marker = self.out / "log.json"
        if marker.exists():
            return
        remove_store(self.log)
        outcome = collect.collect(
            collect.Args(
                env=ENV, steps=self.settings.dataset_steps, out=self.log, seed=self.seed,
                max_episode_steps=self.settings.time_limit, expert=self.settings.expert,
            )
        )  # fmt: skip
        if outcome["steps"] < self.settings.dataset_steps:
            raise self._stopped()
        write_atomic(marker, json.dumps(outcome).encode())

    def train(self, config: TrainConfig) -> dict[str, Any]:
        """Both phases in one run of the agent; the switch is where the second stage's time begins."""
        say("pretrain", "IQL from the store alone")
        started, switched = time.monotonic(), 0.0

        def tick(board: Board) -> None:
            nonlocal switched
            if not switched and board.phase >= Phase.WARMUP:
                switched = time.monotonic()

        outcome = train_with_progress(config, on_tick=tick)
        ended = time.monotonic()
        self.seconds["pretrain"] = round((switched or ended) - started, 1)
        self.seconds["finetune"] = round(ended - (switched or ended), 1)
        return outcome

    def deploy(self) -> dict[str, Any]:
        """Fly the bundle in simulation through the device's control loop, once, and score what it did."""
        record = RunDirectory(self.run).deployment
        if not record.exists():
            flights = self.out / "flights.zarr"
            remove_store(flights)
            report = deploy.deploy(
                deploy.Args(
                    policy=self.bundle, episodes=self.settings.evaluation_episodes // 2, record=flights,
                    seed=self.seed + 1,
                )
            )  # fmt: skip
            if report["episodes"] < self.settings.evaluation_episodes // 2:
                raise self._stopped()
            score = summarize(
                lookup(ENV), np.asarray(report["returns"]), np.asarray(report["lengths"]),
                np.asarray(report["successes"]),
            )  # fmt: skip
            write_atomic(record, json.dumps({**report, **score.to_json()}).encode())
        saved: dict[str, Any] = json.loads(record.read_text())
        return {key: saved[key] for key in ("mean", "ci", "normalized", "success", "episodes", "latency_us")}

    def _own_folder(self) -> None:
        """Make the folder, or check that it holds this demo."""
        marker = self.out / "demo.json"
        mine = {"seed": self.seed, **json.loads(json.dumps(dataclasses.asdict(self.settings)))}
        if marker.exists():
            try:
                begun = json.loads(marker.read_text())
            except (OSError, ValueError) as error:
                raise RunError(f"{marker} cannot be read ({error}): choose another --out") from error
            if begun != mine:
                raise RunError(f"{self.out} holds a demo with other settings: choose another --out")
            return
        if self.out.exists() and not (self.out.is_dir() and not any(self.out.iterdir())):
            raise RunError(f"{self.out} exists and holds no demo: choose another --out")
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            write_atomic(marker, json.dumps(mine).encode())
        except OSError as error:
            raise RunError(f"--out {self.out} cannot be made ({error.strerror}): choose another --out") from error

    def _stopped(self) -> RunError:
        """A stage that SIGTERM or Ctrl-C ended early is not taken for complete."""
        return RunError(f"stopped; everything is saved: the same command goes on from {self.out}")

    @contextmanager
    def _stage(self, name: str, words: str) -> Iterator[None]:
        say(name, words)
        started = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - started, 1)


def say(stage: str, words: str) -> None:
    """Announce a stage on stderr."""
    console.say(f"{stage}: {words}")


def remove_store(path: Path) -> None:
    """Remove what an interrupted stage left."""
    if path.exists():
        shutil.rmtree(path)


def summarize_returns(episode_returns: np.ndarray) -> dict[str, Any]:
    """The data's episodes scored like a policy's; in this task a return of 1 is a success."""
    score = summarize(lookup(ENV), episode_returns, np.ones_like(episode_returns), (episode_returns > 0).astype(float))
    return {key: score.to_json()[key] for key in ("mean", "ci", "normalized", "success", "episodes")}
