"""Fine-tuning through rarer faults: no memory, a clock that jumps, a full disk, a stopped environment."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from agent.board import CollectorSlot, Pause, Slot
from replay.schema import META_COLUMNS
from replay.store import Store
from replay.verify import verify
from tests.faults.agent import Agent, Rows, alive, events
from tests.faults.test_full_disk_training import fill
from tests.small_disk import mounted

DAY = 86_400.0
# Every process of the agent sees the wall clock shifted by what stands in a file, as after a wrong NTP server.
SHIFTED_CLOCK = """
import mmap, os, struct, time
with open(os.environ["CLOCK_SHIFT"], "r+b") as file:
    shift = mmap.mmap(file.fileno(), 8)
real, real_ns = time.time, time.time_ns
time.time = lambda: real() + struct.unpack("<d", shift[:])[0]
time.time_ns = lambda: real_ns() + int(1e9 * struct.unpack("<d", shift[:])[0])
"""


def command(run: Path, *more: object) -> tuple[object, ...]:
    return ("finetune", run, "--json", *more)


@pytest.mark.full
def test_a_learner_without_memory_is_restarted_and_loses_no_step(
    place: Path, copy_of_pretrained: Callable[[str], Path]
) -> None:
    run = copy_of_pretrained("starved")
    with Agent(*command(run, "--online-steps", 2000), cwd=place, run=run) as agent:
        agent.wait_online(updates=20)
        before, learner = Rows.of(run / "replay.zarr"), agent.children()["learner"]
        size = int(Path(f"/proc/{learner}/statm").read_text().split()[0]) * resource.getpagesize()
        resource.prlimit(learner, resource.RLIMIT_AS, (size, size))
        agent.wait_for("another learner", lambda: agent.children().get("learner", learner) != learner)
        assert agent.finish()["finished"] is True
    (restart,) = [event for event in events(run) if event["kind"] == "restart"]
    assert restart["process"] == "learner"
    assert before.is_prefix_of(Rows.of(run / "replay.zarr"))


@pytest.mark.full
def test_a_wall_clock_that_jumps_days_ahead_and_back_disturbs_nothing(
    place: Path, tmp_path: Path, copy_of_pretrained: Callable[[str], Path]
) -> None:
    run, shift = copy_of_pretrained("jumping"), tmp_path / "shift"
    shift.write_bytes(struct.pack("<d", 0.0))
    (tmp_path / "sitecustomize.py").write_text(SHIFTED_CLOCK)
    extra = {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}", "CLOCK_SHIFT": str(shift)}
    with Agent(*command(run, "--online-steps", 2000), cwd=place, run=run, extra=extra) as agent:
        for shifted, steps in ((DAY, 400), (-DAY, 800), (0.0, 1200)):
            agent.wait_online(steps=steps)
            with shift.open("r+b") as file:  # in place: who has it mapped would die of a file that is empty meanwhile
                file.write(struct.pack("<d", shifted))
        assert agent.finish()["finished"] is True
    assert {event["kind"] for event in events(run)} <= {"executor", "resumed", "limiter_rebased", "switch_report"}
    (meta,) = Rows.of(run / "replay.zarr").meta.values()
    wall, mono = (meta[:, META_COLUMNS.index(name)] for name in ("t_wall_ns", "t_mono_ns"))
    assert np.ptp(wall) > 1.5e9 * DAY, "the clock never jumped"
    assert np.ptp(mono) < 1e9 * DAY
    assert (np.diff(mono) >= 0).all()


@pytest.mark.full
def test_fine_tuning_waits_on_a_full_disk_says_so_and_goes_on(
    place: Path, tmp_path: Path, copy_of_pretrained: Callable[[str], Path]
) -> None:
    with mounted(tmp_path, "64m") as disk:
        run = disk / "tuned"
        shutil.copytree(copy_of_pretrained("filled"), run)
        spec = Store.open(run / "replay.zarr").spec
        shutil.rmtree(run / "replay.zarr")
        Store.create(run / "replay.zarr", spec, chunk_rows=512)
        with Agent(*command(run, "--online-steps", 3000), cwd=place, run=run) as agent:
            agent.wait_online(updates=20)
            fill(disk / "filler")
            slots = agent.board().collector(0)
            agent.wait_for("the pause", lambda: slots[CollectorSlot.PAUSE] == Pause.FULL_DISK)
            agent.wait_for("its words", lambda: agent.status()["collectors"][0]["paused"] == "full disk")
            agent.wait_for("the learner's", lambda: agent.status()["disk_full"] is True)
            before = Rows.of(run / "replay.zarr")
            time.sleep(2.0)
            assert len(Rows.of(run / "replay.zarr")) == len(before)
            (disk / "filler").unlink()
            assert agent.finish()["finished"] is True
        kinds = [event["kind"] for event in events(run)]
        assert {"collection_paused", "collection_resumed", "publication_paused", "publication_resumed"} <= set(kinds)
        assert "restart" not in kinds
        assert before.is_prefix_of(Rows.of(run / "replay.zarr"))
        assert verify(run / "replay.zarr")["sound"]


@pytest.mark.full
def test_a_stopped_environment_is_replaced_by_its_deadline_and_steps_within_five_seconds(
    place: Path, copy_of_pretrained: Callable[[str], Path]
) -> None:
    run = copy_of_pretrained("stopped")
    config = run / "config.toml"
    config.write_text(config.read_text().replace("step_deadline_seconds = 10.0", "step_deadline_seconds = 1.0"))
    with Agent(*command(run, "--online-steps", 1_000_000), cwd=place, run=run) as agent:
        agent.wait_online(updates=20)
        (env,) = environments(agent.children()["collector"])
        os.kill(env, signal.SIGSTOP)
        stopped, steps = time.monotonic(), agent.board().online_steps()
        agent.wait_for("its end", lambda: not alive(env))
        assert time.monotonic() - stopped < 2.0
        agent.wait_for("another step", lambda: agent.board().online_steps() > steps + 1)
        assert time.monotonic() - stopped < 6.0
        assert agent.stop()[0] == 0
    assert [event["kind"] for event in events(run) if event["kind"] in ("env_hung", "restart")] == ["env_hung"]


def environments(collector: int) -> list[int]:
    """Process ids of a collector's environments: the children of its server."""

    def children(pid: int) -> list[int]:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    return [env for server in children(collector) for env in children(server)]


