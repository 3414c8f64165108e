"""Ctrl-C at any line of a commit: the stream holds that commit or none of it, is sound, and goes on."""

from __future__ import annotations

import contextlib
import itertools
import linecache
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from replay import Store, log
from replay.errors import StorageError
from replay.log import DURABILITIES, Durability
from replay.verify import verify
from tests.replay import formula

CODE = str(Path(log.__file__).parent)


@contextmanager
def interrupted_at(line: int) -> Iterator[None]:
    """KeyboardInterrupt before the n-th line of the store's code from now on, as a signal's handler would raise it.

    Lines of a `with` are left out: Python calls no handler between the end of its block and the call that ends it.
    """
    left = line

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.startswith(CODE):
            return None
        code = linecache.getline(frame.f_code.co_filename, frame.f_lineno).lstrip()
        left -= event == "line" and not code.startswith("with ")
        if left < 0:
            sys.settrace(None)
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


@pytest.mark.parametrize("stride", [13, pytest.param(1, marks=pytest.mark.full)])
@pytest.mark.parametrize("durability", DURABILITIES)
def test_a_commit_that_is_broken_off_is_left_to_recovery(tmp_path: Path, durability: Durability, stride: int) -> None:
    heads = set()
    for line in itertools.count(0, stride):
        store = Store.create(tmp_path / f"{line}.zarr", formula.spec(), chunk_rows=16)
        interrupted = False
        with contextlib.suppress(KeyboardInterrupt), store.writer("a", durability=durability) as writer:
            appended = formula.append_forever(writer)
            while writer.head < 13:
                next(appended)
            before = writer.head
            try:
                with interrupted_at(line):
                    next(appended)  # fills a chunk
            except KeyboardInterrupt:
                interrupted = True
                raise
        heads.add(store.num_rows)
        assert verify(store.path)["findings"] == [], f"interrupted at line {line}"
        with store.writer("a", durability=durability) as writer:
            assert writer.head >= before
            next(itertools.islice(formula.append_forever(writer), 5, None))
        assert verify(store.path)["findings"] == [], f"interrupted at line {line}, then went on"
        assert formula.wrong_rows(store.reader(), "a") == []
        if not interrupted:
            break
    assert len(heads) > 1
    assert line > 20


def test_a_stream_whose_commit_was_broken_off_takes_no_more_rows(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s.zarr", formula.spec(), chunk_rows=16)
    with contextlib.suppress(StorageError), store.writer("a") as writer:
        next(formula.append_forever(writer))
        for line in itertools.count():
            with contextlib.suppress(KeyboardInterrupt), interrupted_at(line):
                next(formula.append_forever(writer))
            if writer._log._committing:
                break
        head = writer.head
        with pytest.raises(StorageError, match="broken off: open the stream again"):
            next(formula.append_forever(writer))
        assert writer.head == head
