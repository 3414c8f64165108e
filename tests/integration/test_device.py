"""What runs on a device runs without torch, onnx and (for a robot of one's own) without any simulator."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from export.runner import PolicyRunner
from replay.store import Store
from tests.integration.command import ROOT, outcome, refusal, run
from tests.integration.conftest import Made

TRAINING = ("torch", "onnx", "onnxscript", "tensorboard", "safetensors", "minari")
SIMULATION = ("gymnasium", "gymnasium_robotics", "mujoco", "imageio")

SITECUSTOMIZE = '''
"""Runs at the start of every Python: importing a package of $BLOCKED raises; $LOADED gets the names of what was."""
import atexit, os, sys

BLOCKED = set(filter(None, os.environ.get("BLOCKED", "").split(",")))

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r} (blocked by the test)", name=name)
        return None

sys.meta_path.insert(0, Blocker())

@atexit.register
def tell():
    with open(os.environ["LOADED"], "w") as file:
        file.write("\\n".join(sys.modules))
'''


class Device:
    """An installation in which some packages cannot be imported."""

    def __init__(self, folder: Path, blocked: tuple[str, ...]) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "sitecustomize.py").write_text(SITECUSTOMIZE)
        self._loaded = folder / "loaded.txt"
        self.extra: Mapping[str, str] = {
            "PYTHONPATH": str(folder), "BLOCKED": ",".join(blocked), "LOADED": str(self._loaded),
        }  # fmt: skip

    def loaded(self) -> set[str]:
        """Top-level packages that the last command had imported when it ended."""
        return {name.partition(".")[0] for name in self._loaded.read_text().split()}


@pytest.fixture
def bare(tmp_path: Path) -> Device:
    """The base install: neither training nor simulation packages."""
    return Device(tmp_path / "device", (*TRAINING, *SIMULATION))


@pytest.fixture
def simulating(tmp_path: Path) -> Device:
    """The base install with the extra `sim`."""
    return Device(tmp_path / "device", TRAINING)


@pytest.fixture
def anything(tmp_path: Path) -> Device:
    """Everything can be imported; what is, is told."""
    return Device(tmp_path / "device", ())


def test_the_blocker_blocks(bare: Device, place: Path, trained: Made) -> None:
    """Else the tests below would prove nothing."""
    line = refusal("export", "run", "--out", "never.policy", cwd=place, extra=bare.extra)
    assert "pip install 'slipway[train]'" in line


def test_verify_needs_no_torch(bare: Device, place: Path, bundle: Made) -> None:
    report = outcome("verify", "maze.policy", cwd=place, extra=bare.extra)
    assert report["golden"]["share_of_tolerance"] < 1.0
    assert not bare.loaded() & {*TRAINING, *SIMULATION}


def test_a_robot_is_driven_at_its_rate_and_recorded_without_torch_or_simulator(
    bare: Device, bundle: Made, tmp_path: Path
) -> None:
    report = outcome(
        "deploy", bundle.path, "--robot", "examples.my_robot:make_robot", "--rate", 100, "--steps", 120,
        "--watchdog", "--watchdog-timeout", 5, "--record", tmp_path / "cart.zarr", cwd=ROOT, extra=bare.extra,
    )  # fmt: skip
    assert not bare.loaded() & {*TRAINING, *SIMULATION}
    assert report["state"] == "OK"
    assert report["steps"] == 120
    assert report["faults"] == {}
    assert report["rate_hz"] == pytest.approx(100, rel=0.05) or report["overruns"] > 0
    assert report["watchdog"] == {"timeout_s": 5.0, "alarmed": False, "feeds": 120}
    # The last action has no reading after it: it is cut, not guessed. Nor is one after which a deadline was missed.
    assert report["recorded"] == 119 - report["recording_gaps"]
    runner = PolicyRunner(bundle.path)
    store = Store.open(tmp_path / "cart.zarr")
    assert store.num_steps == report["recorded"]
    for episode in store.episodes():
        np.testing.assert_array_equal(
            episode.actions, np.stack([runner.act(observation) for observation in episode.observations[:-1]])
        )
        speed = np.diff(episode.observations[:, :2], axis=0)
        assert np.abs(speed).max() < 1.0, "a reset was recorded as a step"


def test_simulated_deployment_needs_no_torch(simulating: Device, place: Path, bundle: Made, flights: Made) -> None:
    command = ("deploy", "maze.policy", "--episodes", 5, "--seed", 0)
    report = outcome(*command, cwd=place, extra=simulating.extra)
    assert report["returns"] == flights.said["returns"]
    assert report["lengths"] == flights.said["lengths"]
    assert not simulating.loaded() & set(TRAINING)


@pytest.mark.parametrize(
    "command",
    [
        ("verify", "maze.policy"),
        ("deploy", "maze.policy", "--episodes", 1),
        ("eval", "maze.policy", "--episodes", 1),
        ("status", "run"),
        ("replay", "info", "data.zarr"),
        ("train", "--print-config", "--replay", "data.zarr"),
        ("collect", "--env", "PointMaze_UMaze-v3", "--policy", "random", "--steps", 5, "--out", "no_torch.zarr"),
    ],
    ids=lambda command: command[0],
)
def test_torch_is_not_even_loaded_where_it_is_not_needed(
    command: tuple[object, ...], anything: Device, place: Path, bundle: Made
) -> None:
    done = run(*command, cwd=place, extra=anything.extra)
    assert done.returncode == 0, done.stderr
    assert not anything.loaded() & {"torch", "onnx", "onnxscript"}


def test_a_device_says_which_extra_a_verb_needs(bare: Device, place: Path, bundle: Made) -> None:
    line = refusal("deploy", "maze.policy", "--episodes", 1, cwd=place, extra=bare.extra)
    assert "pip install 'slipway[sim]'" in line
    line = refusal("eval", "maze.policy", cwd=place, extra=bare.extra)
    assert "pip install 'slipway[sim]'" in line
    line = refusal("demo", "--out", "never", cwd=place, extra=bare.extra)
    assert re.search(r"pip install 'slipway\[(sim|train)\]'", line)


def test_training_without_torch_is_refused_before_anything_is_made(simulating: Device, place: Path, data: Made) -> None:
    line = refusal("train", "--replay", "data.zarr", "--out", "never", cwd=place, extra=simulating.extra)
    assert "pip install 'slipway[train]'" in line


def test_doctor_examines_an_installation_whose_torch_is_broken(bare: Device, place: Path) -> None:
    done = run("doctor", "--json", cwd=place, extra=bare.extra)
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert "cannot be imported" in checks["torch"]["found"]
    assert (done.returncode, checks["torch"]["state"]) == (2, "problem")
