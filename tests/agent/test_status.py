"""`slipway status`: what it shows, that 80 columns hold it, and that no colour is needed to read it."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from agent.commands.status import Watched, bytes_below
from agent.config import TrainConfig
from agent.errors import RunError
from agent.files import append_line, write_atomic
from agent.run_directory import RunDirectory
from agent.status_view import line, panel, size

NOW = 1_795_225_000.0
STATUS: dict[str, Any] = {
    "time": NOW, "pid": os.getpid(), "phase": "online", "stopped": False, "pretrain_step": 1_000_000,
    "pretrain_steps": 1_000_000, "online_steps": 345_120, "planned_online_steps": 1_000_000, "online_updates": 172_560,
    "policy_version": 3450, "learner_wait_seconds": 12.5, "staleness_seconds_p50": 0.4,
    "staleness_seconds_p99": 1.21, "learner_wait_fraction": 0.0, "collector_wait_fraction": 0.31,
    "collectors": [
        {"steps": 172_560, "episodes": 1_410, "policy_version": 3448 + i, "wait_seconds": 4100.0, "faults": 3 * i}
        for i in range(2)
    ],
}  # fmt: skip
EVALUATIONS = [
    {"time": NOW - 700 + 600 * i, "kind": "evaluation", "label": "curve", "online_steps": 10_000 * (i + 1),
     "mean": mean, "ci": [mean - 0.1, mean + 0.1], "success": mean, "normalized": 100 * mean}
    for i, mean in enumerate((0.5, 0.75))
]  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    run = RunDirectory(tmp_path / "door")
    run.save_config(TrainConfig(out=run.path))
    write_atomic(run.status, json.dumps(STATUS).encode())
    for record in EVALUATIONS:
        append_line(run.metrics, record)
    append_line(run.events, {"time": NOW - 90, "kind": "resumed", "message": "resumed from checkpoint 000001000"})
    append_line(
        run.events, {"time": NOW - 60, "kind": "env_fault", "message": "the simulation diverged [/b] at step 41"}
    )
    return run


def shown(status: dict[str, Any], *, now: float = NOW + 2, width: int = 80) -> str:
    file = io.StringIO()
    Console(file=file, width=width).print(panel(status, now))
    return file.getvalue()


def test_everything_that_matters_is_said_without_a_colour(run: RunDirectory) -> None:
    text = shown({**Watched(run).status(), "steps_per_second": 212.4, "updates_per_second": 106.2})
    assert "\x1b" not in text
    flat = re.sub(r"[\s│]+", " ", text)
    for expected in (
        "✓ pretrain", "▶ online", "345,120/1,000,000 · 35% · 212/s · 51:23 left", "172,560 online · 106/s",
        "version 3450 · collectors up to 2 behind · staleness 0.4 s, p99 1.2 s",
        "learner waited 12.5 s (0% now), collectors 2:16:40 (31% now)", "345,120 steps, 2,820 episodes",
        "+764,640 an hour",
        "curve at 20,000 steps: success 75%, return 0.75 (95% 0.65 to 0.85), 1:42 ago; ▲ up from 0.5",
        "! 1, the last 1:02 ago: the simulation diverged [/b] at step 41", "free", "! 3", "running, as of",
    ):  # fmt: skip
        assert expected in flat, expected


def test_returns_have_the_digits_that_tell_the_bounds_apart(run: RunDirectory) -> None:
    plain = {"success": None, "normalized": None, "mean": -1171.26}
    several = {**EVALUATIONS[0], **plain, "ci": [-1179.94, -1162.58]}
    said = re.sub(
        r"[\s│]+", " ", shown({**Watched(run).status(), "last_evaluation": several, "evaluation_before": None})
    )
    assert "at 10,000 steps: return -1,171.3 (95% -1,179.9 to -1,162.6), " in said
    said = re.sub(r"[\s│]+", " ", shown({**Watched(run).status(), "last_evaluation": {**several, "ci": None}}))
    assert "return -1,171.3, " in said and "95%" not in said


def test_a_paused_actor_and_a_full_disk_are_told(run: RunDirectory) -> None:
    status = Watched(run).status()
    quiet = shown(status)
    assert "the guard" not in quiet and "! full" not in quiet
    status["collectors"][0]["paused"] = "disk full"
    loud = shown({**status, "actor_paused": True, "disk_full": True})
    assert "! the guard has paused the actor's updates" in loud and "! full: collectors wait" in loud
    assert "disk full" in loud and max(map(len, loud.splitlines())) == 80


def test_eighty_columns_hold_it(run: RunDirectory) -> None:
    status = Watched(run).status()
    for width in (80, 200):
        assert max(map(len, shown({**status, "steps_per_second": 1234.5}, width=width).splitlines())) == 80
        deep = shown({**status, "run": "/very" * 30 + "/deep/door"}, width=width)
        assert max(map(len, deep.splitlines())) == 80 and "/deep/door ─" in deep


def test_an_agent_that_fell_silent_or_died_is_not_called_running(run: RunDirectory) -> None:
    status = Watched(run).status()
    assert status["running"] and "! no news for 0:42" in shown(status, now=NOW + 42)
    write_atomic(run.status, json.dumps({**STATUS, "pid": 2**22 - 3}).encode())
    assert "not running, as of" in shown(Watched(run).status())


def test_rates_are_those_of_the_last_seconds(run: RunDirectory) -> None:
    watched = Watched(run)
    assert watched.status()["steps_per_second"] is None
    for seconds, steps in ((10, 2000), (40, 2300), (70, 2600)):
        later = {**STATUS, "time": NOW + seconds, "online_steps": STATUS["online_steps"] + steps}
        write_atomic(run.status, json.dumps(later).encode())
        status = watched.status()
    assert status["steps_per_second"] == pytest.approx(10.0)


def test_what_is_told_while_it_is_watched_is_what_a_first_look_tells(run: RunDirectory) -> None:
    watched = Watched(run)
    watched.status()
    for mean in (1.0, 2.0, 3.0):
        score = {"label": "curve", "mean": mean, "ci": None, "online_steps": int(mean), "success": None}
        run.metric("evaluation", **score, normalized=None)
        run.event("env_fault", f"the gripper fell off {mean:.0f} times")
        again, first = watched.status(), Watched(run).status()
        for name in ("evaluation_before", "last_evaluation", "incidents", "last_incident", "last_incident_time"):
            assert again[name] == first[name], name
    assert (again["evaluation_before"]["mean"], again["last_evaluation"]["mean"]) == (2.0, 3.0)
    assert again["last_incident"] == "the gripper fell off 3 times"


def test_while_pretraining_there_is_no_talk_of_what_has_not_begun(run: RunDirectory) -> None:
    early = {**STATUS, "phase": "pretrain", "pretrain_step": 10, "online_steps": 0, "collectors": []}
    write_atomic(run.status, json.dumps(early).encode())
    text = shown(Watched(run).status())
    assert "▶ pretrain" in text and "limiter" not in text and "policy" not in text


def test_a_line_says_the_essence(run: RunDirectory) -> None:
    said = line(Watched(run).status())
    assert said.endswith("online · 345,120 of 1,000,000 steps · curve success 75% · 1 incident")


def test_a_run_that_has_not_started_is_told_apart_from_none(run: RunDirectory, tmp_path: Path) -> None:
    run.status.unlink()
    with pytest.raises(RunError, match="has no status yet"):
        Watched(run).status()
    with pytest.raises(RunError, match=r"a run directory \(no config.toml\)"):
        Watched(RunDirectory(tmp_path)).status()


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("{", r"status\.json cannot be read \(.*line 1"),
        ("[]", "holds a list, not a JSON object"),
        ('{"phase": 5}', "time is None, which no agent writes"),
        (json.dumps({**STATUS, "phase": 5}), "phase is 5, which no agent writes: .* makes it anew"),
        (json.dumps({**STATUS, "phase": "elsewhere"}), "phase is 'elsewhere'"),
        (json.dumps({**STATUS, "online_steps": "many"}), "online_steps is 'many'"),
        (json.dumps({**STATUS, "collectors": [3]}), r"collectors\[0\]\.steps is None"),
    ],
)
def test_a_damaged_status_is_refused_in_one_line(run: RunDirectory, written: str, words: str) -> None:
    run.status.write_text(written)
    with pytest.raises(RunError, match=words) as refused:
        Watched(run).status()
    assert "\n" not in str(refused.value) and str(run.status) in str(refused.value)


def test_watching_into_a_file_ends_with_the_run(run: RunDirectory) -> None:
    write_atomic(run.status, json.dumps({**STATUS, "stopped": True}).encode())
    command = [sys.executable, "-m", "agent.cli", "status", str(run.path), "--watch"]
    for flag, check in (([], "online · 345,120 of"), (["--json"], '"online_steps": 345120')):
        done = subprocess.run([*command, *flag], capture_output=True, text=True, timeout=60, check=True)
        assert check in done.stdout and len(done.stdout.splitlines()) == 1 and done.stderr == ""


def test_watching_in_a_terminal_follows_the_run_to_its_end(run: RunDirectory) -> None:
    import pty

    write_atomic(run.status, json.dumps(STATUS).encode())
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "agent.cli", "status", str(run.path), "--watch"]
    child = subprocess.Popen(command, stdout=slave, stderr=slave, env={**os.environ, "COLUMNS": "80", "TERM": "xterm"})
    os.close(slave)
    said = b""
    while b"running, as of" not in said and b"no news" not in said:
        said += os.read(master, 65536)
    write_atomic(run.status, json.dumps({**STATUS, "time": time.time(), "phase": "done", "stopped": True}).encode())
    try:
        while data := os.read(master, 65536):
            said += data
    except OSError:
        pass  # the terminal is closed once the command has left
    os.close(master)
    assert child.wait(30) == 0
    assert "done, as of" in said.decode()


def test_files_that_go_while_they_are_counted_end_no_status(run: RunDirectory) -> None:
    folder = run.replay / "streams" / "collector-000"
    folder.mkdir(parents=True)
    (run.replay / "kept").write_bytes(bytes(10_000))
    told = "import pathlib, sys\nfiles = [pathlib.Path(sys.argv[1], str(n)) for n in range(40)]\n"
    told += "while True:\n  for f in files: f.touch()\n  for f in files: f.unlink()\n"
    with subprocess.Popen([sys.executable, "-c", told, str(folder)]) as writer:
        try:
            while not list(folder.iterdir()):
                time.sleep(0.01)
            taken = {bytes_below(run.replay) for _ in range(500)}
        finally:
            writer.kill()
    assert min(taken) >= 10_000


@pytest.mark.parametrize(("number", "words"), [(999, "999 B"), (999.6, "1 kB"), (999.6e6, "1 GB"), (1.23e9, "1.23 GB")])
def test_sizes_have_three_digits(number: float, words: str) -> None:
    assert size(number) == words
