"""IQL updates a second beside d3rlpy, TorchRL and a bare matrix product, and a sweep of compiled against eager.

    python -m benchmarks.learner_speed [--quick] [--sweep] [--json FILE]

One thread, batch 256, 2×256, 17 observations and 6 actions; sampling from the store included on our side, from each
peer's own buffer on theirs. The floor is what float32 products of one update's 536 MFLOP take, and nothing else. Where
there are two cores, ours on two threads stands beside ours on one.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))

import numpy as np
import torch

from agent import algorithms
from agent.algorithms.base import Algorithm
from agent.algorithms.config import AlgorithmConfig
from agent.algorithms.iql_config import IQLConfig
from agent.executors.choose import synthetic_batch
from agent.executors.compiled import Compiled
from agent.executors.eager import Executor, eager
from agent.executors.threads import free_cores
from agent.feeding import Feed
from agent.preparation import make_preparation
from agent.process import keep_freed_memory
from agent.transitions import Preparer
from benchmarks.measure import ONE_THREAD, Contender, Process, Results, interleave, machine
from benchmarks.peers import peer_python, peer_versions
from replay.schema import StoreSpec
from replay.statistics import observation_moments
from replay.store import Store

OBS, ACT = 17, 6
UPDATE_FLOP = 536e6
PEERS = {"d3rlpy": ["torch", "d3rlpy==2.8.1"], "torchrl": ["torch", "torchrl"]}
HERE = Path(__file__).parent


def learner(config: AlgorithmConfig, precision: str, executor: Executor) -> Algorithm[Any]:
    """A learner of the benchmark's sizes."""
    made = algorithms.make(
        config, observation_size=OBS, action_size=ACT, offline_steps=10**6,
        generator=torch.Generator().manual_seed(0), precision=precision,
    )  # fmt: skip
    made.executor = executor
    return made


