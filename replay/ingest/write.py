"""Store an opened source: beside the output first, then renamed, so that a store exists whole or not at all.

A run writes `STORE.partial-PID`; when it fails it removes it, and when it is killed the next run with the same output
does. What makes two runs the same is the source's kind and digest and the options, all kept in the store's spec.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from replay.errors import ReplayError
from replay.ingest.check import checked
from replay.ingest.source import (
    IngestOptions,
    OutputExistsError,
    Source,
    SourceDescription,
    SourceFormatError,
    one_line,
)
from replay.ingest.success import cut_at_first
from replay.layout import fsync_directory
from replay.processes import remove_left_behind
from replay.schema import StoreSpec
from replay.store import Store

Progress = Callable[[int, int | None], None]
STREAM = "offline"
"""Name of the one stream of an ingested dataset."""


def write_store(source: Source, out: Path, options: IngestOptions, progress: Progress | None) -> dict[str, Any]:
    """Write a source's episodes to a new store at `out`, or recognise that this was done before.

    Returns:
        JSON-able summary: path, kind, name, digest, env, already, mended (counts by kind) and `Store.info()`.

    Raises:
        OutputExistsError: `out` exists and was made from something else.
        IngestError: the data cannot be stored; nothing of it is left behind.
    """
    spec = _spec(source, options)
    if out.exists() or out.is_symlink():
        _refuse_other(out, spec)
        return _summary(out, source, already=True, mended={})
    with beside(out) as partial:
        store = Store.create(partial, spec)
        if source.copy is None:
            _write_episodes(source, store, options, progress)
        else:
            source.copy(store, progress)
    return _summary(out, source, already=False, mended={k: n for k, n in source.notes.items() if n})


def _spec(source: Source, options: IngestOptions) -> StoreSpec:
    described = source.description
    provenance = {
        "kind": described.kind,
        "name": described.name,
        "digest": described.digest,
        "options": json.loads(json.dumps(asdict(options))),
        **described.provenance,
    }
    return StoreSpec.from_terms(
        described.observation,
        described.action_low,
        described.action_high,
        info=described.info,
        env=described.env,
        source=provenance,
        action_dtype=described.action_dtype,
    )


def _write_episodes(source: Source, store: Store, options: IngestOptions, progress: Progress | None) -> None:
    described, notes = source.description, source.notes
    done = stored = 0
    with store.writer(STREAM, durability="process") as writer:
        for recorded in source.episodes():
            done += len(recorded.rewards)
            if len(recorded.rewards) == 0:
                notes["empty_episodes"] += 1
                continue
            episode = checked(recorded, described, clip_actions=options.clip_actions, notes=notes)
            if options.terminate_on is not None:
                episode, left_out = cut_at_first(episode, options.terminate_on)
                notes["steps_after_success"] += left_out
            unmarked = not (episode.terminated or episode.truncated)
            notes["episodes_without_end_flag"] += unmarked
            writer.append_episode(
                episode.observations,
                episode.actions,
                episode.rewards,
                terminated=episode.terminated,
                truncated=episode.truncated or unmarked,
                info=episode.info or None,
            )
            stored += 1
            if progress is not None:
                progress(done, described.total_steps)
        if not stored:
            raise nothing_to_store(described)
        writer.sync()


def nothing_to_store(described: SourceDescription) -> SourceFormatError:
    """The error for a source without a single step."""
    return SourceFormatError(f"{described.name}: no episode has a single step to store; the dataset is empty")


def _refuse_other(out: Path, spec: StoreSpec) -> None:
    """Raise unless `out` is a store made from the same data with the same options."""
    advice = f"choose another output, or remove {out} first"
    try:
        found = Store.open(out).spec.source
    except ReplayError as error:
        raise OutputExistsError(f"{out} exists and is not a readable store ({one_line(error)}); {advice}") from error
    wanted = spec.source or {}
    if not found or "digest" not in found or "options" not in found:
        raise OutputExistsError(f"{out} exists and is not an ingested dataset; {advice}")
    if (found["kind"], found["digest"]) != (wanted["kind"], wanted["digest"]):
        raise OutputExistsError(
            f"{out} exists and was made from other data ({found['kind']} {found['name']}); {advice}"
        )
    # A store of an older Slipway lacks the options that came later: it was made without them.
    differing = [
        key for key, value in wanted["options"].items() if (found["options"].get(key) or None) != (value or None)
    ]
    if differing:
        before = ", ".join(f"{key}={found['options'].get(key)!r}" for key in differing)
        raise OutputExistsError(f"{out} exists and was made from this data with other options ({before}); {advice}")


@contextmanager
def beside(out: Path) -> Iterator[Path]:
    """A path beside `out` to write to; renamed to `out` at the end, removed with all traces on any failure."""
    made = _make_parents(out.parent)
    remove_left_behind(out.parent, f"{out.name}.partial-")
    partial = out.with_name(f"{out.name}.partial-{os.getpid()}")
    try:
        yield partial
        try:
            partial.rename(out)
        except OSError as error:
            raise OutputExistsError(
                f"{out} appeared while it was being written ({error.strerror}); run the command again"
            ) from error
        fsync_directory(out.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        for folder in made:
            if not any(folder.iterdir()):
                folder.rmdir()
        raise


def _make_parents(folder: Path) -> list[Path]:
    """Make a folder and its parents; returns those that were missing, innermost first."""
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputExistsError(f"{folder} cannot be made ({error.strerror}); choose another output") from error
    return missing


def _summary(out: Path, source: Source, *, already: bool, mended: dict[str, int]) -> dict[str, Any]:
    described = source.description
    return {
        "path": str(out),
        "kind": described.kind,
        "name": described.name,
        "digest": described.digest,
        "env": described.env,
        "already": already,
        "mended": mended,
        **Store.open(out).info(),
    }
