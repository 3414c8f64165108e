"""The next chunk is reserved in the background: an append at a chunk's end finds it there, and nothing is left over."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from replay import Store, StreamWriter
from replay.errors import StorageError
from replay.log import DURABILITIES, Durability
from tests.replay import formula

ROOT = Path(__file__).parents[2]
CHUNK = formula.CHUNK_ROWS


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "s.zarr", formula.spec(), chunk_rows=CHUNK)


def chunks(store: Store) -> list[tuple[str, int]]:
    """What lies in the folders of rows and meta chunks, empty folders and temporary files too."""
    folders = [(array, store.path / "streams" / "a" / array / "c") for array in ("rows", "meta")]
    found = [(array, each) for array, folder in folders for each in folder.rglob("*")]
    assert all(path.name in ("0", path.parent.name) or path.is_dir() for _, path in found)
    return sorted((array, int(path.name)) for array, path in found if path.is_dir())


def needed(head: int) -> list[tuple[str, int]]:
    return sorted((array, chunk) for array in ("rows", "meta") for chunk in range(-(-head // CHUNK)))


def step(writer: StreamWriter) -> None:
    index = writer.head
    writer.append(
        formula.observation(index), formula.action(index), 0.0,
        first=index == 0, terminated=False, truncated=False, next_observation=None,
    )  # fmt: skip


def wait_for_reserved(store: Store, chunk: int) -> None:
    deadline = time.monotonic() + 10
    while not all((store.path / "streams/a" / array / "c" / str(chunk) / "0").exists() for array in ("rows", "meta")):
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("durability", DURABILITIES)
def test_only_the_first_chunk_is_reserved_by_the_appending_thread(
    store: Store, durability: Durability, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserving = []
    real = os.posix_fallocate

    def record(fd: int, offset: int, size: int) -> None:
        if Path(f"/proc/self/fd/{fd}").readlink().parts[-4] in ("rows", "meta"):
            reserving.append(threading.current_thread() is threading.main_thread())
        real(fd, offset, size)

    monkeypatch.setattr(os, "posix_fallocate", record)
    with store.writer("a", durability=durability) as writer:
        while writer.head < 4 * CHUNK:
            step(writer)
            if writer.head % CHUNK == CHUNK - 1:
                wait_for_reserved(store, writer.head // CHUNK + 1)
        assert reserving.count(True) == 2
        assert reserving.count(False) >= 6
    assert chunks(store) == needed(4 * CHUNK)


@pytest.mark.parametrize("head", [CHUNK // 2 - 1, CHUNK // 2 + 1, CHUNK, CHUNK + 1, 2 * CHUNK - 1])
def test_a_closed_stream_keeps_no_chunk_without_rows(store: Store, head: int) -> None:
    with store.writer("a") as writer:
        while writer.head < head:
            step(writer)
    assert chunks(store) == needed(head)
    with store.writer("a") as writer:
        assert writer.head == head
    assert chunks(store) == needed(head)


def test_what_a_killed_writer_reserved_is_used_or_removed_by_the_next(store: Store) -> None:
    script = (
        "import os, signal; from replay import Store; from tests.replay import test_reserve_ahead as t\n"
        f"store = Store.open({str(store.path)!r}); writer = store.writer('a', durability='process')\n"
        f"while writer.head < {CHUNK - 1}: t.step(writer)\n"
        "t.wait_for_reserved(store, 1); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == -9
    assert chunks(store) == needed(CHUNK + 1)
    inode = (store.path / "streams/a/rows/c/1/0").stat().st_ino
    with store.writer("a") as writer:
        rows = np.zeros((5, store.spec.row_width), np.float32)
        rows[:, store.spec.offsets["first"]] = 1
        writer.append_block(rows, np.zeros((5, 5), np.int64))
    assert (store.path / "streams/a/rows/c/1/0").stat().st_ino == inode
    assert chunks(store) == needed(CHUNK + 4)
    for array in ("rows", "meta"):
        file = store.path / "streams/a" / array / "c/2/0"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(bytes((store.path / "streams/a" / array / "c/0/0").stat().st_size))
    store.writer("a").close()
    assert chunks(store) == needed(CHUNK + 4)


def test_a_disk_that_is_full_ahead_of_time_is_an_error_only_where_the_chunk_is_needed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real full disk is in tests/faults; here the refusal comes in the background, and its moment is watched."""
    refused = threading.Event()
    real = os.posix_fallocate

    def refuse(fd: int, offset: int, size: int) -> None:
        refused.set()
        raise OSError(28, "No space left on device")

    with store.writer("a") as writer:
        step(writer)
        monkeypatch.setattr(os, "posix_fallocate", refuse)
        while writer.head < CHUNK:
            step(writer)
        assert refused.wait(10)
        with pytest.raises(StorageError, match="No space left"):
            step(writer)
        assert writer.head == CHUNK
        assert chunks(store) == needed(CHUNK)
        monkeypatch.setattr(os, "posix_fallocate", real)
        step(writer)
    assert store.num_rows == CHUNK + 1
    assert chunks(store) == needed(CHUNK + 1)
