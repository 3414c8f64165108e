"""`slipway compare` on a real maze log: a table, a page, exact resuming, one failed run among sound ones, kill -9."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from agent.cli import main
from agent.comparison.plan import Variant, make_plan
from agent.comparison.runs import Job, Runner
from agent.files import read_lines
from replay.processes import alive

ROOT = Path(__file__).parents[2]
SMALL = 'log_every = 20\nexecutor = "eager"\n[checkpoint]\nevery_updates = 50\n'


@pytest.fixture(scope="module")
def maze(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("compare") / "maze.zarr"
    assert main(["collect", "--env", "PointMaze_UMaze-v3", "--policy", "expert", "--steps", "600",
                 "--max-episode-steps", "100", "--out", str(store)]) == 0  # fmt: skip
    return store


def command(maze: Path, folder: Path, *more: str, algorithms: str = "bc,iql+hidden=[16]", steps: int = 60) -> list[str]:
    config = folder / "small.toml"
    config.write_text(SMALL)
    return ["compare", "--replay", str(maze), "--algorithms", algorithms, "--seeds", "1", "--steps", str(steps),
            "--episodes", "2", "--config", str(config), "--out", str(folder / "out"), "--json", *more]  # fmt: skip


def compare(capsys: pytest.CaptureFixture[str], arguments: list[str], code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert main(arguments) == code
    record: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return record


def test_methods_are_trained_scored_and_kept_and_more_seeds_may_be_added(
    maze: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = compare(capsys, command(maze, tmp_path))
    (task,) = record["tasks"]
    assert [method["label"] for method in task["methods"]] == ["bc", "iql+hidden=[16]"]
    assert all(score is not None and 0 <= score <= 100 for method in task["methods"] for score in method["scores"])
    assert task["unit"] == "score"
    assert task["data"] == pytest.approx(100 * 10 / 11)  # ten of eleven episodes reach the goal
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "iql+hidden=[16]" in page
    assert page.count("<svg") == 2

    kept = (tmp_path / "out" / "maze" / "bc" / "seed-0" / "metrics.jsonl").read_bytes()
    more = compare(capsys, [*command(maze, tmp_path), "--seeds", "2"])
    assert (tmp_path / "out" / "maze" / "bc" / "seed-0" / "metrics.jsonl").read_bytes() == kept
    first, second = more["tasks"][0]["methods"]
    assert first["scores"][0] == task["methods"][0]["scores"][0]
    assert len(second["scores"]) == 2
    assert second["improvement"] is not None
    assert second["standard_error"] is not None


def test_a_run_that_diverges_is_reported_with_its_last_words_and_the_others_are_compared(
    maze: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = compare(capsys, command(maze, tmp_path, algorithms="bc,iql+learning_rate=1e30"), code=2)
    sound, broken = record["tasks"][0]["methods"]
    assert sound["mean"] is not None
    assert broken["mean"] is None
    assert broken["scores"] == [None]
    ((path, words),) = record["failures"].items()
    assert path.endswith("iql+learning_rate=1e30/seed-0")
    assert "not finite" in words or "exploded" in words


def evaluated(run: Path) -> list[int]:
    """Episodes of each evaluation."""
    return [line["episodes"] for line in read_lines(run / "metrics.jsonl", "evaluation")]


def test_other_episodes_score_a_finished_run_again_and_train_nothing(
    maze: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, run = command(maze, tmp_path, algorithms="bc"), tmp_path / "out" / "maze" / "bc" / "seed-0"
    compare(capsys, arguments)
    trained = read_lines(run / "metrics.jsonl", "train")
    for _ in range(2):
        record = compare(capsys, [*arguments, "--episodes", "5"])
        assert evaluated(run) == [2, 5]
        assert read_lines(run / "metrics.jsonl", "train") == trained
    newest = read_lines(run / "metrics.jsonl", "evaluation")[-1]
    assert record["tasks"][0]["methods"][0]["scores"] == [newest["normalized"]]


@pytest.mark.parametrize(
    ("number", "words"),
    [(signal.SIGTERM, "stopped from outside"), (signal.SIGKILL, "exit code -9 and said nothing")],
    ids=["SIGTERM", "SIGKILL"],
)
def test_a_run_that_is_ended_from_outside_has_failed_and_has_no_words_of_an_earlier_start(
    number: signal.Signals, words: str, maze: Path, tmp_path: Path
) -> None:
    settings = {"pretrain_steps": 100_000, "executor": "eager"}
    plan = make_plan([maze], [Variant.parse("bc")], seeds=1, out=tmp_path / "out", settings=settings)
    runner = Runner(plan, out=tmp_path / "out", cores=1)
    (tmp_path / "out" / "logs").mkdir()
    (tmp_path / "out" / "logs" / "maze-bc-0.log").write_text("the words of an earlier start\n")
    status = plan[0].config.out / "status.json"
    ended: list[Job] = []

    def end_it(runner: Runner) -> None:
        if runner.jobs and not ended and status.exists() and json.loads(status.read_text())["pretrain_step"] > 0:
            ended.append(runner.jobs[0])
            os.kill(runner.jobs[0].process.pid, number)

    assert runner.work(end_it, stopping=lambda: False)
    assert len(ended) == 1
    ((path, said),) = runner.failures.items()
    assert path == plan[0].config.out and words in said and "earlier" not in said
    agent = int(json.loads(status.read_text())["pid"])
    wait_until(lambda: not alive(agent))


def test_a_run_without_its_final_evaluation_has_failed_by_the_evaluations_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    module, store = "tests.faults.faulty_cart", tmp_path / "cart.zarr"
    assert main(["collect", "--env", f"{module}:SoundCart-v0", "--policy", "random", "--steps", "100",
                 "--out", str(store)]) == 0  # fmt: skip
    arguments = [*command(store, tmp_path, algorithms="bc", steps=20), "--env", f"{module}:BrokenCart-v0"]
    record = compare(capsys, arguments, code=2)
    assert record["tasks"][0]["methods"][0]["scores"] == [None]
    ((path, words),) = record["failures"].items()
    assert path.endswith("cart/bc/seed-0")
    assert "evaluation-pretrained-0" in words and "the motor is disconnected" in words


def test_kill_minus_9_leaves_no_training_behind_and_the_same_command_goes_on(
    maze: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = command(maze, tmp_path, "--cores", "1", algorithms="bc", steps=2000)
    process = subprocess.Popen([sys.executable, "-m", "agent.cli", *arguments], cwd=ROOT, stdout=subprocess.DEVNULL)
    run = tmp_path / "out" / "maze" / "bc" / "seed-0"
    status = run / "status.json"
    try:
        wait_until(lambda: status.exists() and json.loads(status.read_text())["pretrain_step"] > 60)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    agent = int(json.loads(status.read_text())["pid"])
    wait_until(lambda: not alive(agent))
    saved = max(int(folder.name) for folder in (run / "checkpoints").iterdir() if folder.name.isdigit())
    assert saved > 0
    record = compare(capsys, arguments)
    assert record["tasks"][0]["methods"][0]["scores"][0] is not None
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert any(event["kind"] == "resumed" and event["updates"] >= saved for event in events)


def wait_until(condition: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--out", "x"], "--replay is missing"),
        (["--replay", "a", "--out", "x", "--seeds", "0"], "--seeds is 0"),
        (["--replay", "a", "b", "--out", "x", "--env", "Hopper-v5"], "--env names one environment"),
        (["--replay", "nowhere.zarr", "--out", "x"], "nowhere.zarr"),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(
    flags: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *flags]) == 2
    error = capsys.readouterr().err.strip()
    assert words in error
    assert "\n" not in error
    assert not os.listdir(tmp_path)  # noqa: PTH208 - names are enough


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    return said.err


def test_what_is_not_a_comparison_is_never_written_into(
    maze: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(maze.rglob("*"))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "shopping.txt").write_text("bread")
    for out, what in ((maze, "is a replay store"), (tmp_path / "notes", "is a folder"), (ROOT / "Makefile", "a file")):
        line = refused(["compare", "--replay", str(maze), "--steps", "5", "--out", str(out)], capsys)
        assert str(out) in line and what in line and "choose another --out" in line
    assert sorted(maze.rglob("*")) == before and os.listdir(tmp_path / "notes") == ["shopping.txt"]  # noqa: PTH208


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("log_evry = 3\n", ("'log_evry'", "mine.toml", "'log_every'")),
        ("[algorithm]\nexpectile = 0.9\n", ("mine.toml sets algorithm", "iql+expectile=0.9")),
        ("pretrain_steps = 7\n", ("mine.toml sets pretrain_steps", "--steps")),
        ("[evaluation]\nfinal_episodes = 7\n", ("final_episodes", "--episodes")),
        ("evaluation = 7\n", ("evaluation in", "must be a table")),
    ],
)
def test_a_file_is_named_with_what_it_cannot_set(
    text: str, words: tuple[str, ...], maze: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.toml").write_text(text)
    command = ["compare", "--replay", str(maze), "--config", str(tmp_path / "mine.toml"), "--out", str(tmp_path / "x")]
    line = refused(command, capsys)
    assert not [word for word in words if word not in line], line
    assert not (tmp_path / "x").exists()


def test_a_page_that_could_not_be_written_is_refused_before_all_training(
    maze: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for page, words in ((tmp_path / "nodir" / "x.html", "no folder"), (tmp_path, "is a folder")):
        line = refused([*command(maze, tmp_path), "--html", str(page)], capsys)
        assert f"--html {page}" in line and words in line
    assert not (tmp_path / "out").exists()
