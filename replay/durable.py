"""Making a store durable from outside its writers, so that a checkpoint may name its rows.

The files alone are not enough. A live writer's next two commits overwrite both slots that our fsync made durable; at
level interval they begin their blocks where those did, and if a power loss takes rows that came after our fsync,
recovery goes back to there. So after the fsync we wait until no slot to come can begin its block before the head that
we promise: until the newest slot begins behind it, or is the one we made durable and no writer goes on from it so.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from replay import commit, layout
from replay.errors import CorruptStoreError, StorageError
from replay.recovery import first_look

if TYPE_CHECKING:
    from replay.store import Store

POLL_S = 0.01


def make_durable(store: Store, *, timeout_s: float) -> dict[str, int]:
    """See `Store.sync`."""
    deadline = time.monotonic() + timeout_s
    folders = {name: store.path / layout.STREAMS / name for name in store.stream_names()}
    before = {}
    for name, folder in folders.items():
        before[name] = _recoverable(store, folder)
        _fsync_stream(folder)
    for name, folder in folders.items():
        _settle(folder, before[name], deadline, timeout_s)
    return {name: slot.head for name, slot in before.items()}


def _settle(folder: Path, durable: commit.Slot, deadline: float, timeout_s: float) -> None:
    """Wait until recovery will find the head of slot `durable`, which is on the disk with its rows, or a later one."""
    head = durable.head
    while True:
        held = _held(folder)  # before we look at the slot: a writer that opens later begins by flushing what is there
        newest = _slot(folder)
        if newest.sequence == durable.sequence and (newest.block_start >= head or not (held and newest.growing)):
            return
        if newest.block_start >= head:
            _fsync(folder / layout.COMMIT_FILE)  # its writer may not have come to it yet
            return
        if not (held and newest.growing):  # a writer was killed behind our fsync: what it left serves as well
            _fsync_stream(folder)
            durable = newest
        elif time.monotonic() > deadline:
            raise StorageError(
                f"the writer of {folder} (process {newest.process}) has not made row {head} durable within "
                f"{timeout_s} s: check the disk, or stop that process"
            )
        else:
            time.sleep(POLL_S)


def _held(folder: Path) -> bool:
    """Whether the stream has a writer."""
    fd = _open_commit(folder)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _recoverable(store: Store, folder: Path) -> commit.Slot:
    """The commit that a recovery would find now: where a power loss has left a stream that no writer has opened since,
    the newest slot may name rows that are gone."""
    fd = _open_commit(folder)
    try:
        while True:
            commit.read_newest(fd, folder / layout.COMMIT_FILE)  # waits where a live writer has both in motion
            raw = commit.read_raw(fd)
            if commit.newest(raw) is not None:
                try:
                    return first_look(raw, folder, store.spec, store.chunk_rows)
                except CorruptStoreError:  # unless a live writer has evicted what we looked for
                    if commit.read_raw(fd) == raw:
                        raise
    finally:
        os.close(fd)


def _slot(folder: Path) -> commit.Slot:
    fd = _open_commit(folder)
    try:
        return commit.read_newest(fd, folder / layout.COMMIT_FILE)
    finally:
        os.close(fd)


def _open_commit(folder: Path) -> int:
    path = folder / layout.COMMIT_FILE
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise CorruptStoreError(f"{path} cannot be opened ({error.strerror}): {layout.repair_advice(path)}") from error


def _fsync_stream(folder: Path) -> None:
    for file in (*folder.glob("*/c/*/0"), *folder.glob("*/c/*"), *folder.glob("*/c"), *folder.glob("*/")):
        _fsync(file)


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
