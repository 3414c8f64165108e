"""Episodes to look at: a policy's, run now, or logged ones, shown again. Torch-free.

Logged episodes are shown by putting the simulator into the states that the recorded observations tell
(`envs.posing`). Where that cannot be done, the recorded actions are played in an environment that was reset, and what
this shows is said: a log tells no reset's seed, so it is the same actions from another start.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from agent.errors import ConfigError
from agent.evaluation import check_layout
from agent.rendering import DrawnEpisode, Film, run_episode, stride_of
from envs.errors import EnvError
from envs.posing import SHOWN, Poser
from envs.wrappers import FlatEnv
from replay.episodes import EpisodeTable, episode_table, read_episode
from replay.reader import StoreReader
from replay.schema import StoreSpec
from replay.store import Store

Pick = Literal["first", "last", "best", "worst", "random"]


@dataclass(kw_only=True)
class Mechanics:
    """Joints and bodies of a MuJoCo simulation at each frame; empty for any other environment."""

    positions: dict[str, list[float]] = field(default_factory=dict)
    """By joint, [F]; rad or m. Joints of one degree of freedom only."""
    velocities: dict[str, list[float]] = field(default_factory=dict)
    """By joint, [F]; rad/s or m/s."""
    bodies: dict[str, list[NDArray[np.float64]]] = field(default_factory=dict)
    """By body, [F] of places [3], m."""

    def note(self, env: FlatEnv) -> None:
        """Take down the present state."""
        inner: Any = env.unwrapped
        if type(getattr(inner, "data", None)).__name__ != "MjData":
            return
        model, data = inner.model, inner.data
        for number in range(model.njnt):
            joint = model.joint(number)
            if joint.type[0] in (2, 3):  # slide and hinge
                name = joint.name or f"joint{number}"
                self.positions.setdefault(name, []).append(float(data.qpos[joint.qposadr[0]]))
                self.velocities.setdefault(name, []).append(float(data.qvel[joint.dofadr[0]]))
        for number in range(1, model.nbody):
            self.bodies.setdefault(model.body(number).name or f"body{number}", []).append(data.xpos[number].copy())


@dataclass(frozen=True, kw_only=True)
class Shown(DrawnEpisode):
    """One episode as it was shown."""

    name: str
    """Which one: `seed 17`, or the stream and number of a logged one."""
    how: Literal["policy", "states", "actions"]
    """A policy acted; recorded states were shown; recorded actions were played."""
    note: str
    """What the pictures do not show as it was; empty where they show all of it."""
    mechanics: Mechanics
    """Joints and bodies."""


def play_policy(env: FlatEnv, policy: Any, *, episodes: int, rng: np.random.Generator, fps: float) -> Iterator[Shown]:
    """Episodes of a policy (`act([O]) -> [A]`), each from a seed that `rng` draws."""
    for _ in range(episodes):
        seed, mechanics = int(rng.integers(2**31)), Mechanics()
        played = run_episode(env, policy, seed=seed, fps=fps, on_frame=lambda _, m=mechanics: m.note(env))  # type: ignore[misc]
        yield Shown(
            name=f"seed {seed}", how="policy", note="", frames=played.frames, frame_steps=played.frame_steps,
            stride=played.stride, fps=played.fps, observations=played.observations, actions=played.actions,
            rewards=played.rewards, success=played.success, mechanics=mechanics,
        )  # fmt: skip


def play_store(
    env: FlatEnv, store: Store, *, pick: Pick, episodes: int, rng: np.random.Generator, fps: float
) -> Iterator[Shown]:
    """Logged episodes of a store, drawn in `env`.

    Raises:
        ConfigError: the store holds no episode.
        RunError: `env` has another layout than the store.
    """
    check_layout(env, store.spec, what=f"store {store.path}")
    reader = store.reader()
    table = episode_table(reader)
    for e in chosen(table, pick, episodes, rng):
        yield play_logged(env, reader, table, e, seed=int(rng.integers(2**31)), fps=fps)


def chosen(table: EpisodeTable, pick: Pick, episodes: int, rng: np.random.Generator) -> Sequence[int]:
    """Lines of the table to show; of equal returns the earlier comes first. ConfigError where there is none."""
    count = len(table.stream)
    if not count:
        raise ConfigError("the store holds no episode to show: add data first")
    order: NDArray[np.int64]
    if pick == "random":
        order = rng.permutation(count)
    elif pick in ("best", "worst"):
        order = np.argsort(-table.returns if pick == "best" else table.returns, kind="stable")
    else:
        order = np.arange(count)
        order = order[-episodes:] if pick == "last" else order
    return [int(e) for e in order[:episodes]]


def play_logged(env: FlatEnv, reader: StoreReader, table: EpisodeTable, e: int, *, seed: int, fps: float) -> Shown:
    """Logged episode `e` of the table: by its states, or else by its actions after a reset with `seed`."""
    episode = read_episode(reader, table, e)
    mechanics = Mechanics()
    stride, shown_fps = stride_of(env, fps)
    env.reset(seed=seed)
    how: Literal["states", "actions"] = "states"
    try:
        poser = Poser(env)
    except EnvError:
        how = "actions"
        played = run_episode(env, episode.actions, seed=seed, fps=fps, on_frame=lambda _: mechanics.note(env))
        frames, steps = played.frames, played.frame_steps
        note = drift(played.observations, episode.observations, seed)
    else:
        film = Film(env, lambda _: mechanics.note(env))
        last, before = len(episode.actions), 0
        for step in [*range(0, last, stride), last]:
            poser.show(episode.observations[step], (step - before) / (shown_fps * stride))
            film.take(step)
            before = step
        frames, steps = film.frames(), np.array(film.steps)
        note = missing(poser, reader.spec)
    success = episode.info.get("success")
    return Shown(
        name=f"{episode.stream} #{episode.episode_id}", how=how, note=note, frames=frames, frame_steps=steps,
        stride=stride, fps=shown_fps, observations=episode.observations, actions=episode.actions,
        rewards=episode.rewards.astype(np.float64), success=None if success is None else float(success.max() > 0),
        mechanics=mechanics,
    )  # fmt: skip


def missing(poser: Poser, spec: StoreSpec) -> str:
    """What pictures by recorded states do not show as it was."""
    said = []
    if poser.hidden:
        joints = f"{', '.join(poser.hidden[:4])}{', …' if len(poser.hidden) > 4 else ''}"
        said.append(
            f"the observations do not tell the whole position of {joints}: it is followed by its velocity or stays"
        )
    names = [spec.columns[column] for column in np.flatnonzero(poser.missed)]
    if names:
        said.append(f"shown otherwise than recorded: {', '.join(names[:4])}{', …' if len(names) > 4 else ''}")
    return "; ".join(said)


def drift(shown: NDArray[np.float32], recorded: NDArray[np.float32], seed: int) -> str:
    """From which step on played actions lead elsewhere than when they were recorded; empty where they never do."""
    common = min(len(shown), len(recorded))
    apart = np.abs(shown[:common] - recorded[:common]) > SHOWN * np.maximum(1.0, np.abs(recorded[:common]))
    steps = np.flatnonzero(apart.any(axis=1))
    if not len(steps) and len(shown) == len(recorded):
        return ""
    if len(steps) and steps[0] == 0:
        return f"the recorded actions from another start (reset with seed {seed}): not the recorded episode"
    apart_from = int(steps[0]) if len(steps) else common
    return f"the recorded actions; from step {apart_from} on they lead elsewhere than recorded"
