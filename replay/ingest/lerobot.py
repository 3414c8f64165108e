"""LeRobot v3 folders: meta/info.json and data/chunk-NNN/file-NNN.parquet, all episodes in one row after the other.

Observations are the features observation.* that hold a vector of numbers a row (observation.state first), or those of
`observation_keys`; videos and images are not read and counted in `mended`. Action bounds are the environment's, where
one is given, else the range of the data: LeRobot records none.

`next.done` marks success, the end of the recording, or both. Where there is `next.success`, that tells success (in the
episode's last frame, where there is no `next.done`); otherwise a done step whose `next.reward` is not 0 is terminated,
any other is truncated. Without `next.reward` every reward is 0 (`steps_without_reward`). The last frame's outcome is
not recorded: see `ends.py`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from replay.ingest import arrow
from replay.ingest.digest import folder_digest
from replay.ingest.environment import fitting_layout, merge_environment
from replay.ingest.rows import Batch, action_range, episodes_of, missing_column
from replay.ingest.source import IngestOptions, Source, SourceDescription, SourceEpisode, SourceFormatError, one_line

INFO = Path("meta") / "info.json"


def matches(source: str) -> bool:
    """A folder with meta/info.json."""
    return (Path(source).expanduser() / INFO).is_file()


def recorded_environment(source: str) -> dict[str, Any] | None:
    """None: LeRobot names a robot, but no environment."""
    return None


def open_source(source: str, options: IngestOptions) -> Source:
    """Open a LeRobot v3 folder.

    Raises:
        SourceFormatError: another version, damaged, or without a vector observation or an action.
    """
    folder = Path(source).expanduser()
    info = _info(folder)
    files = sorted((folder / "data").glob("chunk-*/file-*.parquet"))
    if not files:
        raise SourceFormatError(f"{folder} holds no data/chunk-*/file-*.parquet; it is incomplete: fetch it again")
    features = info["features"]
    keys = _observation_keys(folder, features, options.observation_keys)
    needed = ["action", "episode_index", "frame_index"]
    columns = arrow.open_parquet(files[0]).schema_arrow.names
    for key in (*keys, *needed):
        if key not in columns or key not in features:
            raise missing_column(str(files[0] if key in features else folder / INFO), key, "a step", columns)
    optional = tuple(key for key in ("next.done", "next.reward", "next.success") if key in columns)
    kept = ("success",) if "next.success" in optional else ()
    if options.terminate_on is not None and options.terminate_on not in kept:
        raise SourceFormatError(
            f"{folder} records no {options.terminate_on!r} to end episodes on; it has {kept or 'none'}"
        )
    frames = sum(arrow.open_parquet(path).metadata.num_rows for path in files)
    if frames != info["total_frames"]:
        raise SourceFormatError(
            f"{folder}: data/ holds {frames} frames, {INFO} says {info['total_frames']}; fetch it again"
        )
    notes: Counter[str] = Counter()
    read = partial(_batches, files, keys, optional)
    env = merge_environment(None, options.env)
    terms = _terms(keys, features)
    acted = int(np.prod(features["action"].get("shape") or [1]))
    if env is not None:
        observed = sum(int(term["length"]) for term in terms)
        _, low, high = fitting_layout(str(folder), env, observations=observed, actions=acted)
    else:
        low, high = action_range(read(), str(folder), ["action"] * acted)
    skipped = sum(feature.get("dtype") in ("video", "image") for feature in features.values())

    def episodes() -> Iterator[SourceEpisode]:
        notes["image_features_skipped"] = skipped
        notes["steps_without_reward"] = 0 if "next.reward" in optional else frames
        # Without next.done an episode's last frame alone says how it ended: success may last for several.
        outcome = kept[0] if kept and "next.done" not in optional else None
        yield from episodes_of(read(), notes, terminate_on=options.terminate_on, outcome=outcome)

    return Source(
        description=SourceDescription(
            kind="lerobot",
            name=str(folder),
            digest=folder_digest(folder, [folder / INFO, *files]),
            observation=terms,
            action_low=low,
            action_high=high,
            action_dtype=str(features["action"]["dtype"]),
            info=kept,
            env=env,
            provenance={key: info[key] for key in ("robot_type", "fps", "codebase_version") if key in info},
            total_steps=int(info["total_frames"]),
        ),
        episodes=episodes,
        notes=notes,
    )


def _info(folder: Path) -> dict[str, Any]:
    path = folder / INFO
    try:
        info: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SourceFormatError(f"{path} is not readable as JSON ({one_line(error)}); fetch it again") from error
    for key in ("codebase_version", "features", "total_frames"):
        if not isinstance(info, dict) or key not in info:
            raise SourceFormatError(f"{path} lacks {key!r}; it is no LeRobot dataset, or fetch it again")
    features = info["features"]
    if not isinstance(features, dict):
        raise SourceFormatError(f"{path}: 'features' is no table of features by name; fetch it again")
    for name, feature in features.items():
        if not (isinstance(feature, dict) and isinstance(feature.get("dtype"), str) and _is_shape(feature)):
            raise SourceFormatError(
                f"{path}: feature {name!r} is {json.dumps(feature)[:80]}; it needs a dtype, and as shape a list of "
                "whole numbers: fetch it again"
            )
    if not str(info["codebase_version"]).startswith("v3"):
        raise SourceFormatError(
            f"{path}: codebase_version is {info['codebase_version']}, read is v3.0; convert it with LeRobot's "
            "convert_dataset_v21_to_v30"
        )
    return info


def _is_shape(feature: dict[str, Any]) -> bool:
    """Whether the feature's shape is one; it may be left out."""
    shape = feature.get("shape") or []
    return isinstance(shape, list) and all(isinstance(n, int) and n >= 0 for n in shape)


