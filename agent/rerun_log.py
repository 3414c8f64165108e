"""Shown episodes as a recording for the Rerun viewer (https://rerun.io): `rerun FILE.rrd` opens it.

Each episode is a branch `N/`: `camera` the pictures, `body/NAME` and `path/NAME` where bodies are and have been,
`joint/NAME/position` and `velocity`, `observation/TERM/I`, `action/I`, `reward`, `return_to_go` (the undiscounted sum
of the rewards to come). Timelines: `step`, and `time` in simulated seconds.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rerun as rr
from numpy.typing import NDArray

from agent.errors import RenderingError
from agent.playback import Shown
from envs.wrappers import Leaf

MOST_PATHS = 8
JPEG_QUALITY = 85


def write_rerun(path: Path, shown: Sequence[Shown], leaves: Sequence[Leaf]) -> None:
    """Write `shown` to `path`, whole or not at all. RenderingError where it cannot be written."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.touch()  # rerun reports an unwritable file by a log line only
        recording = rr.RecordingStream("slipway", recording_id=path.stem)
        recording.save(partial)
        for number, episode in enumerate(shown, 1):
            log_episode(recording, f"{number}", episode, leaves)
        recording.flush()
        recording.disconnect()
        partial.replace(path)
    except OSError as error:
        raise RenderingError(f"cannot write {path} ({error.strerror}): choose another --rerun") from error
    finally:
        partial.unlink(missing_ok=True)


def log_episode(recording: Any, branch: str, episode: Shown, leaves: Sequence[Leaf]) -> None:
    """One episode below `branch`."""
    recording.log(branch, rr.TextDocument(f"{episode.name}, {episode.how}. {episode.note}"), static=True)

    def series(name: str, steps: NDArray[np.int64], values: Any) -> None:
        times = [rr.TimeColumn("step", sequence=steps), rr.TimeColumn("time", duration=steps * episode.step_seconds)]
        columns = rr.Scalars.columns(scalars=np.asarray(values, np.float64))
        recording.send_columns(f"{branch}/{name}", indexes=times, columns=columns)

    every = np.arange(len(episode.observations))
    for leaf in leaves:
        for index in range(leaf.length):
            series(f"observation/{leaf.name}/{index}", every, episode.observations[:, leaf.offset + index])
    for index in range(episode.actions.shape[1]):
        series(f"action/{index}", every[:-1], episode.actions[:, index])
    series("reward", every[:-1], episode.rewards)
    series("return_to_go", every[:-1], np.cumsum(episode.rewards[::-1])[::-1])
    for name, positions in episode.mechanics.positions.items():
        series(f"joint/{name}/position", episode.frame_steps, positions)
        series(f"joint/{name}/velocity", episode.frame_steps, episode.mechanics.velocities[name])
    log_places(recording, branch, episode)


def log_places(recording: Any, branch: str, episode: Shown) -> None:
    """Pictures, bodies, and the paths of those that travel farthest."""
    places = {name: np.stack(track) for name, track in episode.mechanics.bodies.items()}
    travelled = {name: float(np.ptp(track, axis=0).max()) for name, track in places.items()}
    farthest = sorted((name for name in places if travelled[name] > 0), key=lambda name: -travelled[name])
    for name in farthest[:MOST_PATHS]:
        recording.log(f"{branch}/path/{name}", rr.LineStrips3D([places[name]]), static=True)
    for number, step in enumerate(episode.frame_steps):
        recording.set_time("step", sequence=int(step))
        recording.set_time("time", duration=float(step) * episode.step_seconds)
        for name in farthest:
            recording.log(f"{branch}/body/{name}", rr.Points3D([places[name][number]], radii=0.01))
        if len(episode.frames):
            recording.log(f"{branch}/camera", rr.Image(episode.frames[number]).compress(jpeg_quality=JPEG_QUALITY))
