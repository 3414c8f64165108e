"""The replay benchmark beyond sampling: appends, opening, growth, cold reads, visibility, writers beside readers."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from benchmarks.measure import Process, Results, Timed, interleave
from benchmarks.replay_data import ACT, OBS, make_block, make_spec, make_store
from replay.chunks import chunk_path
from replay.log import Durability
from replay.mapping import ChunkTable
from replay.reader import StoreReader
from replay.sampler import UniformSampler
from replay.store import Store

PARTS = ("append", "open", "growth", "cold", "visibility", "together")


def measure(results: Results, folder: Path, *, quick: bool, sizes: tuple[int, int], parts: list[str]) -> None:
    """All rows of the parts asked for."""
    if "append" in parts:
        append(results, folder, budget_s=0.05 if quick else 0.15)
    if "open" in parts:
        opening(results, make_store(folder, sizes[1]))
    if "growth" in parts:
        growth(results, make_store(folder, sizes[0]), make_store(folder, 2_000_000 if quick else 20_000_000))
    if "cold" in parts:
        cold(results, make_store(folder, sizes[1]))
    if "visibility" in parts:
        visibility(results, folder, count=300 if quick else 2_000)
    if "together" in parts:
        together(results, make_store(folder, sizes[0]), budget_s=0.2 if quick else 2.0)


def append(results: Results, folder: Path, *, budget_s: float) -> None:
    """Appends beside bare writes of as many bytes (row and meta) to a file that grows."""
    spec = make_spec()
    store = Store.create(folder / "append.zarr", spec)
    row_bytes = 4 * spec.row_width + 8 * 5
    with ExitStack() as stack:

        def step() -> Callable[[], object]:
            writer = stack.enter_context(store.writer("step", durability="process"))
            observation, action, first = np.zeros(OBS, np.float32), np.zeros(ACT, np.float32), [True]

            def call() -> None:
                writer.append(
                    observation, action, 0.0, first=first[0], terminated=False, truncated=False, next_observation=None
                )
                first[0] = False

            return call

        def block(durability: Durability) -> Callable[[], object]:
            writer = stack.enter_context(store.writer(f"block-{durability}", durability=durability))
            rows, meta = make_block(spec, 1_000)
            return lambda: writer.append_block(rows, meta)

        def pwrite(name: str, size: int, *, durable: bool) -> Callable[[], object]:
            fd = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            stack.callback(os.close, fd)
            data, at = os.urandom(size), [0]

            def call() -> None:
                at[0] += os.pwrite(fd, data, at[0])
                if durable:
                    os.fdatasync(fd)

            return call

        for name, rows, ours, durable in (
            ("append_vs_pwrite", 1, step(), False),
            ("append_block_vs_pwrite", 1_000, block("process"), False),
            ("append_block_vs_pwrite_fdatasync", 1_000, block("block"), True),
        ):
            peer = pwrite(name, rows * row_bytes, durable=durable)
            seconds = interleave({"ours": ours, "pwrite": peer}, rounds=7, budget_s=budget_s)
            against = "bare pwrite" + (" + fdatasync" if durable else "") + f" of {rows * row_bytes} bytes"
            results.compare(name, rows / seconds["ours"], rows / seconds["pwrite"], "rows/s", against)


def opening(results: Results, store: Store) -> None:
    """From the path to the first batch."""

    def call() -> None:
        Store.open(store.path).sampler(256, rng=np.random.default_rng(0)).next()

    ms = interleave({"ours": call}, most=20)["ours"] * 1e3
    results.compare(f"open_{store.num_rows // 1_000}k_ms", ms, 300.0, "ms", "300 ms asked")


def growth(results: Results, small: Store, large: Store) -> None:
    """Cost of a batch of 256 in a store twenty times as large."""
    samplers = {name: s.sampler(256, rng=np.random.default_rng(0)) for name, s in (("small", small), ("large", large))}
    for sampler in samplers.values():
        for _, _, rows in sampler.reader.blocks():
            rows[::32, 0].sum()
    seconds = interleave({name: sampler.next for name, sampler in samplers.items()}, rounds=7)
    against = f"a store of {small.num_rows / 1e6:.1f}M rows instead of {large.num_rows / 1e6:.1f}M"
    results.compare("growth_us_per_batch", seconds["large"] * 1e6, seconds["small"] * 1e6, "µs", against)


def drop_from_cache(store: Store) -> None:
    """Make the kernel forget the rows' pages; no process may have them mapped."""
    for name in store.stream_names():
        rows = store.path / "streams" / name / "rows"
        for chunk in range(len(list((rows / "c").iterdir()))):
            fd = os.open(chunk_path(rows, chunk), os.O_RDONLY)
            try:
                os.fdatasync(fd)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)


