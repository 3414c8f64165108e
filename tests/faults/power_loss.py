"""A disk that loses power: file operations of a real writer are recorded, then a state is drawn that a power loss at
some moment may leave behind.

`file_recorder.Recorder` notes the operations; fsync is noted and not executed: what lasts is decided by
`Recording.crash`.

The model. POSIX promises only what fsync covers, and that is all that is assumed here:

- File data and size: fsync and fdatasync of a file make everything written to it before durable. Of later writes each
  sector of 512 bytes survives on its own, as it was at any moment since (a sector is never torn: disks write it whole);
  the size likewise. Files are independent of each other.
- Names: a creation, rename or removal is durable once a directory that it changes was fsynced. Of the others any subset
  survives. A rename is atomic, also across directories. fsync of a *file* makes no name durable, and fsync of a
  directory makes neither its own name in its parent durable, nor its files' data.

ext4 and xfs are kinder: their journals keep the order of names (a later one survives only with all earlier ones), an
fsync carries all earlier names along, and data=ordered writes data before the size that reveals it. None of this holds
for every file system, so nothing here relies on it. What no file system can mend is left out: disks that acknowledge a
flush and do not do it, and bits that rot later.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

SECTOR = 512
ROOT = 0

Name = tuple[int, str]  # directory node, entry


@dataclass(frozen=True)
class Link:
    """A name appears: creation or mkdir."""

    name: Name
    node: int


@dataclass(frozen=True)
class Move:
    """A name moves, replacing what was there."""

    source: Name
    target: Name
    node: int


@dataclass(frozen=True)
class Unlink:
    """A name goes."""

    name: Name


@dataclass(frozen=True)
class Write:
    """Bytes at an offset."""

    node: int
    offset: int
    data: bytes


@dataclass(frozen=True)
class Size:
    """A new size: posix_fallocate (`grow`: never smaller) or truncation."""

    node: int
    size: int
    grow: bool


@dataclass(frozen=True)
class Sync:
    """fsync or fdatasync of a file or directory has returned; it was called after `covers` operations."""

    node: int
    covers: int


@dataclass(frozen=True)
class Promise:
    """What the store has promised its caller from here on: rows of each stream; None: nothing is promised."""

    heads: dict[str, int] | None


Operation = Link | Move | Unlink | Write | Size | Sync | Promise


@dataclass
class Recording:
    """Everything that happened below one folder, from a durable beginning."""

    files: dict[int, bytes] = field(default_factory=dict)
    folders: set[int] = field(default_factory=lambda: {ROOT})
    names: dict[Name, int] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)

    @classmethod
    def beginning(cls, root: Path) -> Recording:
        """A recording whose durable beginning is what lies in `root` now."""
        recording = cls()
        nodes = {root: ROOT}
        for path in sorted(root.rglob("*")):
            nodes[path] = node = len(nodes)
            recording.names[nodes[path.parent], path.name] = node
            if path.is_dir():
                recording.folders.add(node)
            else:
                recording.files[node] = path.read_bytes()
        return recording

    def promised(self, moment: int) -> dict[str, int] | None:
        """The last promise before operation `moment`: {} at the beginning."""
        return next((op.heads for op in reversed(self.operations[:moment]) if isinstance(op, Promise)), {})

    def crash(self, moment: int, target: Path, rng: np.random.Generator) -> None:
        """Write to `target` what a power loss before operation `moment` may leave."""
        happened = self.operations[:moment]
        names = self._surviving_names(happened, rng)
        target.mkdir()
        self._build(ROOT, target, names, happened, rng)

    def _surviving_names(self, happened: list[Operation], rng: np.random.Generator) -> dict[Name, int]:
        changes = [(at, op) for at, op in enumerate(happened) if isinstance(op, Link | Move | Unlink)]
        covered = {op.node: op.covers for op in happened if isinstance(op, Sync)}
        # One mood a power loss, so that also the extremes come up: all names lost, all kept, the journal's order.
        mood = rng.choice(["lost", "kept", "any", "ordered"])
        last = rng.integers(len(happened) + 1)
        names = dict(self.names)
        for at, op in changes:
            folders = {op.source[0], op.target[0]} if isinstance(op, Move) else {op.name[0]}
            durable = any(at < covered.get(folder, 0) for folder in folders)
            keep = {"lost": False, "kept": True, "any": rng.random() < 0.5, "ordered": at < last}[mood]
            if not (durable or keep):
                continue
            if isinstance(op, Link):
                names[op.name] = op.node
            elif isinstance(op, Move):
                if names.get(op.source) == op.node:
                    del names[op.source]
                names[op.target] = op.node
            else:
                names.pop(op.name, None)
        return names

    def _build(
        self, folder: int, path: Path, names: dict[Name, int], happened: list[Operation], rng: np.random.Generator
    ) -> None:
        for (parent, name), node in names.items():
            if parent != folder:
                continue
            if node in self.folders:
                (path / name).mkdir()
                self._build(node, path / name, names, happened, rng)
            else:
                (path / name).write_bytes(self._surviving_data(node, happened, rng))

    def _surviving_data(self, node: int, happened: list[Operation], rng: np.random.Generator) -> bytes:
        own = [(at, op) for at, op in enumerate(happened) if isinstance(op, Write | Size | Sync) and op.node == node]
        covered = max((op.covers for _, op in own if isinstance(op, Sync)), default=0)
        data = bytearray(self.files.get(node, b""))
        for at, op in own:
            if at < covered:
                _apply(data, op)
        pending = [op for at, op in own if at >= covered and not isinstance(op, Sync)]
        sizes, whole = [len(data)], bytearray(data)
        for op in pending:
            _apply(whole, op)
            sizes.append(len(whole))
        mood = rng.choice(["lost", "kept", "any"])
        # Each sector, and the size, is as it was after so many of the pending operations.
        count = len(pending)
        sectors = -(-max(sizes) // SECTOR)
        versions = {
            "lost": np.zeros(sectors, np.int64),
            "kept": np.full(sectors, count),
            "any": rng.integers(count + 1, size=sectors),
        }[mood]
        size = sizes[{"lost": 0, "kept": count, "any": int(rng.integers(count + 1))}[mood]]
        data.extend(bytes(sectors * SECTOR - len(data)))
        for number, op in enumerate(pending, 1):
            if isinstance(op, Size):
                if not op.grow:
                    for sector in np.flatnonzero(versions >= number).tolist():
                        start = max(sector * SECTOR, op.size)
                        data[start : (sector + 1) * SECTOR] = bytes(max(0, (sector + 1) * SECTOR - start))
                continue
            end = op.offset + len(op.data)
            for sector in range(op.offset // SECTOR, -(-end // SECTOR)):
                if versions[sector] >= number:
                    start, stop = max(op.offset, sector * SECTOR), min(end, (sector + 1) * SECTOR)
                    data[start:stop] = op.data[start - op.offset : stop - op.offset]
        return bytes(data[:size])


def _apply(data: bytearray, op: Operation) -> None:
    if isinstance(op, Size):
        if len(data) < op.size:
            data.extend(bytes(op.size - len(data)))
        elif not op.grow:
            del data[op.size :]
    elif isinstance(op, Write):
        if len(data) < op.offset + len(op.data):
            data.extend(bytes(op.offset + len(op.data) - len(data)))
        data[op.offset : op.offset + len(op.data)] = op.data
