"""Look at episodes: a policy's, run now, or logged ones, as a video, in a window, or in the Rerun viewer.

TARGET is a run (its newest policy), a bundle, a .onnx policy, or a store. Logged episodes are shown by putting the
simulator into the recorded states, as far as the observations tell them; what they do not tell is said. Without --out
and --rerun a window opens.

Example:
  slipway play door.policy --out door.mp4 --episodes 3
  slipway play door.zarr --pick best --out best.gif
  slipway play runs/door --rerun door.rrd
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from agent.console import progress, results, table, write_json
from agent.errors import ConfigError, RenderingError
from agent.evaluation import check_layout, evaluation_rng
from agent.playback import Pick, Shown, play_policy, play_store
from agent.policies import env_spec_of, resolve_policy
from agent.rendering import MOST_FPS, VIDEO_SUFFIXES, backend, caption, make_rendering_env, write_video
from agent.seeds import check_seed
from envs.make import make_env
from envs.wrappers import FlatEnv
from export.runner import PolicyRunner
from replay.layout import GROUP
from replay.store import Store


@dataclass(frozen=True, kw_only=True)
class Args:
    target: Annotated[Path, tyro.conf.Positional]
    """Run, bundle, .onnx policy, or store."""
    env: str = ""
    """Gymnasium environment id; empty takes the one that the policy or the store names."""
    out: Path | None = None
    """Video to write, .mp4 or .gif."""
    rerun: Path | None = None
    """Recording to write for the Rerun viewer, .rrd: pictures, paths, joints, observations, actions, rewards."""
    episodes: int = 1
    """Episodes to show."""
    pick: Pick = "first"
    """Which episodes of a store: first, last, best or worst (by return), random."""
    max_episode_steps: int = 0
    """Time limit of a policy's episodes in steps; 0 takes the contract's."""
    width: int = 480
    """Of the picture, in pixels; an environment with a size of its own keeps it."""
    height: int = 360
    """Of the picture, in pixels."""
    seed: int = 0
    """Seeds resets and random picks."""
    json: bool = False
    """Print one JSON object."""


def run(args: Args) -> int:
    """Show, write, and say what was shown."""
    check(args)
    mode = "rgb_array" if args.out or args.rerun else "human"
    env, episodes = prepare(args, mode)
    shown: list[Shown] = []
    with closing(env), progress() as bars:
        bar = bars.add("play", args.episodes)
        for episode in episodes:
            shown.append(episode)
            bar(len(shown), note=episode.name)
    if args.out is not None:
        # Episodes share environment and stride, and with them size and rate.
        frames = [caption(each.frames, title(number, shown)) for number, each in enumerate(shown)]
        write_video(args.out, np.concatenate(frames), shown[0].fps)
    if args.rerun is not None:
        from agent.rerun_log import write_rerun  # loads rerun

        write_rerun(args.rerun, shown, env.flattener.leaves)
    say(args, env.env_id, shown)
    return 0


def check(args: Args) -> None:
    """ConfigError for arguments that cannot be served, before anything runs."""
    if not args.target.exists():
        raise ConfigError(f"{args.target} does not exist: give a store, a run directory, a bundle or a .onnx policy")
    if not (args.target / GROUP).exists():
        resolve_policy(args.target)
    if args.episodes < 1:
        raise ConfigError(f"--episodes is {args.episodes} but must be 1 or more")
    check_seed(args.seed)
    if min(args.width, args.height) < 16:
        raise ConfigError(f"--width {args.width} and --height {args.height}: both must be 16 or more")
    if args.out is not None and args.out.suffix.lower() not in VIDEO_SUFFIXES:
        raise ConfigError(f"--out {args.out} must end in {' or '.join(VIDEO_SUFFIXES)}")
    if args.rerun is not None and args.rerun.suffix != ".rrd":
        raise ConfigError(f"--rerun {args.rerun} must end in .rrd")
    for name, path in (("--out", args.out), ("--rerun", args.rerun)):
        if path is not None and not path.parent.is_dir():
            raise ConfigError(f"{name} {path}: there is no folder {path.parent}: make it first")
    if args.rerun is not None:
        import rerun  # noqa: F401  # a missing extra is told before episodes are run
    if args.out is not None:
        backend()
    elif args.rerun is None and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise ConfigError("there is no display for a window: give --out FILE.mp4, FILE.gif, or --rerun FILE.rrd")


def prepare(args: Args, mode: str) -> tuple[FlatEnv, Iterator[Shown]]:
    """The environment and the episodes to come."""
    rng = evaluation_rng(args.seed)
    # In a window every step is shown, at the window's own pace.
    fps = MOST_FPS if mode == "rgb_array" else float("inf")
    if (args.target / GROUP).exists():
        store = Store.open(args.target)
        spec = {"id": args.env, "kwargs": {}, "max_episode_steps": None} if args.env else store.spec.env
        if spec is None:
            raise ConfigError(f"store {args.target} names no environment: give one with --env, e.g. --env Hopper-v5")
        env = make(args, spec, mode)
        return env, play_store(env, store, pick=args.pick, episodes=args.episodes, rng=rng, fps=fps)
    runner = PolicyRunner(resolve_policy(args.target))
    contract = runner.contract
    env = make(args, env_spec_of(contract, args.env, args.max_episode_steps), mode)
    check_layout(env, contract, what=f"policy {contract.policy_id}")
    return env, play_policy(env, runner, episodes=args.episodes, rng=rng, fps=fps)


def make(args: Args, spec: dict[str, Any], mode: str) -> FlatEnv:
    """The environment, with pictures; without, where only a recording is asked for and nothing draws here."""
    try:
        if mode == "rgb_array":
            backend()
        return make_rendering_env(spec, width=args.width // 2 * 2, height=args.height // 2 * 2, mode=mode)
    except RenderingError:
        if args.out is not None or args.rerun is None:
            raise
        return make_env(str(spec["id"]), kwargs=spec.get("kwargs"), max_episode_steps=spec.get("max_episode_steps"))


def title(number: int, shown: list[Shown]) -> str:
    """What stands in an episode's pictures."""
    episode = shown[number]
    success = {None: "", 0.0: " · failed", 1.0: " · success"}[episode.success]
    return f"{number + 1}/{len(shown)} · {episode.name} · return {episode.episode_return:.4g}{success}"


def say(args: Args, env_id: str, shown: list[Shown]) -> None:
    """The episodes as a table, or as JSON."""
    files = [str(path) for path in (args.out, args.rerun) if path is not None]
    if args.json:
        episodes = [
            {
                "name": each.name, "how": each.how, "note": each.note, "steps": len(each.rewards),
                "return": each.episode_return, "success": each.success, "frames": len(each.frames),
            }
            for each in shown
        ]  # fmt: skip
        write_json({"target": str(args.target), "env": env_id, "files": files, "episodes": episodes})
        return
    rows = [
        [each.name, f"{each.episode_return:.4g}", str(len(each.rewards)),
         "–" if each.success is None else "yes" if each.success else "no"]
        for each in shown
    ]  # fmt: skip
    how = {"policy": "run now", "states": "recorded states", "actions": "recorded actions"}[shown[0].how]
    results.print(table(f"{env_id}, {how}", ["episode", "return", "steps", "success"], rows))
    for note in dict.fromkeys(each.note for each in shown if each.note):
        results.print(f"note: {note}")
    for file in files:
        results.print(file)
