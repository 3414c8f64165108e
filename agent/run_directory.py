"""The run directory: names of its files, who owns it, and whether a command may continue it.

RUN/ config.toml  status.json  metrics.jsonl  events.jsonl  tensorboard/  videos/  board.bin  agent.lock  logs/
     checkpoints/STEP/ + LATEST   policies/vNNNNNN.onnx + LATEST   replay.zarr/   report.html  export.json  deploy.json
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.config import TrainConfig
from agent.config_files import from_toml, incompatible, to_toml
from agent.errors import RunError
from agent.files import append_line, read_lines, write_atomic
from agent.kinds import what_is
from replay.processes import alive
from replay.store import Store

ORPHAN_SECONDS = 15.0
# Events that mark the run's way; every other kind is an incident.
TURNING_POINTS = frozenset(
    {
        "resumed",
        "limiter_rebased",
        "executor",
        "switch_report",
        "collection_resumed",
        "publication_resumed",
        "guard_released",
    }
)


def evaluation_name(label: str, step: int) -> str:
    """Name of an evaluation's process and log; the log's time of change is its sign of life."""
    return f"evaluation-{label}-{step}"


def last_evaluation(config: TrainConfig) -> tuple[str, int]:
    """Label and online step of the evaluation at the end of a run of `config`."""
    return ("finetuned", config.online_steps) if config.online_steps else ("pretrained", 0)


class RunDirectory:
    """Paths and small records of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.toml"
        self.preparation = path / "preparation.json"
        self.env = path / "env.json"
        self.status = path / "status.json"
        self.metrics = path / "metrics.jsonl"
        self.events = path / "events.jsonl"
        self.tensorboard = path / "tensorboard"
        self.board = path / "board.bin"
        self.lock = path / "agent.lock"
        self.logs = path / "logs"
        self.checkpoints = path / "checkpoints"
        self.best = self.checkpoints / "BEST"
        self.pretrained = self.checkpoints / "pretrained_actor.safetensors"
        self.policies = path / "policies"
        self.replay = path / "replay.zarr"
        self.videos = path / "videos"
        self.report = path / "report.html"
        self.deployment = path / "deploy.json"
        self.export = path / "export.json"

    def load_config(self) -> TrainConfig:
        """The configuration that the run was started with; RunError where `path` is no run."""
        if not self.config.exists():
            other = f"{what_is(self.path)}, not" if self.path.exists() else "does not exist, so it is not"
            raise RunError(f"{self.path} {other} a run directory (no config.toml); give the --out of a `slipway train`")
        return from_toml(self.config)

    def open_data(self, config: TrainConfig) -> Store:
        """The store that the run learns from; RunError naming both where it has been moved since."""
        if not config.replay.exists():
            raise RunError(
                f"{config.replay}, the store that run {self.path} learns from, is not there: put it back, or write "
                f"where it is now as `replay` into {self.config}"
            )
        return Store.open(config.replay)

    def read_record(self, file: Path) -> dict[str, Any]:
        """One of the run's JSON files; RunError where it is missing or damaged."""
        again = "the run's own `slipway train` command makes it anew"
        if file != self.status and self.preparation.exists():
            # What `set_up` decides is made together, and taken for complete where this file is there.
            again = f"remove {self.preparation}, then {again}"
        try:
            record = json.loads(file.read_text())
        except FileNotFoundError as error:
            raise RunError(f"run {self.path} has no {file.name}: {again}") from error
        except (OSError, ValueError) as error:
            raise RunError(f"{file} cannot be read ({error}): {again}") from error
        if not isinstance(record, dict):
            raise RunError(f"{file} holds a {type(record).__name__}, not a JSON object: {again}")
        return record

    def check_belongs_to(self, config: TrainConfig) -> None:
        """RunError unless the directory is free or was made for `config`."""
        if self.config.exists():
            differences = incompatible(self.load_config(), config)
            if differences:
                raise RunError(
                    f"{self.path} belongs to another configuration ({'; '.join(differences[:3])}): "
                    "repeat its command to resume it, or choose another --out"
                )
        elif self.path.exists() and (not self.path.is_dir() or set(self.path.iterdir()) - {self.lock}):
            raise RunError(f"{self.path} exists and is not a run directory: choose another --out")

    def save_config(self, config: TrainConfig) -> None:
        """Make the directory, if need be, and record the resolved configuration."""
        for folder in (self.path, self.logs, self.policies, self.checkpoints):
            folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self.config, to_toml(config).encode())

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[int]:
        """Hold the run for this process and the children that inherit the yielded file descriptor.

        Makes the folder, and takes it away again where no run came of it. RunError naming the pid of another agent that
        holds it. Where that one was killed, its children hold the lock until they have saved and left; they are waited
        for.
        """
        made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        self.path.mkdir(parents=True, exist_ok=True)
        with self.lock.open("a+") as file:
            deadline = time.monotonic() + ORPHAN_SECONDS
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError as error:
                    file.seek(0)
                    owner = file.read().strip()
                    orphaned = owner.isdigit() and not alive(int(owner))
                    if not orphaned or time.monotonic() > deadline:
                        raise RunError(
                            f"run {self.path} is in use by the agent with pid {owner or 'unknown'}: "
                            "stop that one first, or choose another --out"
                        ) from error
                    time.sleep(0.05)
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            try:
                yield file.fileno()
            finally:
                if not self.config.exists():
                    with contextlib.suppress(OSError):
                        self.lock.unlink()
                        for folder in made:
                            folder.rmdir()

    def event(self, kind: str, message: str, **details: Any) -> None:
        """Record an incident or a turning point."""
        append_line(self.events, {"time": time.time(), "kind": kind, "message": message, **details})

    def metric(self, kind: str, **values: Any) -> None:
        """Record one line of figures; `kind` is train, diagnostics or evaluation."""
        append_line(self.metrics, {"time": time.time(), "kind": kind, **values})

    def evaluations(self) -> list[dict[str, Any]]:
        """The evaluation lines of metrics.jsonl, oldest first."""
        return read_lines(self.metrics, "evaluation")

    def final_evaluation(self, config: TrainConfig) -> dict[str, Any] | None:
        """The evaluation at the end that `config` asks for, over as many episodes as it asks for; None before it."""
        wanted = (*last_evaluation(config), config.evaluation.final_episodes)
        found = [r for r in self.evaluations() if (r["label"], r["online_steps"], r["episodes"]) == wanted]
        return found[-1] if found else None
