"""Power losses of a writer's disk, drawn from its recorded file operations (`tests.faults.power_loss`): what was
promised is there, nothing else is visible, and the stream goes on. Broken protocols must be noticed.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args
from unittest.mock import patch

import google_crc32c
import numpy as np
import pytest
from numpy.typing import NDArray

from replay import ReplayError, Store, StreamWriter, chunks, durable, layout, log, reader, recovery
from replay.log import Durability
from replay.reader import StoreReader
from replay.seals import read_seals
from tests.faults.file_recorder import Killed, Recorder
from tests.faults.power_loss import Recording
from tests.replay import formula

CHUNK_ROWS = 64
SPEC = formula.spec(info=("generation",))
STREAMS = ("a", "b")
HOUR = 3600.0

Rows = tuple[NDArray[np.float32], NDArray[np.int64]]


@pytest.fixture(autouse=True)
def the_test_flushes_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """No clock and no other thread decides what is written when: the recording is the seed's alone."""

    def reserve_at_once(self: log.StreamLog) -> None:
        index = -(-self.head // CHUNK_ROWS)
        self._reserve_at = index * CHUNK_ROWS + CHUNK_ROWS // 2
        self._reserve(index)

    monkeypatch.setattr(log.StreamLog, "_reserve_ahead", reserve_at_once)
    monkeypatch.setattr(log, "FLUSH_INTERVAL_S", HOUR)
    monkeypatch.setattr(log, "PUBLISH_INTERVAL_S", HOUR)


def step(writer: StreamWriter, generation: int, *, first: bool, ended: int = 0) -> None:
    """Append one step; ended: 0 no, 1 terminated, 2 truncated."""
    at = writer.head
    writer.append(
        formula.observation(at),
        formula.action(at),
        float(at % 1000),
        first=first,
        terminated=ended == 1,
        truncated=ended == 2,
        next_observation=formula.observation(at + 1) if ended else None,
        policy_version=generation,
        info={"generation": float(generation)},
    )


def episode(writer: StreamWriter, generation: int, steps: int) -> None:
    """Append a whole episode in one commit."""
    rows = np.arange(writer.head, writer.head + steps + 1)
    writer.append_episode(
        np.stack([formula.observation(i) for i in rows]),
        np.stack([formula.action(i) for i in rows[:-1]]),
        (rows[:-1] % 1000).astype(np.float32),
        terminated=bool(steps % 2),
        truncated=not steps % 2,
        policy_version=generation,
        info={"generation": np.full(steps, float(generation), np.float32)},
    )


class Workload:
    """What a collector's life does to a store, at random, under a recorder that learns what was promised."""

    def __init__(self, root: Path, rng: np.random.Generator, generation: int, levels: tuple[Durability, ...]) -> None:
        self.recorder = Recorder(root)
        self._path = root / "s.zarr"
        self._rng = rng
        self._generation = generation
        self._levels = levels
        self._promised: dict[str, int] = {}
        self._loose = ""

    def run(self, sessions: int) -> Recording:
        """Several writers, one after the other, some of them killed; the last is left as a crash finds it."""
        with self.recorder.watching():
            if not self._path.exists():
                Store.create(self._path, SPEC, chunk_rows=CHUNK_ROWS)
            self._promised = {"": 0, **Store.open(self._path).reader().heads}  # from here on the store exists
            self.recorder.promise(self._promised)
            for _ in range(sessions):
                if self._rng.random() < 0.6:
                    self.recorder.kill_in = int(self._rng.integers(120))
                opened: list[StreamWriter] = []
                try:
                    self._session(opened)
                except Killed:
                    for writer in opened:
                        writer._log._stop.set()  # its thread would have died
                    self.recorder.revive()
                self.recorder.kill_in = None
        return self.recorder.recording

    def _session(self, opened: list[StreamWriter]) -> None:
        name, level = str(self._rng.choice(STREAMS)), self._levels[self._rng.integers(len(self._levels))]
        if self._loose:  # killed at level process: only a writer of another level makes the stream safe again
            name, level = self._loose, "block"
        if level == "process":  # promises nothing until it is closed, and may lose unnoticed
            self._loose = name
            self.recorder.promise(None)
        writer = Store.open(self._path).writer(name, durability=level)
        opened.append(writer)
        if level != "process":
            self._loose = ""
            self._promise(name, writer.head)
        for _ in range(self._rng.integers(25)):
            head = writer.head
            self._act(writer, level)
            if level == "block":
                assert writer.head > head
                self._promise(name, writer.head)
        head = writer.head
        writer.close()
        self._loose = ""
        self._promise(name, head)

    def _act(self, writer: StreamWriter, level: Durability) -> None:
        action = self._rng.integers(10)
        if action < 6:
            self._append_step(writer)
        elif action < 8:
            episode(writer, self._generation, int(self._rng.integers(1, 90)))
        elif action == 8 and writer.in_episode:
            writer.cut(formula.observation(writer.head))
        elif action == 9 and level == "interval" and self._rng.random() < 0.5:
            self._sync_from_outside(writer)
        elif action == 9 and level == "interval":
            head = writer.head
            self.recorder.on_data_sync = lambda: self._append_step(writer)
            try:
                writer._log.flush()
            finally:
                self.recorder.on_data_sync = None
            self._promise(writer.name, head)
            if self._rng.random() < 0.3:
                self._append_step(writer)
                head = writer.head
                writer.sync()
                self._promise(writer.name, head)
        else:
            self._append_step(writer)

    def _sync_from_outside(self, writer: StreamWriter) -> None:
        """`Store.sync` of another process: this one goes on around each of its steps, and flushes now and then."""
        fsync_stream = durable._fsync_stream

        def meanwhile(_: object) -> None:
            for _ in range(self._rng.integers(3)):
                self._append_step(writer)
            if self._rng.random() < 0.3:
                writer._log.flush()

        def between(folder: Path) -> None:
            if self._rng.random() < 0.3:
                meanwhile(None)
            fsync_stream(folder)
            if self._rng.random() < 0.3:
                meanwhile(None)

        clock = SimpleNamespace(monotonic=lambda: 0.0, sleep=meanwhile)
        with patch.object(durable, "time", clock), patch.object(durable, "_fsync_stream", between):
            heads = Store.open(self._path).sync()
        for name, head in heads.items():
            self._promise(name, max(head, self._promised.get(name, 0)))

    def _append_step(self, writer: StreamWriter) -> None:
        ended = int(self._rng.integers(6))
        step(writer, self._generation, first=not writer.in_episode, ended=ended if ended < 3 else 0)

    def _promise(self, name: str, head: int) -> None:
        self._promised[name] = head
        self.recorder.promise(None if self._loose else self._promised)


def contents(path: Path) -> dict[str, Rows]:
    """All rows and meta rows of each stream."""
    seen = Store.open(path).reader()
    return {name: (seen.rows(name, 0, head), seen.meta(name, 0, head)) for name, head in seen.heads.items()}


def strange_rows(seen: StoreReader, heads: dict[str, int], truth: dict[str, Rows]) -> list[str]:
    """What a reader sees below these heads that no writer committed."""
    said = []
    for name, head in heads.items():
        rows, meta = truth.get(name, (np.empty((0, SPEC.row_width), np.float32), np.empty((0, 5), np.int64)))
        if head > len(rows):
            said.append(f"{name}: {head} rows are visible, {len(rows)} were committed")
            continue
        wrong = np.flatnonzero(
            (seen.rows(name, 0, head) != rows[:head]).any(axis=1)
            | (seen.meta(name, 0, head) != meta[:head]).any(axis=1)
        )
        if len(wrong):
            said.append(f"{name}: rows {wrong[:5].tolist()} of {head} are not those that were committed")
    return said


def wrong_index(path: Path) -> list[str]:
    """Counters, episode ids and episodes that contradict the rows."""
    said = []
    store = Store.open(path)
    seen = store.reader()
    if seen.num_steps != seen.count_sampleable():
        said.append(f"{seen.num_steps} sampleable rows by the counters, {seen.count_sampleable()} by the rows")
    for name, head in seen.heads.items():
        if wrong := formula.wrong_rows(seen, name):
            said.append(f"{name}: rows {wrong[:5]} of {head} contradict the formula")
        rows, meta = seen.rows(name, 0, head), seen.meta(name, 0, head)
        if not np.array_equal(meta[:, 4], np.cumsum(rows[:, SPEC.offsets["first"]] > 0) - 1):
            said.append(f"{name}: the episode ids have gaps")
        for chunk, seal in read_seals(path / layout.STREAMS / name).items():
            sealed = slice(chunk * CHUNK_ROWS, chunk * CHUNK_ROWS + seal.rows)
            crcs = google_crc32c.value(rows[sealed].tobytes()), google_crc32c.value(meta[sealed].tobytes())
            if sealed.stop > head or crcs != (seal.rows_crc, seal.meta_crc):
                said.append(f"{name}: the seal of chunk {chunk} is not that of its rows")
    if not said:
        for each in store.episodes():
            start = int(each.observations[0, 0])
            if each.observations[:, 0].tolist() != list(range(start, start + len(each.rewards) + 1)):
                said.append(f"{each.stream}: episode {each.episode_id} is not one piece")
    return said


def violations(path: Path, promised: dict[str, int] | None, truth: dict[str, Rows]) -> list[str]:
    """What is wrong with a store after a power loss; the store goes on a little."""
    assert promised is not None
    if not promised and not path.exists():
        return []
    try:
        store = Store.open(path)
        seen = store.reader()
        said = strange_rows(seen, seen.heads, truth)
        for name, head in promised.items():
            if name and seen.heads.get(name, 0) < head:
                said.append(f"{name}: {head} rows were promised, a reader sees {seen.heads.get(name, 0)}")
        before = dict(seen.heads)
        for name in store.stream_names():
            shape = json.loads((path / layout.STREAMS / name / layout.ROWS / layout.GROUP).read_text())["shape"]
            if shape[0] > before.get(name, 0):
                said.append(f"{name}: the published shape says {shape[0]} of {before.get(name, 0)} rows")
            with store.writer(name, durability="block") as writer:
                if writer.head != before.get(name, 0):
                    said.append(f"{name}: readers saw {before.get(name, 0)} rows, the next writer {writer.head}")
                for _ in range(3):
                    step(writer, -1, first=not writer.in_episode)
                episode(writer, -1, CHUNK_ROWS)
                steps, head = writer.steps, writer.head
            valid = Store.open(path).reader().rows(name, 0, head)[:, SPEC.offsets["valid"]]
            if steps != int(valid.sum()):
                said.append(f"{name}: the step counter says {steps}, the rows {int(valid.sum())}")
        with Store.open(path).writer("new", durability="block") as writer:
            episode(writer, -1, 5)
        after = Store.open(path).reader()
        said += [f"{name}: the next writer shortened it" for name in before if after.heads[name] < before[name]]
        if not said:
            said = [f"after the next writer: {line}" for line in strange_rows(after, before, truth)]
        return said + wrong_index(path)
    except ReplayError as error:
        return [f"{type(error).__name__}: {error}"]


def moments(recording: Recording, rng: np.random.Generator, count: int) -> list[int]:
    """Moments to lose power at; none while only a writer of level process has spoken last."""
    possible = [at for at in range(len(recording.operations) + 1) if recording.promised(at) is not None]
    return sorted(rng.choice(possible, size=count).tolist())


def power_losses(
    folder: Path, cases: int, seed: int, *, levels: tuple[Durability, ...] = get_args(Durability), each: int = 10
) -> list[str]:
    """Record a workload, lose power `each` times in it; go on from one such disk with the next: `cases` power losses.

    Returns what was wrong in the first recording where anything was, a line a violation.
    """
    rng = np.random.default_rng(seed)
    disk = folder / "0"
    disk.mkdir(parents=True)
    for generation in range(cases // each):
        recording = Workload(disk, rng, generation, levels).run(sessions=int(rng.integers(2, 6)))
        truth = contents(disk / "s.zarr") if (disk / "s.zarr").exists() else {}
        said = []
        for at in moments(recording, rng, each):
            state = folder / "state"
            recording.crash(at, state, rng)
            found = violations(state / "s.zarr", recording.promised(at), truth)
            said += [f"recording {generation}, operation {at} of {len(recording.operations)}: {line}" for line in found]
            shutil.rmtree(state)
        if said:
            return said
        # The next workload begins where a power loss left this one; now and then with a new store.
        following = folder / str(generation + 1)
        if generation % 4 != 3:
            recording.crash(at, following, rng)
        else:
            following.mkdir()
        shutil.rmtree(disk)
        disk = following
    return []


def test_a_power_loss_takes_nothing_promised_and_shows_nothing_torn(tmp_path: Path) -> None:
    assert power_losses(tmp_path, 60, seed=0) == []


@pytest.mark.full
@pytest.mark.parametrize("seed", range(10))
def test_a_thousand_power_losses_take_nothing_promised_and_show_nothing_torn(tmp_path: Path, seed: int) -> None:
    assert power_losses(tmp_path, 100, seed=100 + seed) == []


def never_synchronise_rows(patch: pytest.MonkeyPatch) -> None:
    """The slot becomes durable, its rows do not."""
    patch.setattr(chunks.ChunkFiles, "synchronise", lambda self, dirty: None)


def slot_before_rows(patch: pytest.MonkeyPatch) -> None:
    """The slot is durable before its rows are; the block checksum, which would notice, is not looked at."""
    synchronise, synchronise_slot = log.StreamLog._synchronise, log.StreamLog._synchronise_slot

    def late(self: Any, *dirty: Any) -> None:
        self.delayed = dirty

    def slot_then_rows(self: Any) -> None:
        synchronise_slot(self)
        synchronise(self, *self.delayed)

    patch.setattr(log.StreamLog, "_synchronise", late)
    patch.setattr(log.StreamLog, "_synchronise_slot", slot_then_rows)
    believe_every_slot(patch)


def believe_every_slot(patch: pytest.MonkeyPatch) -> None:
    """Recovery and readers skip the block checksum."""
    patch.setattr(recovery, "block_crc", lambda slot, *_: slot.block_crc)


def readers_believe_every_slot(patch: pytest.MonkeyPatch) -> None:
    """Only recovery looks at the block checksum."""
    patch.setattr(reader, "first_look", lambda raw, *_: reader.commit.newest(raw))


def no_directory_fsync_of_chunks(patch: pytest.MonkeyPatch) -> None:
    """A new chunk's name is not made durable."""
    patch.setattr(chunks, "fsync_directory", lambda path: None)


def no_directory_fsync_of_documents(patch: pytest.MonkeyPatch) -> None:
    """The names of documents, streams and stores are not made durable."""
    patch.setattr(layout, "fsync_directory", lambda path: None)


def no_fsync_of_new_chunks(patch: pytest.MonkeyPatch) -> None:
    """A new chunk's name is durable, its size and its rows are not."""
    never_synchronise_rows(patch)
    reserve = chunks.ChunkFiles.reserve

    def careless(self: Any, index: int, *, durable: bool) -> None:
        reserve(self, index, durable=False)
        if durable:
            self._sync_directories(index)

    patch.setattr(chunks.ChunkFiles, "reserve", careless)


def sync_without_waiting(patch: pytest.MonkeyPatch) -> None:
    """`Store.sync` promises what it made durable, whatever the live writer's next slots will say."""
    patch.setattr(durable, "_settle", lambda *_: None)


def blind_start(patch: pytest.MonkeyPatch) -> None:
    """A new writer declares the rows durable that a killed one left in the page cache, before it has flushed them."""
    put = log.StreamLog._put_slot

    def too_early(self: Any) -> None:
        if self.durable == 0:
            self._block_start, self._crc = self.head, (0, 0)
        put(self)

    patch.setattr(log.StreamLog, "_put_slot", too_early)


@pytest.mark.parametrize(
    ("breakage", "levels"),
    [
        (never_synchronise_rows, ("block",)),
        (slot_before_rows, ("block",)),
        (believe_every_slot, ("interval",)),
        (readers_believe_every_slot, ("interval",)),
        (no_directory_fsync_of_chunks, ("block",)),
        (no_directory_fsync_of_documents, ("block",)),
        (no_fsync_of_new_chunks, ("block", "interval")),
        (sync_without_waiting, ("interval",)),
        pytest.param(blind_start, ("interval",), marks=pytest.mark.full),  # rare: it needs a kill and a power loss
    ],
)
def test_the_simulator_notices_a_broken_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, breakage: Any, levels: tuple[Durability, ...]
) -> None:
    breakage(monkeypatch)
    for seed in range(8):
        if power_losses(tmp_path / str(seed), 30, seed=seed, levels=levels):
            return
    pytest.fail("a broken commit protocol passed the power-loss test")
