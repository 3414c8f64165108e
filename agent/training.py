"""`train` as a Python call: set up or resume a run, supervise it to its end, summarise it."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
from collections.abc import Callable, Iterator
from typing import Any

from agent import checkpoint
from agent.board import Board
from agent.config import TrainConfig
from agent.config_files import validate
from agent.errors import CheckpointError, RunError
from agent.interventions import check_intervention
from agent.process import StopSignal
from agent.run_directory import RunDirectory
from agent.setup_run import set_up
from agent.supervisor import Supervisor
from agent.trackers import check_installed, tracking
from envs.catalog import counts_as_scored
from replay.errors import StorageError
from replay.statistics import returns
from replay.store import Store


def train(
    config: TrainConfig,
    *,
    on_tick: Callable[[Board], None] = lambda board: None,
    stopping: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Pretrain from `config.replay`, then fine-tune online; the same call again resumes.

    `on_tick(board)` is called some twenty times a second. Returns `summary(...)` with "finished" telling whether the
    run came to its end or was stopped: by SIGTERM or Ctrl-C in the main thread, or by `stopping`, where given, alone.
    Raises the errors of `agent.errors.SLIPWAY_ERRORS`.
    """
    validate(config)
    if config.online.intervention:
        check_intervention(config.online.intervention, build=config.online_steps > 0)
    if importlib.util.find_spec("torch") is None:
        # The learner would find out by itself, but in a process whose restarts cannot mend it.
        raise ModuleNotFoundError("training needs torch", name="torch")
    config = dataclasses.replace(config, replay=config.replay.resolve(), out=config.out.resolve())
    if config.tracker != "none":
        check_installed(config.tracker)
    run = RunDirectory(config.out)
    run.check_belongs_to(config)
    if run.preparation.exists() and is_complete(run, config):
        return {**summary(run, config), "finished": True}
    with contextlib.ExitStack() as held:
        with writable(run):
            lock = held.enter_context(run.exclusive())
            run.check_belongs_to(config)  # somebody else may have made it since
            if not run.preparation.exists():
                set_up(run, config)
            run.save_config(config)
        asked = stopping or held.enter_context(StopSignal())
        supervisor = Supervisor(run, config, lock=lock, stopping=asked)
        with tracking(run, config.tracker):
            finished = supervisor.train(on_tick)
    return {**summary(run, config), "finished": finished}


@contextlib.contextmanager
def writable(run: RunDirectory) -> Iterator[None]:
    """RunError where the disk refuses what is done inside."""
    try:
        yield
    except (OSError, StorageError) as error:
        cause = error.__cause__ if isinstance(error, StorageError) else error
        reason = (cause.strerror if isinstance(cause, OSError) else None) or str(error)
        raise RunError(
            f"{run.path} cannot be written ({reason[0].lower() + reason[1:]}): mend the disk or its permissions, "
            "or choose another --out"
        ) from error


def is_complete(run: RunDirectory, config: TrainConfig) -> bool:
    """Whether the run has come to the end that `config` asks for: evaluations written, last checkpoint sound."""
    checkpoints = checkpoint.complete(run.checkpoints)
    try:
        status = json.loads(run.status.read_text())
        checkpoint.read_contents(checkpoints[-1])
    except (OSError, ValueError, IndexError, CheckpointError):
        return False
    evaluated = run.final_evaluation(config) and any(record["label"] == "pretrained" for record in run.evaluations())
    asked = (status.get("phase"), status.get("pretrain_steps"), status.get("planned_online_steps"))
    return asked == ("done", config.pretrain_steps, config.online_steps) and bool(evaluated)


def summary(run: RunDirectory, config: TrainConfig) -> dict[str, Any]:
    """The run so far: mean return of its data, whether that compares, and the newest evaluation under each label."""
    store, env = Store.open(config.replay), run.read_record(run.env)
    latest = {record["label"]: record for record in run.evaluations()}
    keep = ("mean", "ci", "normalized", "success", "episodes", "steps_to_goal", "online_steps")
    return {
        "run": str(run.path),
        "dataset": {
            "mean": float(returns(store).mean()),
            "comparable": counts_as_scored(env["id"], store.spec.env),
        },
        **{
            label: {key: latest[label][key] for key in keep} for label in ("pretrained", "finetuned") if label in latest
        },
    }