@pytest.mark.full
@pytest.mark.parametrize(("utd", "steps"), [(0.02, 1200), (20.0, 240)])
def test_the_ratio_holds_at_both_of_its_ends(place: Path, tmp_path: Path, utd: float, steps: int) -> None:
    run = tmp_path / "run"
    small = ("--algorithm.hidden", 16, "--algorithm.batch-size", 16, "--pretrain-steps", 50)
    online = (
        "--online-steps",
        steps,
        "--online.warmup-steps",
        200,
        "--online.utd",
        utd,
        "--online.tolerance-steps",
        10,
    )
    quiet = ("--evaluation.final-episodes", 1, "--evaluation.every-steps", 0)
    with Agent(
        "train", "--replay", "data.zarr", "--out", run, *small, *online, *quiet, "--json", cwd=place, run=run
    ) as agent:
        agent.wait_online()
        board, excess = agent.board(), [0.0]

        def done() -> bool:
            taken, updates = board.online_steps(), board[Slot.ONLINE_UPDATES]
            excess.append(utd * (taken - 200) - updates)
            return board.phase.name == "DONE"

        agent.wait_for("its end", done)
        assert agent.finish()["finished"] is True
    status = json.loads((run / "status.json").read_text())
    assert (status["online_steps"], status["online_updates"]) == (steps, round(utd * (steps - 200)))
    # Two counters are not read in one instant: a step's worth more than the limiter's slack.
    slack = max(utd * 10, (1 + utd) / 2) + utd + 1
    assert max(map(abs, excess)) <= slack
