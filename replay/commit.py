"""Commit slots: how a stream says which of its rows exist.

The commit file holds two slots of 4 KiB, written in turn. The first 128 bytes of a slot are sixteen little-endian
uint64 words; the last of them is the crc32c of the others, which makes a half-written slot recognisable after a power
loss and serves readers as a sequence lock: whoever sees a wrong crc takes the other slot.
"""

from __future__ import annotations

import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path

import google_crc32c

from replay.errors import CorruptStoreError
from replay.layout import repair_advice

MAGIC = int.from_bytes(b"SLIPWAY1", "little")
SLOT_BYTES = 4096
COMMIT_BYTES = 2 * SLOT_BYTES
USED_BYTES = 128
GROWING = 1 << 32
"""Added to the process id in a slot whose successors may begin their blocks where it does (level interval)."""
_WORDS = struct.Struct("<15Q")
_CHECKSUM = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Slot:
    """One commit: rows [tail, head) exist. Fields in the order of their words on disk, after the magic."""

    sequence: int
    """Grows by one with every commit; the slot's place is sequence % 2."""
    tail: int
    """First row still kept."""
    head: int
    """One past the last committed row."""
    block_start: int
    """Rows [block_start, head) are covered by the block checksums; at the levels interval and block all earlier rows
    are on the disk."""
    block_crc: int
    """crc32c of the block's row bytes, plus that of its meta bytes shifted left by 32."""
    epoch: int
    """How many writers have opened the stream."""
    steps: int
    """Rows with valid = 1 in [0, head)."""
    broken: int
    """Valid rows in [0, head - 1) whose successor begins another episode: stored, never sampleable."""
    episodes: int
    """Episodes begun; the next episode's id."""
    open: int
    """1 if the last row is a step that still waits for its successor."""
    writer: int
    """Process id of the writer, plus `GROWING` at level interval."""
    evicted_steps: int = 0
    """Of `steps`, those in [0, tail)."""
    evicted_broken: int = 0
    """Of `broken`, those in [0, tail)."""
    evicted_episodes: int = 0
    """Of `episodes`, those begun in [0, tail)."""

    @property
    def process(self) -> int:
        """Process id of the writer."""
        return self.writer % GROWING

    @property
    def growing(self) -> bool:
        """Whether its writer goes on with the same block_start until a flush; else the next slot's is this head."""
        return self.writer >= GROWING

    @property
    def sampleable(self) -> int:
        """Valid rows in [tail, head) that have a successor of their own episode."""
        return self.steps - self.evicted_steps - (self.broken - self.evicted_broken) - self.open


def encode(values: tuple[int, ...]) -> bytes:
    """The 128 used bytes of a slot; `values` in the order of Slot's fields (astuple gives it)."""
    words = _WORDS.pack(MAGIC, *values)
    return words + _CHECKSUM.pack(google_crc32c.value(words))


def decode(data: bytes) -> Slot | None:
    """Read a slot's 128 bytes; None when it is torn, damaged or was never written."""
    words = data[:120]
    if len(data) < USED_BYTES or _CHECKSUM.unpack_from(data, 120)[0] != google_crc32c.value(words):
        return None
    magic, *values = _WORDS.unpack(words)
    if magic != MAGIC:
        return None
    return Slot(*values)


def read_raw(fd: int) -> tuple[bytes, bytes]:
    """The used bytes of both slots."""
    data = os.pread(fd, SLOT_BYTES + USED_BYTES, 0)
    return data[:USED_BYTES], data[SLOT_BYTES : SLOT_BYTES + USED_BYTES]


def newest(raw: tuple[bytes, bytes]) -> Slot | None:
    """The valid slot with the larger sequence, or None."""
    slots = [slot for slot in map(decode, raw) if slot is not None]
    return max(slots, key=lambda slot: slot.sequence, default=None)


def read_newest(fd: int, path: Path) -> Slot:
    """Read the newest commit beside a live writer.

    A reader that is delayed between two commits can find both slots in motion; a moment later one holds still.

    Raises:
        CorruptStoreError: no slot becomes valid.
    """
    for attempt in range(50):
        slot = newest(read_raw(fd))
        if slot is not None:
            return slot
        time.sleep(0.0002 * attempt)
    raise both_corrupt(path)


def both_corrupt(path: Path) -> CorruptStoreError:
    """The error for a commit file without a valid slot."""
    return CorruptStoreError(
        f"{path}: both commit slots are corrupt, so the number of rows is unknown: {repair_advice(path)}"
    )
