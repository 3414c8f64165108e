"""Look after a store. `slipway replay ACTION --help` explains an action.

Example:
  slipway replay info door.zarr --html door.html
  slipway replay verify door.zarr
  slipway replay evict runs/door/replay.zarr --keep-steps 500000
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from inspect import cleandoc
from pathlib import Path
from typing import Annotated

import tyro

from agent.commands.replay_info import Info
from agent.config_files import nearest
from agent.console import plural, progress, results, table, write_json
from agent.errors import ConfigError
from replay.archive import compact
from replay.repair import repair
from replay.retention import Capacity, evict
from replay.store import Store
from replay.verify import verify


@dataclass(frozen=True, kw_only=True)
class Evict:
    """Drop the oldest chunks of online streams for good. Refused while a stream is written, and for ingested data.

    Example:
      slipway replay evict runs/door/replay.zarr --keep-steps 500000
      slipway replay evict flights.zarr --keep-bytes 2000000000 --stream robot-0
    """

    store: Annotated[Path, tyro.conf.Positional]
    """Store to evict from."""
    keep_steps: int | None = None
    """The newest steps of each stream that stay; up to one chunk more does, because chunks go whole."""
    keep_bytes: int | None = None
    """Most bytes of each stream's chunk files that stay."""
    stream: tuple[str, ...] = ()
    """Streams to evict from; all if none is named."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> int:
        """Evict, and print what went and what stayed."""
        if self.keep_steps is None and self.keep_bytes is None:
            raise ConfigError("evict needs --keep-steps or --keep-bytes: say how much of each stream stays")
        capacity = Capacity(steps=self.keep_steps, bytes=self.keep_bytes)
        done = evict(Store.open(self.store), capacity, streams=list(self.stream) or None)
        if self.json:
            write_json({"path": str(self.store), "streams": done})
        else:
            rows = [[name, str(each["evicted_rows"]), str(each["rows"])] for name, each in done.items()]
            results.print(table(f"store {self.store}", ["stream", "rows evicted", "rows kept"], rows))
        return 0


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Find what is damaged: documents, commits, chunk files, checksums, rows that make no sense. Changes nothing.

    The exit code is 0 for a sound store and 2 where something was found.

    Example:
      slipway replay verify door.zarr
    """

    store: Annotated[Path, tyro.conf.Positional]
    """Store to check."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> int:
        """Check, with progress, and print the findings."""
        with progress() as bars:
            bar = bars.add("verify", None)
            record = verify(self.store, progress=lambda done, total: bar(done, total=total, note="rows"))
        if self.json:
            write_json(record)
        else:
            for finding in record["findings"]:
                results.print(f"{finding['kind']}: {finding['message']}")
            outcome = "sound" if record["sound"] else plural(len(record["findings"]), "finding")
            results.print(
                f"{self.store}: {outcome}; {plural(record['rows'], 'row')} in {plural(record['streams'], 'stream')}, "
                f"{record['unsealed_rows']} of them without a seal",
            )
        return 0 if record["sound"] else 2


@dataclass(frozen=True, kw_only=True)
class ExportMinari:
    """Write a store's episodes as a Minari dataset, which comes back from ingest with the same episodes.

    Example:
      slipway replay export-minari door.zarr --dataset-id door/mine-v0 --out minari
    """

    store: Annotated[Path, tyro.conf.Positional]
    """Store to export."""
    dataset_id: str
    """Minari id: [namespace/]name-vVERSION."""
    out: Path
    """Folder of Minari datasets to add it to."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> int:
        """Export, with progress."""
        from replay.export_minari import export_minari  # loads h5py

        with progress() as bars:
            bar = bars.add("export", None)
            store = Store.open(self.store)
            record = export_minari(
                store, self.dataset_id, self.out, progress=lambda done, total: bar(done, total=total, note="steps")
            )
        if self.json:
            write_json(record)
        else:
            results.print(
                f"{record['path']}: exported {plural(record['steps'], 'step')}, {plural(record['episodes'], 'episode')}"
            )
        return 0


@dataclass(frozen=True, kw_only=True)
class Repair:
    """Make a damaged store usable; what is replaced moves to STORE/damaged-TIME, never away. Refused beside a writer.

    Example:
      slipway replay repair door.zarr
      slipway replay repair lost-spec.zarr --like other.zarr
    """

    store: Annotated[Path, tyro.conf.Positional]
    """Store to repair."""
    like: Path | None = None
    """Store of the same spec, where the store's own zarr.json is lost."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> int:
        """Repair, and print what was done and lost."""
        with progress() as bars:
            bars.add("repair", None)
            record = repair(self.store, like=self.like)
        if self.json:
            write_json(record)
        else:
            for action in record["actions"]:
                results.print(action)
            kept = f"; evidence in {record['evidence']}" if record["evidence"] else ""
            outcome = "sound" if record["sound"] else "still damaged, see `slipway replay verify`"
            results.print(f"{self.store}: {outcome}; {plural(record['lost_rows'], 'row')} lost{kept}")
        return 0 if record["sound"] else 2


@dataclass(frozen=True, kw_only=True)
class Compact:
    """Write closed streams to an archive: compressed, sharded Zarr with named arrays. The store stays.

    An archive is used like a store: its first use unpacks it into ~/.cache/slipway/archives.

    Example:
      slipway replay compact door.zarr --out door-archive.zarr
    """

    store: Annotated[Path, tyro.conf.Positional]
    """Store to archive."""
    out: Path
    """Archive to make."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> int:
        """Compact, with progress."""
        with progress() as bars:
            bar = bars.add("compact", None)
            store = Store.open(self.store)
            record = compact(store, self.out, progress=lambda done, total: bar(done, total=total, note="rows"))
        if self.json:
            write_json(record)
        else:
            sizes = f"{record['bytes'] / 1e6:.1f} MB instead of {record['store_bytes'] / 1e6:.1f} MB"
            results.print(
                f"{self.out}: {plural(record['rows'], 'row')} of {plural(record['streams'], 'stream')}, {sizes}"
            )
        return 0


Action = Info | Verify | Repair | Compact | Evict | ExportMinari
ACTIONS: dict[str, type[Action]] = {
    "info": Info,
    "verify": Verify,
    "repair": Repair,
    "compact": Compact,
    "evict": Evict,
    "export-minari": ExportMinari,
}


def parse(rest: Sequence[str]) -> Action:
    """The action and its arguments; ConfigError where no action is named."""
    if rest and rest[0] not in ACTIONS and not rest[0].startswith("-"):
        raise ConfigError(
            f"unknown action {rest[0]!r}{nearest(rest[0], ACTIONS)}: say `slipway replay ACTION STORE`, "
            f"where ACTION is one of {', '.join(ACTIONS)}"
        )
    if rest and rest[0] in ACTIONS:
        action = ACTIONS[rest[0]]
        return tyro.cli(
            action, args=rest[1:], prog=f"slipway replay {rest[0]}", description=cleandoc(action.__doc__ or "")
        )
    parsed: Action = tyro.cli(Action, args=rest, prog="slipway replay", description=__doc__)
    return parsed


def run(args: Action) -> int:
    """Run one action."""
    return args.run()
