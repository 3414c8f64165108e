"""A full disk: a clear error where a chunk is reserved, nothing corrupt, and the writer goes on once there is space."""

from __future__ import annotations

import contextlib
import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from replay import Store, StoreSpec, StreamWriter, log
from replay.errors import StorageError
from replay.log import DURABILITIES, Durability
from tests.replay import formula
from tests.small_disk import mounted

ROOT = Path(__file__).parents[2]
EPISODE = np.arange(51 * 5, dtype=np.float32).reshape(51, 5), np.ones((50, 2), np.float32), np.ones(50, np.float32)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path, "1m", instead="; the file size limit's test below covers the error path") as disk:
        yield disk


def append_until_full(writer: StreamWriter) -> str:
    for _ in range(10_000):
        try:
            writer.append_episode(*EPISODE, terminated=True, truncated=False)
        except StorageError as error:
            return str(error)
    raise AssertionError("the disk never filled")


@pytest.mark.parametrize("durability", DURABILITIES)
def test_a_full_disk_is_an_error_and_the_writer_goes_on_when_space_is_freed(
    small_disk: Path, durability: Durability
) -> None:
    store = Store.create(small_disk / "s.zarr", formula.spec(), chunk_rows=1024)
    filler = small_disk / "filler"
    filler.write_bytes(bytes(400_000))
    with store.writer("a", durability=durability) as writer:
        said = append_until_full(writer)
        assert "No space left" in said and "free some space" in said and "\n" not in said
        head = writer.head
        assert head > 1024
        append_until_full(writer)  # refused again, still nothing written
        assert writer.head == head
        assert not list(small_disk.rglob("*.tmp"))
        filler.unlink()
        writer.append_episode(*EPISODE, terminated=True, truncated=False)
        assert writer.head == head + 51
    episodes = list(store.episodes())
    assert len(episodes) == store.num_rows // 51
    for episode in episodes:
        np.testing.assert_array_equal(episode.observations, EPISODE[0])
    with pytest.raises(StorageError, match="No space left"), store.writer("b", durability=durability) as writer:
        append_until_full(store.writer("c", durability=durability))
        writer.append_episode(*EPISODE, terminated=True, truncated=False)


def test_rows_that_are_on_the_disk_are_committed_though_their_shape_cannot_be_published(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a caller that waits for free space and repeats would store them twice."""
    monkeypatch.setattr(log, "PUBLISH_INTERVAL_S", 0.0)
    store = Store.create(small_disk / "s.zarr", formula.spec(), chunk_rows=1024)
    with store.writer("a", durability="block") as writer:
        writer.append_episode(*EPISODE, terminated=True, truncated=False)
        with contextlib.suppress(OSError), (small_disk / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
        for _ in range(3):
            writer.append_episode(*EPISODE, terminated=True, truncated=False)
        document = store.path / "streams" / "a" / "rows" / "zarr.json"
        assert json.loads(document.read_text())["shape"][0] == 51, "the disk was not full"
        (small_disk / "filler").unlink()
        writer.append_episode(*EPISODE, terminated=True, truncated=False)
        assert json.loads(document.read_text())["shape"][0] == writer.head == 5 * 51
        assert not list(small_disk.rglob("*.tmp"))
    assert [episode.observations.tolist() for episode in store.episodes()] == [EPISODE[0].tolist()] * 5


def test_creating_on_a_full_disk_leaves_nothing(small_disk: Path) -> None:
    with (small_disk / "filler").open("wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(4096))
        except OSError:
            pass
    with pytest.raises(StorageError, match="cannot create the store"):
        Store.create(small_disk / "s.zarr", formula.spec())
    assert [path.name for path in small_disk.iterdir()] == ["filler"]


def test_a_file_size_limit_is_the_same_error(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s.zarr", formula.spec(), chunk_rows=1024)
    script = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "import tests.faults.test_full_disk as t; from replay import Store\n"
        f"writer = Store.open({str(store.path)!r}).writer('a', durability='process')\n"
        "print(t.append_until_full(writer)); assert writer.head == 0\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "cannot reserve 65536 bytes" in done.stdout
    with store.writer("a") as writer:
        writer.append_episode(*EPISODE, terminated=True, truncated=False)
    assert store.num_steps == 50


def test_streams_reserve_their_chunks_whole(tmp_path: Path) -> None:
    terms = [{"name": "observation", "offset": 0, "length": 20, "dtype": "float32"}]
    store = Store.create(tmp_path / "s.zarr", StoreSpec.from_terms(terms, [-1.0], [1.0]))
    with store.writer("a", durability="process") as writer:
        zeros = np.zeros((2, 20)), np.zeros((1, 1)), np.zeros(1)
        writer.append_episode(*zeros, terminated=True, truncated=False)
    status = (store.path / "streams" / "a" / "rows" / "c" / "0" / "0").stat()
    assert status.st_blocks * 512 >= status.st_size == 65536 * store.spec.row_width * 4
    assert status.st_size % resource.getpagesize() == 0
