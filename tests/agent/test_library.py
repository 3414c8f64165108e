"""The packages as a library: every name of theirs loads, and only then loads what it needs."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import agent
from agent.config import TrainConfig
from agent.errors import ConfigError
from agent.resolving import configure
from replay.errors import ReplayError
from replay.schema import StoreSpec
from replay.store import Store
from tests.integration.command import ROOT, environment
from tests.replay import make_minari

PACKAGES = ("agent", "replay", "envs", "export")
HEAVY = ("torch", "gymnasium", "mujoco", "onnx", "minari", "matplotlib", "tensorboard")


def python(code: str) -> str:
    """What `code` prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("package", PACKAGES)
def test_every_name_of_a_package_loads_and_is_documented(package: str) -> None:
    module = importlib.import_module(package)
    names = list(getattr(module, "_HOME", None) or module._MODULES)
    assert set(names) <= set(dir(module))
    for name in names:
        found = getattr(module, name)
        assert isinstance(found, tuple) or found.__doc__, f"{package}.{name} has no docstring"
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = module.no_such_name


def test_no_call_of_the_agent_has_the_name_of_a_module() -> None:
    """Importing the module would put it in the call's place."""
    modules = {path.stem for path in (ROOT / "agent").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert not modules & set(agent._HOME)


def test_importing_the_packages_loads_nothing_heavy() -> None:
    loaded = python(f"import sys, {', '.join(PACKAGES)}; print([n for n in {HEAVY} if n in sys.modules])")
    assert loaded == "[]"


def test_what_a_device_calls_loads_neither_torch_nor_a_simulator() -> None:
    code = (
        "import sys; from agent import deploy, evaluate, verify, status, ingest, collect, configure; "
        "from export import PolicyRunner, ControlLoop, read_policy; from replay import Store; "
        "print([n for n in ('torch', 'onnx', 'mujoco', 'gymnasium') if n in sys.modules])"
    )
    assert python(code) == "[]"


@pytest.fixture
def maze(tmp_path: Path) -> Path:
    """An empty store that records an environment with a preset."""
    terms = [{"name": "observation", "offset": 0, "length": 4, "dtype": "float64"}]
    env = {"id": "PointMaze_UMaze-v3", "kwargs": {}, "max_episode_steps": 100}
    return Store.create(tmp_path / "maze.zarr", StoreSpec.from_terms(terms, [-1.0], [1.0], env=env)).path


def test_configure_is_what_the_command_s_flags_make(maze: Path, tmp_path: Path) -> None:
    from agent.commands.train import parse

    flags = ["--replay", str(maze), "--out", str(tmp_path / "run"), "--online-steps", "9000", "--online.utd", "2"]
    said = parse([*flags, "--algorithm.hidden", "64", "64"]).config
    called = configure(maze, tmp_path / "run", online_steps=9000, online={"utd": 2.0}, algorithm={"hidden": (64, 64)})
    assert called == said
    assert called.preset == "pointmaze"


def test_configure_names_the_wrong_value(maze: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'online_stepz' in configure\(\); did you mean 'online_steps'"):
        configure(maze, tmp_path / "run", online_stepz=5)
    with pytest.raises(ConfigError, match=r"online\.utd is 99\.0 but must lie in 0\.02 to 20"):
        configure(maze, tmp_path / "run", online={"utd": 99.0})
    with pytest.raises(ReplayError, match="does not exist"):
        configure(tmp_path / "nowhere.zarr", tmp_path / "run")


def test_a_time_limit_alone_leaves_the_recorded_task_its_end(tmp_path: Path) -> None:
    shape = make_minari.SHAPES["D4RL/pointmaze/umaze-v2"]
    env = make_minari.make(shape["id"], {**shape["kwargs"], "max_episode_steps": 12})
    buffers = make_minari.record(env, episodes=1, steps=12, seed=7)
    buffers[0].infos["success"][5] = True
    folder = make_minari.write(tmp_path / "root", "toy/maze-v0", buffers, env=env)
    env.close()
    agent.ingest(folder, tmp_path / "maze.zarr", env={"max_episode_steps": 100})
    (episode,) = Store.open(tmp_path / "maze.zarr").episodes()
    assert (episode.terminated, len(episode.rewards)) == (True, 5)


def test_an_unknown_environment_gets_the_plain_defaults_and_its_rewards_as_they_are(tmp_path: Path) -> None:
    terms = [{"name": "observation", "offset": 0, "length": 3, "dtype": "float32"}]
    spec = StoreSpec.from_terms(terms, [-2.0], [2.0], env={"id": "Pendulum-v1", "kwargs": {}})
    config = configure(Store.create(tmp_path / "own.zarr", spec).path, tmp_path / "run")
    plain = TrainConfig()
    assert (config.preset, config.reward_scaling, config.reward_shift) == ("", "none", 0.0)
    assert config.algorithm == plain.algorithm
