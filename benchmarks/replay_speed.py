"""The replay store's speed beside NumPy, cpprb, TorchRL, zarr-python, Minari and bare pwrite.

    python -m benchmarks.replay_speed [--quick] [--only PART ...] [--json FILE]          (or `slipway bench replay`)

Transitions of 17 + 6 in the page cache, one thread each. A batch of ours is the whole `sampler.next()`: indices, masks,
gather, split into fields. All contenders of a row take turns; medians of five. Rates are transitions a second. Peers
that are not in Slipway's environment are installed once into their own (`benchmarks/peers.py`). `--quick` measures
smaller stores (100,000 and 200,000 rows).
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np  # noqa: E402 - after the thread counts
from numpy.typing import NDArray  # noqa: E402

from benchmarks import replay_service  # noqa: E402
from benchmarks.measure import HERE, Contender, Process, Results, interleave, machine  # noqa: E402
from benchmarks.peers import peer_python, peer_versions  # noqa: E402
from benchmarks.replay_data import ACT, OBS, make_store  # noqa: E402
from replay.sampler import Batch  # noqa: E402

INSTALLED = {"cpprb": ["cpprb", "numpy"], "torchrl": ["torch", "torchrl", "tensordict"]}
PARTS = ("memory", "cpprb", "torchrl", "zarr", "minari", *replay_service.PARTS)


def label(rows: int) -> str:
    """1000000 -> 1M."""
    return f"{rows // 1_000_000}M" if rows >= 1_000_000 else f"{rows // 1_000}k"


def numpy_fancy(rows: int, batch: int) -> Callable[[], object]:
    """What most code does: five arrays in RAM, each indexed by the same places."""
    rng = np.random.default_rng(0)
    arrays = [rng.random((rows, width), dtype=np.float32) for width in (OBS, ACT, 1, OBS, 1)]

    def sample() -> list[NDArray[np.float32]]:
        places = rng.integers(0, rows, batch)
        return [array[places] for array in arrays]

    return sample


def numpy_packed_take(rows: int, batch: int) -> Callable[[], object]:
    """The practical limit: whole transitions in one array in RAM, gathered into one buffer whose views are the fields.

    It has no masks to look at: every row of it is a transition.
    """
    rng = np.random.default_rng(0)
    packed = np.ones((rows, OBS + ACT + 1 + OBS + 1), np.float32)
    out = np.empty((batch, packed.shape[1]), np.float32)
    at = np.cumsum([0, OBS, ACT, 1, OBS, 1])
    fields = [out[:, low:high] for low, high in pairwise(at)]

    def sample() -> list[NDArray[np.float32]]:
        packed.take(rng.integers(0, rows, batch), axis=0, out=out, mode="clip")
        return fields

    return sample


def sampling(
    results: Results, folder: Path, rows: int, batches: tuple[int, ...], peers: list[str], budget_s: float
) -> None:
    """All sampling rows of one size of the store."""
    store = make_store(folder, rows)
    with ExitStack() as stack:
        processes = {}
        for kind in peers:
            if kind in ("cpprb", "torchrl", "zarr", "minari"):
                python = peer_python(kind, INSTALLED[kind]) if kind in INSTALLED else Path(sys.executable)
                command = [python, HERE / "replay_peers.py", kind, str(rows), folder / kind, *map(str, batches)]
                processes[kind] = stack.enter_context(Process(command))
                stack.callback(shutil.rmtree, folder / kind, ignore_errors=True)
        for batch in batches:
            sampler = store.sampler(batch, rng=np.random.default_rng(0))
            touch_all(sampler.reader.blocks())

            def ours(next_batch: Callable[[], Batch] = sampler.next) -> object:
                return next_batch()

            fast: dict[str, Contender] = {"ours": ours}
            if "memory" in peers:
                fast["numpy_fancy"] = numpy_fancy(rows, batch)
                fast["numpy_packed_take"] = numpy_packed_take(rows, batch)
            fast |= {kind: processes[kind].named(str(batch)) for kind in ("cpprb", "torchrl") if kind in processes}
            seconds = interleave(fast, rounds=7, budget_s=budget_s)
            slow: dict[str, Contender] = {"ours": ours}
            slow |= {kind: processes[kind].named(str(batch)) for kind in ("zarr", "minari") if kind in processes}
            if len(slow) > 1:
                seconds = interleave(slow, rounds=5, budget_s=0.05) | seconds
            for name, against in AGAINST.items():
                if name in seconds:
                    rate, peer = batch / seconds["ours"], batch / seconds[name]
                    suffix = f"{label(rows)}_{batch}"
                    results.compare(f"sample_vs_{ROW.get(name, name)}_{suffix}", rate, peer, "rows/s", against)


AGAINST = {
    "numpy_fancy": "NumPy fancy indexing, five arrays in RAM",
    "numpy_packed_take": "NumPy take(out=), one array in RAM",
    "cpprb": "cpprb in RAM",
    "torchrl": "TorchRL LazyMemmapStorage",
    "zarr": "zarr-python fancy selection, default chunks",
    "minari": "Minari sample_episodes, one step each",
}
ROW = {"torchrl": "torchrl_memmap", "zarr": "zarr_fancy"}


def touch_all(blocks: object) -> None:
    """Read every page once: the comparison is of warm memory, mapped on both sides."""
    for _, _, rows in blocks:  # type: ignore[attr-defined]
        rows[:: 4096 // (4 * rows.shape[1]), 0].sum()


def main() -> None:
    """Measure, print a table, optionally write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small stores: within a minute")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to measure")
    parser.add_argument("--folder", type=Path, help="where the stores are made and removed; default: a temporary one")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    parts = list(args.only)
    versions: dict[str, str] = {}
    for kind in INSTALLED:
        if kind in parts:
            versions |= peer_versions(peer_python(kind, INSTALLED[kind]), [kind])
    sizes = (100_000, 200_000) if args.quick else (1_000_000, 5_000_000)
    if args.folder:
        args.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="replay_speed-") as name:
        folder = Path(name)
        results = Results(machine(["zarr", "minari"], versions))
        for rows in sizes:
            # The slow peers once, at the small size: a batch of theirs takes seconds.
            small = rows == sizes[0]
            wanted = [kind for kind in parts if small or kind not in ("zarr", "minari")]
            quick = [kind for kind in wanted if kind not in ("zarr", "minari")]
            batches = (256,) if args.quick else (256, 1024)
            budget_s = 0.05 if args.quick else 0.3
            if set(quick) & set(PARTS[:3]):
                sampling(results, folder, rows, batches, quick, budget_s)
            if slow := [kind for kind in wanted if kind in ("zarr", "minari")]:
                sampling(results, folder, rows, (256,), slow, budget_s)
        replay_service.measure(results, folder, quick=args.quick, sizes=sizes, parts=parts)
    results.write(args.json)


if __name__ == "__main__":
    main()
