"""A disk that refuses the n-th write, for every n: a clear error, nothing committed that is not there, nothing lost."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.incidents import no_space
from replay import Store, StreamWriter, log
from replay.errors import StorageError
from replay.log import DURABILITIES, Durability
from tests.replay import formula

WRITES = ("pwrite", "posix_fallocate", "fsync", "fdatasync", "rename", "replace")


class Refusal:
    """Counts the calls that change the disk and refuses the chosen one with ENOSPC."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        self.calls, self.at = 0, at
        for name in WRITES:
            monkeypatch.setattr(os, name, self._wrap(getattr(os, name)))

    def _wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls == self.at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return function(*args, **kwargs)

        return call


def write_some(store: Store, durability: Durability, confirmed: list[int]) -> None:
    with store.writer("a", durability=durability) as writer:
        confirmed.extend(itertools.islice(formula.append_forever(writer), 60))


@pytest.mark.parametrize("stride", [11, pytest.param(1, marks=pytest.mark.full)])
@pytest.mark.parametrize("durability", DURABILITIES)
def test_a_disk_that_refuses_any_one_write_costs_no_committed_row(
    tmp_path: Path, durability: Durability, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = 0
    for at in itertools.count(1, stride):
        store = Store.create(tmp_path / f"{at}.zarr", formula.spec(), chunk_rows=formula.CHUNK_ROWS)
        confirmed = [0]
        with monkeypatch.context() as patch:
            refusal = Refusal(patch, at)
            try:
                write_some(store, durability, confirmed)
            except StorageError as error:
                refused += 1
                assert "No space left" in str(error) and "\n" not in str(error)
        with store.writer("a") as writer:
            assert writer.head >= confirmed[-1]
        assert formula.wrong_rows(store.reader(), "a") == []
        if refusal.calls < at:
            break
    assert refused > 5


@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.full)])
@pytest.mark.parametrize("durability", DURABILITIES)
def test_an_append_that_found_the_disk_full_can_be_repeated_or_does_not_pass_for_one(
    tmp_path: Path, durability: Durability, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `agent.full_disk.DiskPatience` does: no row twice, and no waiting on a stream that takes no more rows."""
    monkeypatch.setattr(log, "PUBLISH_INTERVAL_S", 0.0)
    monkeypatch.setattr(log, "FLUSH_INTERVAL_S", 1e3)
    monkeypatch.setattr(log.StreamLog, "_reserve_ahead", lambda self: None)
    outcomes = set()
    for at in itertools.count(1, stride):
        store = Store.create(tmp_path / f"{at}.zarr", formula.spec(), chunk_rows=8)
        with store.writer("a", durability=durability) as writer, monkeypatch.context() as patch:
            refusal = Refusal(patch, at)
            try:
                for row in range(12):
                    outcomes.add(repeated(lambda row=row: append(writer, row)))  # type: ignore[misc]
            except StorageError:
                outcomes.add("failed")
            patch.undo()
            with contextlib.suppress(StorageError):
                writer.close()
        rows = store.reader().rows("a", 0, store.num_rows)[:, 0].tolist()
        assert rows == list(range(len(rows)))
        if refusal.calls < at:
            break
    # At level process a commit has no write but those that reserve, and those of its rows and slot.
    assert outcomes == {"at once", "repeated", "failed"}


def append(writer: StreamWriter, row: int) -> None:
    o, a = formula.observation(row), formula.action(row)
    writer.append(o, a, float(row), first=row == 0, terminated=False, truncated=False, next_observation=None)


def repeated(write: Callable[[], None]) -> str:
    for times in range(3):
        try:
            write()
        except StorageError as error:
            if not no_space(error):
                raise
        else:
            return "repeated" if times else "at once"
    raise AssertionError("the disk has space, and the stream says that it is full")
