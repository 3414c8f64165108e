"""Making a store durable from outside its writers, so that a checkpoint may name its rows.

The files alone are not enough. A live writer's newest slots cover rows that came after our fsync; if a power loss takes
those, recovery goes back to the slot's block_start. So after the fsync we wait until each stream's newest slot either
is the one seen before it, or begins its block at or behind the head that we promise.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from replay import commit, layout
from replay.errors import CorruptStoreError, StorageError

if TYPE_CHECKING:
    from replay.store import Store

POLL_S = 0.01


def make_durable(store: Store, *, timeout_s: float) -> dict[str, int]:
    """See `Store.sync`."""
    deadline = time.monotonic() + timeout_s
    before = {name: _slot(store, name) for name in store.stream_names()}
    for name in before:
        folder = store.path / layout.STREAMS / name
        for file in (*folder.glob("*/c/*/0"), *folder.glob("*/c/*"), *folder.glob("*/c"), *folder.glob("*/")):
            _fsync(file)
    heads = {}
    for name, seen in before.items():
        while (now := _slot(store, name)).sequence != seen.sequence and now.block_start < seen.head:
            if time.monotonic() > deadline:
                raise StorageError(
                    f"the writer of {store.path / layout.STREAMS / name} (process {now.writer}) has not made row "
                    f"{seen.head} durable within {timeout_s} s: check the disk, or stop that process"
                )
            time.sleep(POLL_S)
        heads[name] = seen.head
    return heads


def _slot(store: Store, name: str) -> commit.Slot:
    path = store.path / layout.STREAMS / name / layout.COMMIT_FILE
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise CorruptStoreError(f"{path} cannot be opened ({error.strerror}): {layout.repair_advice(path)}") from error
    try:
        return commit.read_newest(fd, path)
    finally:
        os.close(fd)


def _fsync(path: Path) -> None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except FileNotFoundError:
        return  # evicted meanwhile; that nothing else goes missing is for the slots to say
    except OSError as error:
        raise StorageError(f"cannot synchronise {path} ({error.strerror}): check the disk") from error
