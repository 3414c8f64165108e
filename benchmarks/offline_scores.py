"""IQL pretrained on the shared datasets: D4RL-normalised scores over seeds, beside the data's own.

    python -m benchmarks.offline_scores --data ../shared/data [--datasets dapg-door-expert-v0 ...] [--seeds 0 1 2]
                                        [--steps 30000] [--out runs/offline] [--json FILE] [--quick]

Each dataset is extracted and ingested below --out and trained by `slipway pretrain` with its task's preset; finished
runs are kept, so the same command resumes. Every run is reported.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from envs.catalog import lookup, normalized_score
from replay.store import Store

DATASETS = ["dapg-door-expert-v0", "dapg-pen-mixed-v0", "dapg-door-human-v0"]


def slipway(*arguments: str) -> dict[str, Any]:
    """Run the command with --json and return its object."""
    done = subprocess.run(
        [sys.executable, "-m", "agent.cli", *arguments, "--json"], stdout=subprocess.PIPE, text=True, check=True
    )
    record: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return record


def ingest(archive: Path, out: Path) -> Path:
    """Extract one archive and ingest it, both once."""
    store = out / f"{archive.name.removesuffix('.tar.gz')}.zarr"
    if not store.exists():
        with tarfile.open(archive) as tar:
            tar.extractall(out / "minari", filter="data")
            folder = next(name for name in tar.getnames() if name.endswith("/data/main_data.hdf5"))
        slipway("ingest", str(out / "minari" / Path(folder).parent.parent), "--out", str(store))
    return store


def main() -> None:
    """Train every dataset and seed, print a table, optionally write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("SLIPWAY_DATA", "../shared/data")))
    parser.add_argument("--datasets", nargs="+", default=DATASETS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=30_000)
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("runs/offline"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="one dataset, one seed, 500 updates: a smoke run")
    args = parser.parse_args()
    if args.quick:
        args.datasets, args.seeds, args.steps, args.episodes = args.datasets[:1], args.seeds[:1], 500, 5
    args.out.mkdir(parents=True, exist_ok=True)
    rows = []
    print(f"{args.steps} updates, {args.episodes} evaluation episodes")
    print("| dataset | data | seeds | mean ± standard error |\n|---|---|---|---|")
    for name in args.datasets:
        store = ingest(args.data / f"{name}.tar.gz", args.out)
        opened = Store.open(store)
        task = lookup(str((opened.spec.env or {})["id"]))
        data = normalized_score(task, opened.info()["returns"]["mean"])
        scores = []
        for seed in args.seeds:
            out = args.out / f"{name}-{args.steps}-{seed}"
            run = slipway(
                "pretrain", "--replay", str(store), "--pretrain-steps", str(args.steps), "--seed", str(seed),
                "--evaluation.final-episodes", str(args.episodes), "--out", str(out),
            )  # fmt: skip
            scores.append(run["pretrained"]["normalized"])
        mean, error = np.mean(scores), np.std(scores, ddof=min(1, len(scores) - 1)) / np.sqrt(len(scores))
        print(f"| {name} | {data:.1f} | {', '.join(f'{s:.1f}' for s in scores)} | {mean:.1f} ± {error:.1f} |")
        rows.append({"name": name, "value": mean, "unit": "normalised score", "against": "data", "ratio": mean / data})
    if args.json:
        machine = {"platform": platform.platform(), "python": platform.python_version()}
        args.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
