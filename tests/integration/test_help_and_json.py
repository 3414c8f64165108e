"""What a person reads with `--help` and what a program reads with `--json`."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from agent.cli import VERBS
from agent.errors import RenderingError
from agent.rendering import backend
from tests.integration.command import SLIPWAY, environment, outcome, run, run_here, succeed
from tests.integration.conftest import ENV, Made

SCORE = {"mean", "ci", "normalized", "success", "episodes"}


def test_the_overview_lists_every_verb(tmp_path: Path) -> None:
    text = run("--help", cwd=tmp_path).stdout
    for verb, (_, summary) in VERBS.items():
        assert re.search(rf"^  {verb} +{re.escape(summary)}$", text, re.MULTILINE)


@pytest.mark.parametrize("verb", VERBS)
def test_help_explains_a_verb_by_an_example(verb: str, tmp_path: Path) -> None:
    text = succeed(verb, "--help", cwd=tmp_path)
    assert "Example:" in text
    assert re.search(rf"^ +slipway {verb} \S", text, re.MULTILINE), "the example is no line of the shell"


@pytest.mark.parametrize("verb", ["train", "pretrain"])
def test_what_must_be_named_is_not_said_to_be_the_current_folder(verb: str, tmp_path: Path) -> None:
    text = " ".join(succeed(verb, "--help", cwd=tmp_path).replace("│", " ").split())
    for flag in ("--replay PATH", "--out PATH"):
        assert re.search(rf"{flag} [^-]*\(default: none\)", text), flag


def test_the_version_is_the_distribution_s(tmp_path: Path) -> None:
    assert run("--version", cwd=tmp_path).stdout == f"slipway {version('slipway')}\n"


def test_what_is_piped_into_a_closed_reader_is_no_crash(place: Path, data: Made) -> None:
    script = "set -o pipefail; slipway replay info data.zarr | head -1 > /dev/null"
    extra = {"PATH": f"{SLIPWAY.parent}:/usr/bin:/bin"}
    done = subprocess.run(["bash", "-c", script], cwd=place, env=environment(extra), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_printed_configuration_is_one_that_train_reads(place: Path, data: Made, tmp_path: Path) -> None:
    command = ("train", "--print-config", "--replay", "data.zarr", "--algorithm.expectile", 0.8)
    (tmp_path / "printed.toml").write_text(succeed(*command, cwd=place))
    again = succeed("train", tmp_path / "printed.toml", "--print-config", cwd=place)
    assert again == (tmp_path / "printed.toml").read_text()
    assert "expectile = 0.8" in again
    assert 'preset = "pointmaze"' in again, "the preset of the data's environment applies by itself"


def test_a_printed_configuration_is_no_screen_but_a_file(tmp_path: Path) -> None:
    out = f"{'very/' * 40}long[seed1]:smile: name"
    done = run_here("train", "--out", out, "--print-config", cwd=tmp_path)
    assert tomllib.loads(done.stdout)["out"] == out, done.stderr


def test_a_store_is_called_as_it_was_named(tmp_path: Path) -> None:
    name = f"q[a]{'-long' * 30}[/b].zarr"
    done = run_here("collect", "--env", ENV, "--steps", 1, "--max-episode-steps", 1, "--out", name, cwd=tmp_path)
    assert done.stdout == f"{name}: 1 step, 1 episode, mean return 0\n", done.stderr


def test_flags_win_over_the_file_and_the_file_over_the_preset(place: Path, data: Made, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("seed = 5\n[algorithm]\nbeta = 4.0\nexpectile = 0.6\n")
    command = ("train", tmp_path / "mine.toml", "--print-config", "--replay", "data.zarr", "--algorithm.expectile", 0.8)
    text = succeed(*command, cwd=place)
    assert "seed = 5" in text
    assert "beta = 4.0" in text
    assert "expectile = 0.8" in text
    assert "reward_shift = -1.0" in text, "the preset is lost"


# --- JSON -----------------------------------------------------------------------------------------------------------


def check(record: dict[str, Any], *keys: str) -> None:
    assert not set(keys) - record.keys(), f"missing {set(keys) - record.keys()} in {record}"


def test_collect_and_ingest_say_what_they_stored(log: Made, data: Made) -> None:
    check(log.said, "steps", "episodes", "mean")
    check(data.said, "path", "kind", "already", "steps", "episodes", "returns", "env", "digest")
    assert data.said["returns"]["mean"] == pytest.approx(log.said["mean"])


def test_replay_info_says_what_a_store_holds(place: Path, data: Made) -> None:
    record = outcome("replay", "info", "data.zarr", cwd=place)
    check(
        record, "rows", "steps", "episodes", "terminated", "truncated", "interrupted", "returns", "lengths", "streams"
    )
    assert record["steps"] == data.said["steps"]


def test_train_says_how_each_phase_scored(trained: Made) -> None:
    check(trained.said, "run", "dataset", "pretrained", "finetuned", "finished")
    for label in ("pretrained", "finetuned"):
        check(trained.said[label], *SCORE)
        low, high = trained.said[label]["ci"]
        assert low <= trained.said[label]["mean"] <= high
        assert trained.said[label]["episodes"] == 5


def test_eval_says_score_and_interval(place: Path, bundle: Made) -> None:
    record = outcome("eval", "maze.policy", "--episodes", 3, cwd=place)
    check(record, "policy", "env", "std", "length", "steps_to_goal", *SCORE)
    assert record["episodes"] == 3
    assert record["normalized"] == pytest.approx(100 * record["success"])


def test_export_and_verify_say_what_was_checked(place: Path, bundle: Made) -> None:
    check(bundle.said, "bundle", "policy", "step", "parity")
    record = outcome("verify", "maze.policy", cwd=place)
    check(record, "policy_id", "policy_version", "contract_sha256", "checksums", "contract", "golden", "files")
    assert (record["observation_size"], record["action_size"]) == (8, 2)


def test_deploy_says_what_the_loop_did(flights: Made) -> None:
    check(
        flights.said, "state", "steps", "episodes", "returns", "lengths", "successes", "latency_us", "rate_hz",
        "overruns", "skipped_periods", "faults", "held_steps", "policy_id", "policy_version", "recorded", "lost",
        "record_error", "recording_gaps", "reloads", "rollbacks", "watchdog", "target_hz",
    )  # fmt: skip
    check(flights.said["latency_us"], "p50", "p99", "p99.9", "max")
    assert flights.said["state"] == "OK"
    assert flights.said["latency_us"]["p50"] > 0


def test_status_says_that_a_finished_run_is_done(place: Path, trained: Made) -> None:
    record = outcome("status", "run", cwd=place)
    check(record, "phase", "running", "stopped", "pretrain_step", "online_steps", "online_updates", "policy_version")
    assert (record["phase"], record["running"], record["incidents"]) == ("done", False, 0)
    assert record["last_evaluation"]["label"] == "finetuned"


def test_report_says_where_the_page_is(place: Path, trained: Made) -> None:
    record = outcome("report", "run", "--out", "page.html", cwd=place)
    text = (place / record["report"]).read_text()
    assert text.rstrip().endswith("</html>")
    assert record["runs"] == ["run"]
    try:
        backend()
    except RenderingError:
        assert "No episode could be drawn: nothing can draw here" in text
    else:
        assert "data:video/mp4;base64," in text and "An episode of policy version" in text


def test_a_report_where_nothing_draws_says_so_and_shows_the_rest(place: Path, trained: Made, tmp_path: Path) -> None:
    # Mesa's EGL finds no driver; OSMesa is asked for by nobody.
    blind = {"__EGL_VENDOR_LIBRARY_FILENAMES": str(tmp_path / "none.json"), "LIBGL_DRIVERS_PATH": str(tmp_path)}
    record = outcome("report", "run", "--out", tmp_path / "page.html", cwd=place, extra=blind)
    text = Path(record["report"]).read_text()
    assert "No episode could be drawn: nothing can draw here (egl:" in text and "apt-get install" in text
    assert "<video" not in text and 'id="results-table"' in text
    outcome("report", "run", "--no-rollout", "--out", tmp_path / "page.html", cwd=place)
    assert "No episode" not in Path(record["report"]).read_text()


def test_tables_are_for_people_and_leave_stderr_alone(place: Path, trained: Made, bundle: Made) -> None:
    """Without --json the same verbs print words, never JSON, and succeed."""
    for command in (
        ("status", "run"), ("replay", "info", "data.zarr"), ("verify", "maze.policy"), ("eval", "run", "--episodes", 2),
        ("deploy", "maze.policy", "--episodes", 1), ("doctor",),
    ):  # fmt: skip
        done = run(*command, cwd=place)
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) > 3
        assert done.stderr == ""
        with pytest.raises(json.JSONDecodeError):
            json.loads(done.stdout)
