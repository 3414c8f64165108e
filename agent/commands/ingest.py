"""Read logged data into a replay store: whole or not at all.

SOURCE is a Minari dataset id or folder, a D4RL-style or robomimic HDF5 file, an .npz, a CSV or Parquet log, a
LeRobot v3 folder, or another Slipway store.

Example:
  slipway ingest D4RL/pen/human-v2 --out pen.zarr
  slipway ingest logs.hdf5 --env AdroitHandDoor-v1 --out door.zarr
  slipway ingest log.csv --columns map.toml --out arm.zarr --dry-run
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from agent.calls import ingest
from agent.console import plural, progress, results, write_json
from replay.ingest.source import MENDED


@dataclass(frozen=True, kw_only=True)
class Args:
    source: Annotated[str, tyro.conf.Positional]
    """Minari id or folder, .hdf5, .npz, .csv, .tsv, .parquet, LeRobot folder or another store."""
    out: Path
    """Store to make; the same command on a finished one changes nothing."""
    env: str = ""
    """Gymnasium id, where the source records none (.hdf5, .npz) or another one is meant."""
    max_episode_steps: int | None = None
    """Time limit of the recorded episodes, where the source does not mark them."""
    terminate_on: str = ""
    """Info whose first non-zero value ends an episode for good, e.g. success. Empty: as the environment's task asks,
    another Slipway store as recorded; none: as recorded."""
    clip_actions: bool = False
    """Clip actions into their bounds instead of refusing those outside."""
    columns: Path | None = None
    """Column map (TOML or JSON) of a CSV or Parquet log: which columns are observation, action, reward, episode, ..."""
    observation_keys: str = ""
    """Parts of the observation to take, separated by commas (robomimic, LeRobot). Empty: all that are no images."""
    filter_key: str = ""
    """robomimic mask, e.g. train: only its demonstrations are taken."""
    dry_run: bool = False
    """Say what would be taken and what refused; write nothing."""
    json: bool = False
    """Print one JSON object at the end."""


def run(args: Args) -> int:
    """Ingest, with progress."""
    outcome = ingest_with_progress(args)
    if args.json:
        write_json(outcome)
    else:
        say(args, outcome)
    return 2 if outcome.get("refused") else 0


def say(args: Args, outcome: dict[str, Any]) -> None:
    """Print what was taken and mended, or would be, or why nothing would."""
    if args.dry_run:
        results.print(f"{args.source}: would take {would_take(outcome)}")
    else:
        word = "already ingested" if outcome["already"] else "ingested"
        results.print(f"{args.out}: {word} {taken(outcome)}")
    if outcome.get("refused"):
        for message in outcome["refused"]:
            results.print(f"refused: {message}")
        return
    for what, count in outcome["mended"].items():
        results.print(f"mended: {count:,} × {MENDED[what]}")


def would_take(found: dict[str, Any]) -> str:
    """What the same command without --dry-run would store: all of it, or nothing."""
    if found["refused"]:
        bad = found["refused_episodes"]
        of = f" of {plural(bad + found['episodes'], 'episode')}" if found["episodes"] is not None else ""
        return f"nothing: {bad}{of} {'is' if bad == 1 else 'are'} refused ({found['kind']})"
    return f"{taken(found)} ({found['kind']})"


def taken(found: dict[str, Any]) -> str:
    """Steps and episodes; a dry run does not count another store's episodes."""
    episodes = "all episodes" if found["episodes"] is None else plural(found["episodes"], "episode")
    return f"{plural(found['steps'], 'step')}, {episodes}"


def ingest_with_progress(args: Args) -> dict[str, Any]:
    """The library call with a bar."""
    options: dict[str, Any] = {}
    if args.terminate_on:
        options["terminate_on"] = None if args.terminate_on == "none" else args.terminate_on
    with progress() as bars:
        bar = bars.add("ingest", None)

        def tick(done: int, total: int | None) -> None:
            bar(done, total=total, note=args.source)

        return ingest(
            args.source, args.out, env=environment(args),
            clip_actions=args.clip_actions, progress=tick, columns=args.columns, filter_key=args.filter_key or None,
            observation_keys=args.observation_keys.split(",") if args.observation_keys else None, dry_run=args.dry_run,
            **options,
        )  # fmt: skip


def environment(args: Args) -> dict[str, Any] | None:
    """The part of the environment spec that the flags give."""
    given = {"id": args.env or None, "max_episode_steps": args.max_episode_steps}
    return {key: value for key, value in given.items() if value is not None} or None
