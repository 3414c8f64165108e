"""Pictures of episodes: really drawn, really encoded, and refused in one line where nothing draws."""

from __future__ import annotations

import gc
import io
import math
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from agent.errors import RenderingError
from agent.rendering import MOST_FPS, encode, render_episode, stride_of, write_video
from envs.make import make_env
from tests.agent_play.line import Line

MAZE = {"id": "PointMaze_UMaze-v3", "kwargs": {"continuing_task": False}, "max_episode_steps": 40}
HOPPER = {"id": "Hopper-v5", "kwargs": {}, "max_episode_steps": 30}


class East:
    """Pushes the point mass along the first axis."""

    def act(self, observation: np.ndarray) -> np.ndarray:
        return np.array([1.0, 0.0], np.float32)


pytestmark = pytest.mark.usefixtures("drawn")


def test_an_episode_is_drawn_as_it_moves() -> None:
    episode = render_episode(East(), MAZE, seed=3, width=160, height=120)
    assert episode.frames.shape[1:] == (120, 160, 3)
    assert episode.frames.dtype == np.uint8
    assert (episode.steps, episode.truncated, episode.terminated) == (40, True, False)
    assert episode.frames.std() > 5, "the picture is blank"
    assert (episode.frames[0] != episode.frames[-1]).any(), "nothing moves"
    assert episode.success == 0.0


def test_frames_are_spaced_in_real_time() -> None:
    """Hopper acts 125 times a second: every fifth state is drawn at 25 frames a second, and the last."""
    episode = render_episode(np.zeros((12, 3), np.float32), HOPPER, seed=0, width=64, height=48)
    assert episode.fps == pytest.approx(25.0)
    assert len(episode.frames) == 1 + 12 // 5
    assert episode.steps == 12


def test_an_episode_shorter_than_a_frame_keeps_its_clock() -> None:
    episode = render_episode(np.zeros((2, 3), np.float32), HOPPER, seed=0, width=64, height=48)
    assert (episode.steps, episode.step_seconds) == (2, pytest.approx(1 / 125))
    cut = {**HOPPER, "max_episode_steps": 2}
    episode = render_episode(np.zeros((2, 3), np.float32), cut, seed=0, width=64, height=48)
    assert (list(episode.frame_steps), episode.step_seconds) == ([0, 2], pytest.approx(1 / 125))


def test_an_environment_that_names_no_rate_is_shown_at_the_rate_of_videos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(Line.metadata, "render_fps")
    with closing(make_env("tests.agent_play.line:Line-v0")) as env:
        assert stride_of(env, math.inf) == (1, MOST_FPS)  # a window, which shows every step
        assert stride_of(env, 10.0) == (1, 10.0)


def test_the_same_seed_and_actions_give_the_same_pictures() -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (20, 2)).astype(np.float32)
    one, two, other = (render_episode(actions, MAZE, seed=s, width=96, height=64) for s in (1, 1, 2))
    np.testing.assert_array_equal(one.frames, two.frames)
    assert (one.frames[0] != other.frames[0]).any()


# imageio's own reader leaves ffmpeg's pipes to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_a_video_holds_the_frames(suffix: str, tmp_path: Path) -> None:
    import imageio.v3 as imageio

    frames = np.zeros((10, 48, 64, 3), np.uint8)
    for t in range(10):
        frames[t, :, : 6 * t + 6] = (200, 60, 20)
    write_video(tmp_path / f"bar{suffix}", frames, 25.0)
    back = imageio.imread(tmp_path / f"bar{suffix}", plugin="FFMPEG" if suffix == ".mp4" else "pillow")
    assert back.shape == frames.shape
    assert np.abs(back.astype(int) - frames).mean() < 12
    assert [path.name for path in tmp_path.iterdir()] == [f"bar{suffix}"]
    gc.collect()  # here and not in a later test


def test_a_gif_plays_at_the_asked_rate() -> None:
    from PIL import Image

    frames = np.random.default_rng(0).integers(0, 255, (3, 16, 16, 3), np.uint8)
    with Image.open(io.BytesIO(encode(frames, 25.0, ".gif"))) as image:
        assert (image.info["duration"], image.info["loop"]) == (40, 0)


def test_another_suffix_and_an_absent_folder_are_refused(tmp_path: Path) -> None:
    frames = np.zeros((2, 16, 16, 3), np.uint8)
    with pytest.raises(RenderingError, match=r"\.gif or \.mp4"):
        write_video(tmp_path / "film.avi", frames, 25.0)
    with pytest.raises(RenderingError, match="another --out"):
        write_video(tmp_path / "nowhere" / "film.gif", frames, 25.0)


def test_where_nothing_draws_one_line_says_what_to_install() -> None:
    """EGL's and OSMesa's libraries are hidden from a process of its own."""
    script = (
        "import agent.rendering as r\n"
        "r.PROBE = 'raise ImportError(\"no libEGL.so.1\")'\n"
        "try:\n    r.backend()\nexcept r.RenderingError as error:\n    print(error)\n"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL")}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.count("\n") == 1
    assert "egl: ImportError: no libEGL.so.1; osmesa:" in done.stdout
    assert "apt-get install libegl1" in done.stdout


def test_a_user_s_wrong_backend_is_passed_over() -> None:
    """MUJOCO_GL=osmesa without OSMesa must not abort the process where EGL draws."""
    script = "from agent.rendering import backend; print(backend().name)"
    environment = {**os.environ, "MUJOCO_GL": "osmesa"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("osmesa", "egl")
