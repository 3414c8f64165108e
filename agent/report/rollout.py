"""A short rendered episode for the page: the newest evaluation's video, or one that is drawn now."""

from __future__ import annotations

import base64
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agent.console import plural
from agent.errors import RenderingError
from agent.filming import MOST_STEPS, film, may_be_cut
from agent.publish import policy_path, published_versions
from agent.report.words import number
from agent.run_directory import RunDirectory

MOST_BYTES = 8_000_000
STILLS = 4
JPEG_START = b"\xff\xd8"


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """A video, or why there is none."""

    source: str
    """data: URL of an MP4; empty where there is none."""
    words: str
    """What it shows, or why there is nothing to see and what to do."""
    stills: tuple[str, ...] = ()
    """data: URLs of some of its pictures, for paper."""


def rollout(run: RunDirectory, env: dict[str, Any] | None, seed: int) -> Rollout | None:
    """An episode of the run's newest published policy; None before there is one."""
    versions = published_versions(run.policies) if run.policies.is_dir() else []
    if env is None or not versions:
        return None
    version = versions[-1]
    made = sorted(run.videos.glob(f"*-v{version:06d}.mp4")) if run.videos.is_dir() else []
    if made:
        label = made[-1].stem.partition("-")[0]
        part = f"The beginning, up to {MOST_STEPS} steps, of an episode" if may_be_cut(env) else "An episode"
        return embedded(made[-1], f"{part} of policy version {version}, from the evaluation {label}.")
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "rollout.mp4"
        try:
            episode = film(policy_path(run.policies, version), video, env=env, seed=seed)
        except RenderingError as error:
            return Rollout(source="", words=f"No episode could be drawn: {error}.")
        return embedded(video, described(episode, version))


def described(episode: dict[str, Any], version: int) -> str:
    """What is seen of an episode; one that was cut may yet have solved its task."""
    steps, gained = plural(episode["steps"], "step"), number(float(episode["return"]))
    if episode["cut"]:
        words = f"The first {steps} of an episode of policy version {version}: return {gained} so far"
    else:
        words = f"An episode of policy version {version}: {steps}, return {gained}"
    if episode.get("success"):
        words += ", the task was solved"
    elif episode.get("success") is not None and not episode["cut"]:
        words += ", the task was not solved"
    return f"{words}."


def embedded(video: Path, words: str) -> Rollout:
    """The video inside the page, with stills of it, unless it would make the page too heavy."""
    data = video.read_bytes()
    if len(data) > MOST_BYTES:
        return Rollout(source="", words=f"The video is too large for this page ({len(data) / 1e6:.0f} MB).")
    return Rollout(source=data_url("video/mp4", data), words=words, stills=stills(video))


def stills(video: Path) -> tuple[str, ...]:
    """`STILLS` pictures of the video, from its first to its last, as data: URLs."""
    import imageio_ffmpeg

    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(video), "-f", "image2pipe", "-c:v", "mjpeg"]
    done = subprocess.run([*command, "-q:v", "4", "-"], stdin=subprocess.DEVNULL, capture_output=True, check=True)
    # A JPEG begins with these two bytes and holds them nowhere else.
    frames = [JPEG_START + rest for rest in done.stdout.split(JPEG_START)[1:]]
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(STILLS, len(frames))).round().astype(int))
    return tuple(data_url("image/jpeg", frames[index]) for index in chosen)


def data_url(kind: str, data: bytes) -> str:
    """`data` inside a page."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
