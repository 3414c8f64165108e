"""`slipway deploy` refuses a policy for another robot, flies newer ones, and what it records trains the next policy."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import agent
from replay.store import Store
from tests.integration.command import ROOT, SLIPWAY, environment, outcome, refusal, run, run_here
from tests.integration.conftest import SMALL, Made


def test_a_policy_with_permuted_terms_is_refused(pristine_bundle: Path, tmp_path: Path) -> None:
    command = ("--robot", "tests.export.hardware:make_permuted", "--rate", 50, "--record", tmp_path / "never.zarr")
    done = run("deploy", pristine_bundle, *command, cwd=ROOT, extra={"HARDWARE": str(tmp_path)})
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "observation[0].name is 'qpos', 'qvel' is expected" in done.stderr
    assert not (tmp_path / "never.zarr").exists() and not (tmp_path / "writes").exists()


def test_a_watchdog_needs_a_robot_and_a_folder_must_be_there(bundle: Made, place: Path) -> None:
    assert "needs --robot" in refusal("deploy", "maze.policy", "--watchdog", cwd=place)
    assert "no such folder" in refusal("deploy", "maze.policy", "--watch", "nowhere", "--episodes", 1, cwd=place)


def test_a_robot_that_cannot_be_stopped_is_reported_and_everything_else_closed(
    pristine_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARDWARE", str(tmp_path))
    robot = ("--robot", "tests.export.hardware:Jammed", "--rate", 50, "--steps", 4)
    done = run_here("deploy", pristine_bundle, *robot, "--record", tmp_path / "flight.zarr", "--json", cwd=ROOT)
    report = json.loads(done.stdout)
    assert (done.returncode, report["state"]) == (1, "LATCHED")
    assert report["reason"] == "safe_stop raised: brake jammed"
    assert "warning: the robot's close() raised OSError: port is gone" in done.stderr
    assert lines(tmp_path / "closed") == 1
    assert Store.open(tmp_path / "flight.zarr").num_steps == report["recorded"]


def test_the_faults_of_a_flight_without_a_step_are_told_in_words(
    place: Path, bundle: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARDWARE", str(tmp_path))
    done = run_here("deploy", "maze.policy", "--robot", "tests.export.hardware:Silent", "--rate", 50, cwd=place)
    assert done.returncode == 1, done.stderr
    said = re.sub(r"[\s│]+", " ", done.stdout)
    assert "LATCHED (step 0: SHAPE: 17 numbers, 8 wanted)" in said
    assert not [words for words in ("faults SHAPE 1", "latency no step", "rate none held") if words not in said], said
    assert "None" not in said and "{" not in said


def test_newer_policies_are_flown_corrupt_ones_reported_and_a_signal_rolls_back(
    pristine_bundle: Path, renamed: Callable[[Path, str, int], Path], tmp_path: Path
) -> None:
    watched = tmp_path / "watched"
    watched.mkdir()
    newer = renamed(tmp_path, "newer", 8)
    command = [
        SLIPWAY, "deploy", pristine_bundle, "--robot", "tests.export.hardware:make_robot", "--rate", 50,
        "--watch", watched, "--record", tmp_path / "flight.zarr", "--json",
    ]  # fmt: skip
    flight = subprocess.Popen(
        [*map(str, command)], cwd=ROOT, env=environment({"HARDWARE": str(tmp_path)}), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        wait_for(lambda: lines(tmp_path / "writes") > 10)
        shutil.copytree(newer, tmp_path / ".staged")
        (tmp_path / ".staged").rename(watched / "newer")
        wait_for(lambda: 8 in versions(tmp_path / "flight.zarr"))
        corrupt = tmp_path / ".corrupt"
        shutil.copytree(renamed(tmp_path, "corrupt", 9), corrupt)
        content = bytearray((corrupt / "policy.onnx").read_bytes())
        content[len(content) // 2] ^= 1
        (corrupt / "policy.onnx").write_bytes(content)
        corrupt.rename(watched / "newest")
        time.sleep(1.0)
        flight.send_signal(signal.SIGUSR1)
        wait_for(lambda: versions(tmp_path / "flight.zarr")[-1] == 7)
        flight.send_signal(signal.SIGTERM)
        out, err = flight.communicate(timeout=30)
    finally:
        flight.kill()
        flight.wait()
    assert flight.returncode == 0, err
    report = json.loads(out)
    assert (report["reloads"], report["rollbacks"], report["reloads_refused"]) == (1, 1, 1)
    assert "policy.onnx" in report["reload_error"] and "checksum" in report["reload_error"]
    assert report["state"] == "OK" and report["policy_version"] == 7
    for episode in Store.open(tmp_path / "flight.zarr").episodes():
        assert len(set(episode.policy_version.tolist())) == 1, "an episode spans a reload"


@pytest.fixture(scope="session")
def renamed(model: bytes) -> Callable[[Path, str, int], Path]:
    """Makes a sound bundle of other weights: (folder, name, version)."""
    from dataclasses import replace

    import numpy as np

    from export.bundle import write_bundle
    from export.template import Template
    from tests.export.policies import NumpyPolicy, make_contract, make_network, weights_of

    def make(folder: Path, name: str, version: int) -> Path:
        contract = replace(make_contract(), policy_id=name, policy_version=version)
        changed = Template.from_bytes(model).patch(weights_of(make_network(version)), contract)
        reference = NumpyPolicy(make_network(version), contract)
        write_bundle(folder / name, changed, reference=reference, rng=np.random.default_rng(0))
        return folder / name

    return make


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def lines(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


def versions(path: Path) -> list[int]:
    """Policy versions of the stored steps, in order."""
    if not (path / "zarr.json").exists():
        return [0]
    return [int(v) for episode in Store.open(path).episodes() for v in episode.policy_version] or [0]


def test_a_recording_trains_the_next_policy_offline_and_online(place: Path, flights: Made) -> None:
    """The full circle; the recording's columns (latency, flags, raw) are zero in what the collectors add."""
    said = outcome("ingest", "flights.zarr", "--out", "flown.zarr", cwd=place)
    assert said["steps"] == flights.said["recorded"] and not said["already"]
    assert outcome("ingest", "flights.zarr", "--out", "flown.zarr", cwd=place)["already"]
    command = ("train", "--replay", "flown.zarr", "--out", "circle", *SMALL, "--pretrain-steps", 50)
    shorter = ("--online-steps", 100, "--online.warmup-steps", 50, "--evaluation.final-episodes", 1)
    outcome(*command, *shorter, "--evaluation.episodes", 1, cwd=place)
    online = Store.open(place / "circle" / "replay.zarr")
    assert online.num_steps >= 100
    assert online.spec.info == Store.open(place / "flown.zarr").spec.info
    for episode in online.episodes():
        assert not any(column.any() for column in episode.info.values())


def test_a_call_takes_its_paths_as_strings(bundle: Made, tmp_path: Path) -> None:
    report = agent.deploy(str(bundle.path), watch=str(tmp_path), episodes=1)
    assert (report["episodes"], report["reloads"]) == (1, 0)
