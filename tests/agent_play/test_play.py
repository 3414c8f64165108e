"""`slipway play`: what is written holds the episodes that are named, and what they do not show is said."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from agent.commands.play import Args, run
from agent.errors import ConfigError, RunError
from agent.playback import chosen, drift
from envs.make import describe, make_env
from replay.episodes import episode_table
from replay.schema import StoreSpec
from replay.store import Store
from tests.integration.command import one_object

pytestmark = pytest.mark.usefixtures("drawn")


def logged(path: Path, env_id: str, *, episodes: int, steps: int) -> Store:
    """Episodes of random actions, the i-th with reward i at each step."""
    env = make_env(env_id, max_episode_steps=steps)
    described = describe(env)
    spec = StoreSpec.from_terms(
        described["observation"], described["action_low"], described["action_high"], env=described["env"]
    )
    store, rng = Store.create(path, spec, chunk_rows=256), np.random.default_rng(0)
    with store.writer("log", durability="process") as writer:
        for episode in range(episodes):
            observation, _ = env.reset(seed=episode)
            for step in range(steps):
                action = rng.uniform(env.action_low, env.action_high).astype(np.float32)
                following, _, terminated, truncated, _ = env.step(action)
                writer.append(
                    observation, action, float(episode), terminated=terminated, truncated=truncated,
                    next_observation=following, first=step == 0,
                )  # fmt: skip
                observation = following
                if terminated or truncated:
                    break
    env.close()
    return store


def played(arguments: Args, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    assert run(arguments) == 0
    return one_object(capsys.readouterr().out)


def test_logged_states_become_a_video_of_all_their_frames(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import imageio.v3 as imageio

    logged(tmp_path / "maze.zarr", "PointMaze_UMaze-v3", episodes=3, steps=20)
    arguments = Args(
        target=tmp_path / "maze.zarr",
        out=tmp_path / "maze.gif",
        episodes=2,
        pick="best",
        width=160,
        height=120,
        json=True,
    )
    record = played(arguments, capsys)
    said = record["episodes"]
    assert isinstance(said, list)
    assert [(each["name"], each["how"], each["return"], each["note"]) for each in said] == [
        ("log #2", "states", 40.0, ""), ("log #1", "states", 20.0, ""),
    ]  # fmt: skip
    frames = imageio.imread(tmp_path / "maze.gif")
    # 50 steps a second in frames of every second: 0, 2, ... 20.
    assert frames.shape == (2 * 11, 120, 160, 3)
    assert (frames[0] != frames[10]).any()


def test_states_are_drawn_where_they_were_recorded(tmp_path: Path) -> None:
    """The picture of a logged episode is that of the environment itself at the same state."""
    from agent.playback import play_logged
    from agent.rendering import draw, make_rendering_env

    store = logged(tmp_path / "maze.zarr", "PointMaze_UMaze-v3", episodes=1, steps=10)
    reader = store.reader()
    assert store.spec.env is not None
    env = make_rendering_env(store.spec.env, width=160, height=120)
    shown = play_logged(env, reader, episode_table(reader), 0, seed=77, fps=50.0)
    env.reset(seed=0)
    for step, frame in enumerate(shown.frames):
        itself = draw(env)
        assert itself is not None
        assert np.abs(frame.astype(int) - itself).mean() < 0.5, f"frame {step}"
        if step < len(shown.actions):
            env.step(shown.actions[step])
    env.close()


def test_actions_are_played_where_states_cannot_be_set_and_this_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import imageio.v3 as imageio

    logged(tmp_path / "log.zarr", "tests.agent_play.line:Line-v0", episodes=1, steps=15)
    arguments = Args(target=tmp_path / "log.zarr", out=tmp_path / "log.gif", json=True)
    (said,) = played(arguments, capsys)["episodes"]  # type: ignore[misc]
    assert said["how"] == "actions"
    assert "another start" in said["note"]
    # A size of its own, made even for the codecs.
    assert imageio.imread(tmp_path / "log.gif").shape[1:] == (30, 40, 3)
    assert said["frames"] == 16


def test_drift_is_told_from_its_first_step() -> None:
    recorded = np.cumsum(np.ones((10, 3), np.float32), axis=0)
    assert drift(recorded.copy(), recorded, 1) == ""
    apart = recorded.copy()
    apart[6:, 1] += 0.5
    assert "from step 6" in drift(apart, recorded, 1)
    assert "from step 7" in drift(recorded[:7], recorded, 1)
    assert "another start" in drift(recorded + 1, recorded, 3)


def test_picks_are_by_order_or_return(tmp_path: Path) -> None:
    table = episode_table(logged(tmp_path / "log.zarr", "PointMaze_UMaze-v3", episodes=4, steps=3).reader())
    rng = np.random.default_rng(0)
    assert chosen(table, "first", 2, rng) == [0, 1]
    assert chosen(table, "last", 2, rng) == [2, 3]
    assert chosen(table, "best", 2, rng) == [3, 2]
    assert chosen(table, "worst", 2, rng) == [0, 1]
    assert sorted(chosen(table, "random", 9, rng)) == [0, 1, 2, 3]


def test_a_recording_holds_pictures_paths_joints_and_signals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rerun")
    logged(tmp_path / "maze.zarr", "PointMaze_UMaze-v3", episodes=1, steps=20)
    arguments = Args(target=tmp_path / "maze.zarr", rerun=tmp_path / "maze.rrd", width=64, height=48, json=True)
    played(arguments, capsys)
    done = subprocess.run(
        [sys.executable, "-m", "rerun", "rrd", "print", str(tmp_path / "maze.rrd")],
        env={**os.environ, "HOME": str(tmp_path), "NO_COLOR": "1"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for entity in (
        "/1/camera", "/1/observation/desired_goal/0", "/1/observation/observation/3", "/1/action/1", "/1/reward",
        "/1/return_to_go", "/1/joint/ball_x/position", "/1/joint/ball_y/velocity", "/1/path/particle",
    ):  # fmt: skip
        assert entity in done.stdout, f"{entity} is missing:\n{done.stdout}"
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix == ".rrd") == ["maze.rrd"]


def test_mistakes_are_refused_before_anything_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    logged(tmp_path / "maze.zarr", "PointMaze_UMaze-v3", episodes=1, steps=3)
    target = tmp_path / "maze.zarr"
    for arguments, words in (
        (Args(target=target), "no display"),
        (Args(target=target, out=tmp_path / "film.avi"), r"\.gif or \.mp4"),
        (Args(target=target, out=tmp_path / "absent" / "film.gif"), "no folder"),
        (Args(target=target, rerun=tmp_path / "film.mp4"), r"\.rrd"),
        (Args(target=target, out=tmp_path / "film.gif", episodes=0), "--episodes is 0"),
        (Args(target=target, out=tmp_path / "film.gif", width=1), "16 or more"),
    ):
        with pytest.raises(ConfigError, match=words):
            run(arguments)
    with pytest.raises(RunError, match="another layout"):
        run(Args(target=target, env="Hopper-v5", out=tmp_path / "film.gif"))
    with pytest.raises(ConfigError, match="does not exist"):
        run(Args(target=tmp_path / "nothing", out=tmp_path / "film.gif"))
    assert [path.name for path in tmp_path.iterdir()] == ["maze.zarr"]