def cold(results: Results, store: Store) -> None:
    """Batches of rows that are on the disk only, beside the same reads through a plain mapping."""

    def batches(*, plain: bool) -> Callable[[int], float]:
        rng = np.random.default_rng(int(plain))

        def timed(count: int) -> float:
            drop_from_cache(store)
            space = ChunkTable(store.chunk_rows, store.spec.row_width) if plain else None
            sampler = UniformSampler(StoreReader([store], space=space), 256, rng=rng)
            began = time.perf_counter()
            for _ in range(count):
                sampler.next()
            return time.perf_counter() - began

        return timed

    # Few enough batches that one seldom meets a page that an earlier one has read.
    most = max(1, store.num_rows * store.spec.row_width * 4 // 4096 // 20 // 256)
    contenders = {"ours": Timed(batches(plain=False)), "plain": Timed(batches(plain=True))}
    seconds = interleave(contenders, budget_s=1.0, most=most)
    results.compare("cold_vs_plain_mapping", 256 / seconds["ours"], 256 / seconds["plain"], "rows/s", "plain mapping")


def visibility(results: Results, folder: Path, *, count: int) -> None:
    """From the time stamp of a step to a reader in another process that has seen it."""
    store = Store.create(folder / "visible.zarr", make_spec())
    with Process([sys.executable, "-m", "benchmarks.replay_service", "writer", store.path, "a", "500"]):
        reader = store.reader()
        taken: list[int] = []
        while len(taken) < count:
            if reader.refresh() and (head := reader.heads.get("a", 0)):
                seen = time.monotonic_ns()
                taken.append(seen - int(reader.meta("a", head - 1, head)[0, 2]))
    results.compare("visibility_ms", float(np.median(taken)) / 1e6, 1.0, "ms", "1 ms asked, median step")
    results.compare(
        "visibility_p99_ms", float(np.quantile(taken, 0.99)) / 1e6, 1.0, "ms", "1 ms asked, 99th percentile"
    )


def together(results: Results, store: Store, *, budget_s: float) -> None:
    """Three sampling processes with two writing processes on the same store, beside the three alone.

    Writers at 500 steps a second are what robots bring; at full speed they are a load of two processes more, which
    says something about the store only where the machine has five cores.
    """
    module = [sys.executable, "-m", "benchmarks.replay_service"]
    with ExitStack() as stack:
        readers = [stack.enter_context(Process([*module, "reader", store.path])) for _ in range(3)]
        count = max(100, int(100 * budget_s / max(reader.time_calls(100) for reader in readers)))

        def rate() -> float:
            with ThreadPoolExecutor(len(readers)) as pool:
                seconds = list(pool.map(lambda each: each.time_calls(count), readers))
            return float(sum(256 * count / each for each in seconds))

        rate()
        for hz, name in ((500, "together_500hz"), (0, "together_full_speed")):
            alone, beside = [], []
            for _ in range(5):
                alone.append(rate())
                with ExitStack() as writers:
                    for number in range(2):
                        writer = [*module, "writer", store.path, f"{name}-{number}", str(hz)]
                        writers.enter_context(Process(writer))
                    beside.append(rate())
            against = f"the three readers alone, {len(os.sched_getaffinity(0))} cores"
            results.compare(name, float(np.median(beside)), float(np.median(alone)), "rows/s", against)


def _reader(path: Path) -> None:
    from benchmarks.serving import serve

    sampler = Store.open(path).sampler(256, rng=np.random.default_rng())
    for _, _, rows in sampler.reader.blocks():
        rows[::32, 0].sum()

    def call() -> None:
        sampler.reader.refresh()
        sampler.next()

    serve(call)


def _writer(path: Path, stream: str, hz: float) -> None:
    """Append steps until the parent closes the pipe; 0 Hz: as fast as it goes."""
    import select

    observation, action = np.zeros(OBS, np.float32), np.zeros(ACT, np.float32)
    with Store.open(path).writer(stream, durability="process") as writer:
        print('{"ready": true}', flush=True)
        t, due = 0, time.monotonic()
        while not select.select([sys.stdin], [], [], 0)[0]:
            for _ in range(1 if hz else 256):
                writer.append(
                    observation, action, 0.0, first=t % 1000 == 0, terminated=False, truncated=t % 1000 == 999,
                    next_observation=observation,
                )  # fmt: skip
                t += 1
            if hz:
                due += 1 / hz
                time.sleep(max(0.0, due - time.monotonic()))


if __name__ == "__main__":
    role, where, *rest = sys.argv[1:]
    if role == "reader":
        _reader(Path(where))
    else:
        _writer(Path(where), rest[0], float(rest[1]))