def _observation_keys(folder: Path, features: dict[str, Any], wanted: tuple[str, ...] | None) -> tuple[str, ...]:
    """Features to take, observation.state first; wanted ones may leave out "observation."."""
    pictures = {key for key, feature in features.items() if feature.get("dtype") in ("video", "image")}
    low_dimensional = [
        key
        for key, feature in features.items()
        if key.startswith("observation.") and key not in pictures and len(feature.get("shape") or ()) <= 1
    ]
    if wanted is None:
        if not low_dimensional:
            raise SourceFormatError(f"{folder / INFO} has no vector feature observation.*; images cannot be stored")
        return tuple(sorted(low_dimensional, key=lambda key: (key != "observation.state", key)))
    full = tuple(key if key in features else f"observation.{key}" for key in wanted)
    for key, given in zip(full, wanted, strict=True):
        if key in pictures:
            raise SourceFormatError(f"{folder / INFO}: {given!r} is an image; take of {', '.join(low_dimensional)}")
        if key not in features:
            held = (name.removeprefix("observation.") for name in low_dimensional)
            raise missing_column(str(folder / INFO), given, "the observation", held)
    return full


def _terms(keys: tuple[str, ...], features: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    terms, offset = [], 0
    for key in keys:
        length = int(np.prod(features[key].get("shape") or [1]))
        dtype = str(features[key]["dtype"])
        terms.append({"name": key.removeprefix("observation."), "offset": offset, "length": length, "dtype": dtype})
        offset += length
    return tuple(terms)


def _batches(files: list[Path], keys: tuple[str, ...], optional: tuple[str, ...]) -> Iterator[Batch]:
    for path in files:
        for row, batch in arrow.parquet_batches(path, [*keys, "action", "episode_index", "frame_index", *optional]):
            count, place = batch.num_rows, f"{path}, from row {row}"
            parts = [arrow.numbers(batch, key, place).reshape(count, -1) for key in keys]
            rewards = np.zeros(count)
            if "next.reward" in optional:
                rewards = arrow.single(arrow.numbers(batch, "next.reward", place), "next.reward", place)
            done = arrow.flags(batch, "next.done", str(path), row) if "next.done" in optional else np.zeros(count, bool)
            success = rewards != 0
            info = {}
            if "next.success" in optional:
                success = arrow.flags(batch, "next.success", str(path), row)
                info["success"] = success.astype(np.float64)
            yield Batch(
                where=str(path),
                first_row=row,
                observations=np.concatenate(parts, axis=1),
                actions=arrow.numbers(batch, "action", place).reshape(count, -1),
                rewards=rewards,
                terminated=done & success,
                truncated=done & ~success,
                episode=arrow.single(arrow.numbers(batch, "episode_index", place), "episode_index", place),
                clock=arrow.single(arrow.numbers(batch, "frame_index", place), "frame_index", place),
                info=info,
            )
