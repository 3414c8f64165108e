"""Updates a second of TD3+BC and CQL beside d3rlpy's, on the same batch and networks.

    python -m benchmarks.algorithms_speed [--quick] [--json FILE]

One thread, batch 256, 2×256, 17 observations and 6 actions, published settings; sampling from the store included on our
side, from its own buffer on d3rlpy's.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from pathlib import Path

from benchmarks.learner_speed import PEERS, learner, make_data  # first: it sets the number of threads

# isort: split
import numpy as np
import torch

from agent.algorithms import config_class
from agent.executors.compiled import Compiled
from agent.feeding import Feed
from agent.process import keep_freed_memory
from benchmarks.measure import HERE, ONE_THREAD, Contender, Process, Results, interleave, machine
from benchmarks.peers import peer_python, peer_versions

THEIRS = {"td3_bc": "TD3PlusBC", "cql": "CQL"}


def measure(results: Results, name: str, folder: Path, *, quick: bool) -> None:
    """One row."""
    folder.mkdir()
    store, prepare = make_data(folder)
    config = config_class(name)()
    python = peer_python("d3rlpy", PEERS["d3rlpy"])
    with contextlib.ExitStack() as stack:
        feed = stack.enter_context(Feed(store.sampler(config.batch_size, rng=np.random.default_rng(0)), prepare))
        peer = stack.enter_context(
            Process([python, HERE / "learner_peers.py", f"d3rlpy:{THEIRS[name]}"], env=ONE_THREAD)
        )
        ours = learner(config, "float32", Compiled(print))

        def twice() -> None:
            # A policy that is updated every second time makes two kinds of update: whole turns hold both.
            ours.update(feed.next())
            ours.update(feed.next())

        contenders: dict[str, Contender] = {"ours": twice, "d3rlpy": peer.named("eager")}
        seconds = interleave(contenders, rounds=5 if quick else 9, budget_s=0.5 if quick else 2.0)
    results.compare(f"{name}_vs_d3rlpy", 2.0 / seconds["ours"], 1.0 / seconds["d3rlpy"], "updates/s", "d3rlpy, eager")


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
