"""One episode of an exported policy as a video, drawn by `slipway play` in a process of its own.

OpenGL is chosen before MuJoCo is loaded and may abort a process that chose wrongly: neither may happen to the caller's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from agent.errors import RenderingError
from agent.process import die_with_parent

WIDTH, HEIGHT = 320, 240
MOST_STEPS = 500
MOST_SECONDS = 180.0


def film(policy: Path, out: Path, *, env: dict[str, Any], seed: int) -> dict[str, Any]:
    """Write `out` (.mp4 or .gif) and return {"name", "steps", "return", "success", "cut", ...} of the episode.

    `env` is the run's environment ({"id", "kwargs", "max_episode_steps"}), which the policy's contract names too; the
    episode is cut after `MOST_STEPS` steps, as "cut" then says.

    Raises:
        RenderingError: nothing draws here, or the environment has no picture; says what to do.
    """
    limit = min(MOST_STEPS, env.get("max_episode_steps") or MOST_STEPS)
    command = [
        sys.executable, "-m", "agent.cli", "play", str(policy), "--out", str(out), "--seed", str(seed),
        "--width", str(WIDTH), "--height", str(HEIGHT), "--max-episode-steps", str(limit), "--json",
    ]  # fmt: skip
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=MOST_SECONDS, check=False,
            preexec_fn=partial(die_with_parent, os.getpid()),
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise RenderingError(f"the episode was not drawn within {MOST_SECONDS:.0f} s: try `slipway play`") from error
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RenderingError(said.removeprefix("slipway play: "))
    episode: dict[str, Any] = json.loads(done.stdout)["episodes"][0]
    return {**episode, "cut": may_be_cut(env) and episode["steps"] >= MOST_STEPS}


def may_be_cut(env: dict[str, Any]) -> bool:
    """Whether an episode in `env` may last longer than its film."""
    limit = env.get("max_episode_steps")
    return limit is None or limit > MOST_STEPS


def as_gif(video: Path) -> tuple[bytes, tuple[int, int]]:
    """The moving picture in `video` (.mp4) as a GIF, and its (height, width)."""
    import imageio.v3 as imageio

    from agent.rendering import encode

    frames = imageio.imread(video, plugin="FFMPEG")
    fps = float(imageio.immeta(video, plugin="FFMPEG")["fps"])
    return encode(frames, fps, ".gif"), frames.shape[1:3]
