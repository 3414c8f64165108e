"""Whether the demo's claims hold on seeds that it was not tuned on: data < pretrained < fine-tuned.

    python -m benchmarks.demo_seeds [--seeds 0 1 2 3 4] [--out runs/demo_seeds] [--json FILE] [--quick]

For each seed: the demo as `slipway demo --seed S` plays it, then the same pretraining with twice the updates. A seed
holds when the 95% intervals of data, pretrained and fine-tuned policy do not overlap in this order and the fine-tuned
interval lies above the doubled pretraining's. Finished parts are kept below --out, so the same command resumes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
from pathlib import Path
from typing import Any

from agent.commands.demo import QUICK
from agent.commands.train import train_with_progress
from agent.demo import Demo, DemoSettings, train_config


def doubled(settings: DemoSettings, out: Path, *, replay: Path, seed: int) -> dict[str, Any]:
    """The demo's pretraining with twice the updates and no online phase; returns its score."""
    config = train_config(settings, replay=replay, out=out, seed=seed)
    config = dataclasses.replace(config, pretrain_steps=2 * settings.pretrain_steps, online_steps=0)
    score: dict[str, Any] = train_with_progress(config)["pretrained"]
    return score


def measure(seed: int, out: Path, settings: DemoSettings) -> dict[str, Any]:
    """One seed's demo and its doubled control."""
    demo = Demo(out / f"seed-{seed}", settings, seed=seed)
    record = demo.play()
    control = doubled(settings, out / f"seed-{seed}-doubled", replay=demo.dataset, seed=seed)
    data, pretrained, finetuned = (record[key]["ci"] for key in ("dataset", "pretrained", "finetuned"))
    ordered = data[1] < pretrained[0] and pretrained[1] < finetuned[0]
    return {**record, "doubled": control, "holds": bool(ordered and control["ci"][1] < finetuned[0])}


def main() -> None:
    """Measure all seeds, print a table, optionally write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, default=Path("runs/demo_seeds"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="one seed of the demo's smoke run; claims cannot hold")
    args = parser.parse_args()
    seeds, settings = (args.seeds[:1], QUICK) if args.quick else (args.seeds, DemoSettings())
    args.out.mkdir(parents=True, exist_ok=True)
    results = {seed: measure(seed, args.out, settings) for seed in seeds}

    labels = ("dataset", "pretrained", "doubled", "finetuned", "deployed")
    print("| seed | " + " | ".join(labels) + " | wall s | holds |")
    print("|---" * (len(labels) + 3) + "|")
    for seed, record in results.items():
        cells = [f"{record[k]['mean']:.3f} ({record[k]['ci'][0]:.3f}–{record[k]['ci'][1]:.3f})" for k in labels]
        print(f"| {seed} | {' | '.join(cells)} | {record['wall_s']:.0f} | {'yes' if record['holds'] else 'no'} |")
    if args.json:
        rows = [
            {
                "name": f"seed_{seed}_{label}", "value": record[label]["mean"], "unit": "success rate",
                "against": "dataset", "ratio": record[label]["mean"] / max(record["dataset"]["mean"], 1e-9),
            }
            for seed, record in results.items()
            for label in labels
        ]  # fmt: skip
        machine = {"platform": platform.platform(), "python": platform.python_version()}
        args.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
