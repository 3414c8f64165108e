"""A disk that refuses the n-th write, for every n: a clear error, nothing committed that is not there, nothing lost."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from replay import Store
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
