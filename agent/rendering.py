"""Pictures of episodes without a screen, as arrays and as GIF or MP4 files. Torch-free.

    episode = render_episode(PolicyRunner("door.policy"), spec, seed=0)
    write_video(Path("door.mp4"), episode.frames, episode.fps)

MuJoCo draws through EGL (a GPU or Mesa's software) or OSMesa. Which of them works can only be tried, and a wrong one
may abort the process: `backend` tries in a child process, once.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.errors import RenderingError
from agent.files import write_atomic
from envs.catalog import lookup
from envs.errors import EnvError, one_line
from envs.make import make_env
from envs.wrappers import FlatEnv

Frames = NDArray[np.uint8]
"""[T, H, W, 3], RGB."""

MOST_FPS = 25.0
PROBE_SECONDS = 60.0
SOFTWARE = ("llvmpipe", "softpipe", "swrast", "swiftshader", "software")
VIDEO_SUFFIXES = (".gif", ".mp4")

# Draws one white square and tells who drew it; a picture that stays black is a failure.
PROBE = """
import mujoco
from OpenGL import GL
model = mujoco.MjModel.from_xml_string(
    '<mujoco><worldbody><light pos="0 0 2"/><geom type="box" size="1 1 .1"/></worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 32, 32) as renderer:
    renderer.update_scene(data)
    assert renderer.render().any(), "the picture stayed black"
    print(GL.glGetString(GL.GL_RENDERER).decode())
"""


@dataclass(frozen=True, kw_only=True)
class Backend:
    """A way of drawing that works here."""

    name: str
    """Value of MUJOCO_GL: egl, osmesa or glfw."""
    renderer: str
    """What OpenGL calls itself, e.g. `llvmpipe (LLVM 15.0.6, 256 bits)`."""

    @property
    def software(self) -> bool:
        """Whether the CPU draws, where shadows cost five to nine times the rest of a frame."""
        return any(name in self.renderer.lower() for name in SOFTWARE)


@dataclass(frozen=True, kw_only=True)
class DrawnEpisode:
    """One episode and its pictures. F frames, T steps."""

    frames: Frames
    """[F, H, W, 3] uint8: the first observation's, one every few steps, and the last; F = 0 where none is drawn."""
    frame_steps: NDArray[np.int64]
    """[F], steps taken before each frame."""
    stride: int
    """Steps from one frame to the next; the last frame may come early."""
    fps: float
    """Frames a second at which it plays in real time."""
    observations: NDArray[np.float32]
    """[T + 1, O]"""
    actions: NDArray[np.float32]
    """[T, A], environment units."""
    rewards: NDArray[np.float64]
    """[T], raw."""
    success: float | None
    """Whether the task was solved at any step, 0 or 1; None where the task does not tell."""

    @property
    def step_seconds(self) -> float:
        """Simulated seconds of a step."""
        return 1.0 / (self.fps * self.stride)

    @property
    def episode_return(self) -> float:
        """Undiscounted sum of raw rewards."""
        return float(self.rewards.sum())


@dataclass(frozen=True, kw_only=True)
class RenderedEpisode(DrawnEpisode):
    """An episode that was run to be drawn."""

    seed: int
    """The environment was reset with it."""
    terminated: bool
    """It ended in the task's sense."""
    truncated: bool
    """It ended by its time limit."""

    @property
    def steps(self) -> int:
        """Steps taken."""
        return len(self.rewards)


def probe(name: str) -> tuple[str, str]:
    """Try one backend in a child process: (renderer, "") where it draws, else ("", why not)."""
    variables = {**os.environ, "MUJOCO_GL": name, "PYOPENGL_PLATFORM": "" if name == "glfw" else name}
    command = [sys.executable, "-W", "ignore", "-c", PROBE]
    try:
        done = subprocess.run(
            command, env=variables, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return "", f"no answer within {PROBE_SECONDS:.0f} s"
    if done.returncode == 0 and done.stdout.strip():
        return done.stdout.strip().splitlines()[-1], ""
    said = (done.stderr.strip() or f"ended with code {done.returncode}").splitlines()[-1]
    return "", one_line(said, 120)


def candidates() -> list[str]:
    """Backends in the order in which they are tried: the user's choice, then without a screen, then with one."""
    chosen = os.environ.get("MUJOCO_GL", "").lower()
    names = [chosen] if chosen in ("egl", "osmesa", "glfw") else []
    names += ["egl", "osmesa"]
    names += ["glfw"] if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") else []
    return list(dict.fromkeys(names))


@cache
def backend() -> Backend:
    """The first backend that draws here; also sets MUJOCO_GL for this process, before MuJoCo's drawing is loaded.

    Raises:
        RenderingError: none does, with what each said.
    """
    refused = []
    for name in candidates():
        renderer, reason = probe(name)
        if renderer:
            os.environ["MUJOCO_GL"] = name
            return Backend(name=name, renderer=renderer)
        refused.append(f"{name}: {reason}")
    raise RenderingError(
        f"nothing can draw here ({'; '.join(refused)}): install Mesa's EGL, e.g. "
        "apt-get install libegl1 libgl1-mesa-dri, or OSMesa, apt-get install libosmesa6"
    )


def make_rendering_env(
    spec: Mapping[str, Any], *, width: int = 320, height: int = 240, mode: str = "rgb_array"
) -> FlatEnv:
    """The environment of `spec` ({"id", "kwargs", "max_episode_steps"}), ready to be drawn.

    Width and height, in pixels, are wishes: an environment that has a size of its own keeps it. `mode` is `rgb_array`
    for pictures or `human` for a window.

    Raises:
        RenderingError: the environment cannot be drawn, here or at all.
        EnvError: it cannot be made.
    """
    kwargs = {**(spec.get("kwargs") or {}), "render_mode": mode}
    limit = spec.get("max_episode_steps")
    try:
        env = make_env(str(spec["id"]), kwargs={**kwargs, "width": width, "height": height}, max_episode_steps=limit)
    except EnvError:
        env = make_env(str(spec["id"]), kwargs=kwargs, max_episode_steps=limit)
    if env.render_mode != mode:
        env.close()
        raise RenderingError(f"environment {env.env_id} has no render mode {mode}: it cannot be drawn")
    model: Any = getattr(env.unwrapped, "model", None)
    if type(model).__name__ == "MjModel" and mode == "rgb_array" and backend().software:
        # On a CPU shadows and mirrors take most of the time and add the least.
        model.light_castshadow[:] = 0
        model.mat_reflectance[:] = 0
    return env


def draw(env: FlatEnv) -> Frames | None:
    """The environment's present picture [H, W, 3] uint8, or None where it goes to a window.

    Raises:
        RenderingError: it has none.
    """
    if env.render_mode is None:
        return None
    try:
        rendered: Any = env.render()
    except Exception as error:
        raise RenderingError(f"environment {env.env_id} cannot be drawn: {one_line(error)}") from error
    if rendered is None:
        return None
    frame = np.asarray(rendered)
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        raise RenderingError(
            f"environment {env.env_id} draws {frame.dtype} of shape {frame.shape}, not [H, W, 3] uint8"
        )
    # Video codecs want even sides.
    return np.ascontiguousarray(frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2])


def stride_of(env: FlatEnv, fps: float) -> tuple[int, float]:
    """(steps from one frame to the next, resulting frames a second) for at most `fps` in real time."""
    rate = float(env.metadata.get("render_fps") or (fps if math.isfinite(fps) else MOST_FPS))
    stride = max(1, round(rate / fps))
    return stride, rate / stride


def render_episode(
    policy: Any,
    spec: Mapping[str, Any],
    *,
    seed: int,
    width: int = 320,
    height: int = 240,
    fps: float = MOST_FPS,
) -> RenderedEpisode:
    """Run and draw one episode in the environment of `spec`, reset with `seed`.

    Args:
        policy: what acts: anything with `act([O] float32) -> [A] float32` (an `export.PolicyRunner`), or actions [T, A]
            in environment units, which are played back one after another.
        spec: {"id", "kwargs", "max_episode_steps"}.
        seed: of the reset.
        width: of a frame, in pixels.
        height: of a frame, in pixels.
        fps: at most so many frames a second of simulated time.

    Raises:
        RenderingError: nothing can draw here, or the environment has no picture.
        EnvError, EnvFault: the environment cannot be made, or misbehaves.
    """
    env = make_rendering_env(spec, width=width, height=height)
    try:
        return run_episode(env, policy, seed=seed, fps=fps)
    finally:
        env.close()


def run_episode(
    env: FlatEnv,
    policy: Any,
    *,
    seed: int,
    fps: float = MOST_FPS,
    on_frame: Callable[[int], None] = lambda step: None,
) -> RenderedEpisode:
    """`render_episode` in an environment that the caller keeps; `on_frame` hears of each frame's step."""
    if hasattr(policy, "reset"):
        policy.reset()  # a recurrent policy starts each episode at its initial state
    planned: Iterator[NDArray[np.float32]] | None = None if hasattr(policy, "act") else iter(np.asarray(policy))
    stride, shown_fps = stride_of(env, fps)
    observation, _ = env.reset(seed=seed)
    observations, actions, rewards, success = [observation], [], [], 0.0
    film = Film(env, on_frame)
    film.take(0)
    terminated = truncated = False
    while not (terminated or truncated):
        action = policy.act(observation) if planned is None else next(planned, None)
        if action is None:
            break
        observation, reward, terminated, truncated, info = env.step(action)
        observations.append(observation)
        actions.append(np.array(action, np.float32))
        rewards.append(reward)
        success = max(success, float(info.get("success", 0.0)))
        if len(rewards) % stride == 0 or terminated or truncated:
            film.take(len(rewards))
    return RenderedEpisode(
        frames=film.frames(),
        frame_steps=np.array(film.steps),
        stride=stride,
        fps=shown_fps,
        observations=np.stack(observations),
        actions=np.array(actions, np.float32).reshape(len(actions), len(env.action_low)),
        rewards=np.array(rewards, np.float64),
        seed=seed,
        success=success if lookup(env.env_id).success_key is not None else None,
        terminated=terminated,
        truncated=truncated,
    )


class Film:
    """The pictures of one episode, taken one after another."""

    def __init__(self, env: FlatEnv, on_frame: Callable[[int], None] = lambda step: None) -> None:
        self._env, self._on_frame = env, on_frame
        self._frames: list[Frames] = []
        self.steps: list[int] = []
        """Steps before each picture."""

    def take(self, step: int) -> None:
        """Draw what the environment shows now, after `step` steps."""
        frame = draw(self._env)
        if frame is not None:
            self._frames.append(frame)
        self.steps.append(step)
        self._on_frame(step)

    def frames(self) -> Frames:
        """[F, H, W, 3] uint8; F = 0 where they went to a window."""
        return np.stack(self._frames) if self._frames else np.empty((0, 2, 2, 3), np.uint8)


def caption(frames: Frames, text: str) -> Frames:
    """Frames [F, H, W, 3] with a line of text at the top left."""
    from PIL import Image, ImageDraw

    height = max(10, frames.shape[1] // 20)
    written = []
    for frame in frames:
        image = Image.fromarray(frame)
        pen = ImageDraw.Draw(image)
        # Dark on light edges is readable on every background.
        pen.text((4, 2), text, font_size=height, fill=(255, 255, 255), stroke_width=1, stroke_fill=(0, 0, 0))
        written.append(np.asarray(image))
    return np.stack(written)


def encode(frames: Frames, fps: float, suffix: str) -> bytes:
    """Frames [T, H, W, 3] as the bytes of a `.gif` (loops for ever, whole centiseconds a frame) or `.mp4` (H.264)."""
    import imageio.v3 as imageio

    if suffix == ".gif":
        # A GIF's clock ticks in centiseconds.
        milliseconds = max(20, 10 * round(100.0 / fps))
        return bytes(imageio.imwrite("<bytes>", frames, extension=".gif", duration=milliseconds, loop=0))
    if suffix != ".mp4":
        raise RenderingError(f"a video is {' or '.join(VIDEO_SUFFIXES)}, not {suffix or 'a name without a suffix'!r}")
    import imageio_ffmpeg  # noqa: F401  # missing, it says so by name; imageio's own message tells another package

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        # yuv420p and the index at the front: what browsers play.
        imageio.imwrite(
            path, frames, plugin="FFMPEG", fps=fps, codec="libx264", pixelformat="yuv420p", macro_block_size=2,
            output_params=["-movflags", "+faststart"],
        )  # fmt: skip
        return path.read_bytes()


def write_video(path: Path, frames: Frames, fps: float) -> None:
    """Write frames [T, H, W, 3] to `path`, .gif or .mp4 by its suffix, whole or not at all.

    Raises:
        RenderingError: another suffix, or the file cannot be written.
    """
    data = encode(frames, fps, path.suffix.lower())
    try:
        write_atomic(path, data, durable=False)
    except OSError as error:
        raise RenderingError(f"cannot write {path} ({error.strerror}): choose another --out") from error
