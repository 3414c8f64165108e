"""Updates a second of TD3+BC and CQL beside d3rlpy's, on the same batch and networks.

    python -m benchmarks.algorithms_speed [--quick] [--json FILE]

One thread, batch 256, 2×256, 17 observations and 6 actions, published settings; sampling from the store included on our
side, from its own buffer on d3rlpy's. Ours in both precisions: float32 products of CQL's 7,936 rows take most of either
side's time, and no library multiplies faster than the other.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.learner_speed import PEERS, learner, make_data, stepping  # first: it sets the number of threads

# isort: split
import numpy as np
import torch

from agent.algorithms import config_class
from agent.algorithms.base import Algorithm
from agent.executors.compiled import Compiled
from agent.feeding import Feed
from agent.process import keep_freed_memory
from benchmarks.measure import HERE, ONE_THREAD, Contender, Process, Results, interleave, machine
from benchmarks.peers import peer_python, peer_versions

THEIRS = {"td3_bc": "TD3PlusBC", "cql": "CQL"}
PRECISIONS = {"float32": "", "bf16": "_bf16"}
"""Of ours, as configured by `--precision`, and what their rows' names end with; d3rlpy is float32."""


def measure(results: Results, name: str, folder: Path, *, quick: bool) -> None:
    """A row for each precision."""
    folder.mkdir()
    store, prepare = make_data(folder)
    config = config_class(name)()
    python = peer_python("d3rlpy", PEERS["d3rlpy"])
    with contextlib.ExitStack() as stack:
        peer = stack.enter_context(
            Process([python, HERE / "learner_peers.py", f"d3rlpy:{THEIRS[name]}"], env=ONE_THREAD)
        )
        contenders: dict[str, Contender] = {"d3rlpy": peer.named("eager")}
        for precision in PRECISIONS:
            sampler = store.sampler(config.batch_size, rng=np.random.default_rng(0))
            feed = stack.enter_context(Feed(sampler, prepare))
            contenders[precision] = twice(learner(config, precision, Compiled(print)), feed)
        seconds = interleave(contenders, rounds=5 if quick else 9, budget_s=0.5 if quick else 2.0)
    for precision, suffix in PRECISIONS.items():
        rate = 2.0 / seconds[precision]
        results.compare(f"{name}_vs_d3rlpy{suffix}", rate, 1.0 / seconds["d3rlpy"], "updates/s", "d3rlpy, eager")


def twice(ours: Algorithm[Any], feed: Feed) -> Callable[[], object]:
    """Two updates: a policy that is updated every second time makes two kinds of them, and whole turns hold both."""
    one = stepping(ours, feed)
    return lambda: (one(), one())


def main() -> None:
    """Measure, print a table, optionally write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter rounds")
    parser.add_argument("--only", nargs="+", choices=sorted(THEIRS), default=sorted(THEIRS))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as the learner process does
    versions = peer_versions(peer_python("d3rlpy", PEERS["d3rlpy"]), ["d3rlpy"])
    results = Results(machine(["torch"], versions))
    with tempfile.TemporaryDirectory(prefix="algorithms_speed-") as name:
        for method in args.only:
            measure(results, method, Path(name) / method, quick=args.quick)
    results.write(args.json)


if __name__ == "__main__":
    main()