def make_store(path: Path, rows: int) -> Store:
    """Random transitions in episodes of 1,000 steps."""
    terms = [{"name": "observation", "offset": 0, "length": OBS, "dtype": "float32"}]
    store = Store.create(path, StoreSpec.from_terms(terms, [-1.0] * ACT, [1.0] * ACT))
    rng = np.random.default_rng(0)
    with store.writer("data", durability="process") as writer:
        for _ in range(rows // 1000):
            writer.append_episode(
                rng.standard_normal((1001, OBS)), rng.uniform(-1, 1, (1000, ACT)), rng.standard_normal(1000),
                terminated=False, truncated=True, info=None,
            )  # fmt: skip
    return store


def stepping(ours: Algorithm[Any], feed: Feed) -> Callable[[], object]:
    """One update on the next batch a call."""
    return lambda: ours.update(feed.next())


def on_threads(count: int, step: Callable[[], object]) -> Callable[[], object]:
    """`step` on so many threads, the next contender's on one again."""

    def stepped() -> None:
        torch.set_num_threads(count)
        step()
        torch.set_num_threads(1)

    return stepped


def make_data(folder: Path) -> tuple[Store, Preparer]:
    """100,000 transitions and what prepares batches of them."""
    store = make_store(folder / "store", 100_000)
    preparation = make_preparation(
        moments=observation_moments(store.reader()), action_low=np.full(ACT, -1.0), action_high=np.full(ACT, 1.0),
        normalize=True, clip=10.0, reward_scale=1.0, reward_shift=0.0, discount=0.99,
    )  # fmt: skip
    return store, Preparer(preparation, torch.device("cpu"))


def floor() -> Callable[[], object]:
    """Float32 products of one update's operations, into memory that is there already."""
    a, b, out = torch.randn(1024, 256), torch.randn(256, 256), torch.empty(1024, 256)
    return lambda: torch.mm(a, b, out=out)


FLOOR_FLOP = 2 * 1024 * 256 * 256


def against_peers(results: Results, folder: Path, *, quick: bool) -> None:
    """The rows that DESIGN.md names."""
    store, prepare = make_data(folder)
    eager_only = ["--eager"] if quick else []
    script = HERE / "learner_peers.py"
    peers = {
        kind: Process([peer_python(kind, needed), script, kind, *eager_only], env=ONE_THREAD)
        for kind, needed in PEERS.items()
    }
    kinds = [(precision, count) for precision in ("float32", "bf16") for count in (1, 2)[: free_cores(0)]]
    feeds = {kind: Feed(store.sampler(256, rng=np.random.default_rng(0)), prepare) for kind in kinds}
    try:
        contenders: dict[str, Contender] = {"floor": floor()}
        for (precision, threads), feed in feeds.items():
            ours = learner(IQLConfig(), precision, Compiled(print))
            contenders[f"{precision} {threads}"] = on_threads(threads, stepping(ours, feed))
        for kind, peer in peers.items():
            contenders |= {f"{kind} {call}": peer.named(call) for call in peer.about["calls"]}
        seconds = interleave(contenders, rounds=5 if quick else 9, budget_s=0.5 if quick else 2.0)
        floor_s = seconds["floor"] * UPDATE_FLOP / FLOOR_FLOP
        for precision, suffix in (("float32", ""), ("bf16", "_bf16")):
            rate = 1.0 / seconds[f"{precision} 1"]
            for kind in PEERS:
                name = min((each for each in seconds if each.startswith(f"{kind} ")), key=seconds.__getitem__)
                results.compare(f"iql_vs_{kind}{suffix}", rate, 1.0 / seconds[name], "updates/s", name)
            results.compare(f"iql_vs_sgemm_floor{suffix}", rate, 1.0 / floor_s, "updates/s", "float32 products alone")
            if (two := seconds.get(f"{precision} 2")) is not None:
                results.compare(f"iql_two_threads{suffix}", 1.0 / two, rate, "updates/s", "one thread")
        # Not from the turns above, between which the sampler's thread has time to draw ahead.
        waited = wait_fraction(store, prepare, ours, seconds=1.0 if quick else 5.0)
        results.compare("data_wait_fraction", waited, 1.0, "of the time", "all of it")
    finally:
        for feed in feeds.values():
            feed.close()
        for peer in peers.values():
            peer.close()


def wait_fraction(store: Store, prepare: Preparer, ours: Algorithm[Any], *, seconds: float) -> float:
    """Share of its time that an uninterrupted loop of updates waits for batches."""
    with Feed(store.sampler(256, rng=np.random.default_rng(0)), prepare) as feed:
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            ours.update(feed.next())
        return feed.wait_fraction()


def sweep(results: Results, *, quick: bool) -> None:
    """Compiled against eager over batch, width and critics, one varied at a time around the published setting."""
    base = IQLConfig()
    varied: list[dict[str, Any]] = [
        *({"batch_size": size} for size in (256, 1024, 8192)),
        *({"hidden": (width, width)} for width in (64, 512, 1024)),
        *({"critics": count} for count in (4, 10)),
    ]
    for change in varied[:: 3 if quick else 1]:
        config = dataclasses.replace(base, **change)
        executors: dict[str, Executor] = {"eager": eager, "compiled": Compiled(print)}
        contenders = {}
        for name, executor in executors.items():
            ours = learner(config, "float32", executor)
            batch = synthetic_batch(ours)
            contenders[name] = lambda ours=ours, batch=batch: ours.update(batch)
        seconds = interleave(contenders, rounds=5, budget_s=0.5)
        name = "_".join(f"{key}_{value[0] if isinstance(value, tuple) else value}" for key, value in change.items())
        results.compare(f"sweep_{name}", 1 / seconds["compiled"], 1 / seconds["eager"], "updates/s", "eager")


def main() -> None:
    """Measure, print a table, optionally write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter rounds, TorchRL uncompiled: about a minute")
    parser.add_argument("--sweep", action="store_true", help="compiled against eager over sizes, instead of the peers")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as the learner process does
    if args.sweep:
        results = Results(machine(["torch"]))
        sweep(results, quick=args.quick)
    else:
        versions: dict[str, str] = {}
        for kind, requirements in PEERS.items():
            versions |= peer_versions(peer_python(kind, requirements), [kind])
        results = Results(machine(["torch"], versions))
        with tempfile.TemporaryDirectory(prefix="learner_speed-") as name:
            against_peers(results, Path(name), quick=args.quick)
    results.write(args.json)


if __name__ == "__main__":
    main()
