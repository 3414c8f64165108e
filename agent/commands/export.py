"""Export a run's trained actor as a verified bundle.

The graph holds normaliser and action bounds and is compared with the trained network on 10,000 observations and more,
extremes included, in a process without torch; a difference fails the export and leaves nothing behind.

Beside the float32 policy the bundle gets one with float16 weights, half the size, where that moves no action by more
than 0.02 % of its range on ordinary observations, and with --quantize int8 a quarter-size one for one observation at a
time, whatever its error: the manifest states both.

--best-of-n N puts the critics into the graph: of the mean action and N - 1 around it, under noise drawn once for all
by seed 0, it takes the one of the greatest Q. Deterministic, some five times the mean's time; float32 alone.

Example:
  slipway export runs/door --out door.policy
  slipway export runs/door --out door.policy --quantize int8 --env-episodes 20 --sign key.pem --hz 50 --rate-limit 2
  slipway export runs/door --out door-best.policy --best-of-n 10 --env-episodes 20
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from agent.calls import export
from agent.console import results, table, working, write_json
from agent.export_request import DevicePromises


@dataclass(frozen=True, kw_only=True)
class Args:
    run: Annotated[Path, tyro.conf.Positional]
    """Run directory."""
    out: Path
    """Bundle folder to make."""
    quantize: Literal["none", "int8"] = "none"
    """Add this variant. Static int8 and full float16 are not offered: they ruin the normaliser."""
    best_of_n: int = 0
    """Choose by Q between so many actions, 2 to 256, instead of the mean action (0); see above."""
    env_episodes: int = 0
    """Score every variant over this many episodes of the run's environment; 0 keeps the run's own last evaluation."""
    sign: Path | None = None
    """Sign with this Ed25519 private key (PEM); needs slipway[sign]."""
    hz: float | None = None
    """Contract: rate at which the policy is to act, in Hz."""
    deadline_ms: float | None = None
    """Contract: a decision that takes longer, in ms, is counted as late."""
    max_obs_age_ms: float | None = None
    """Contract: an observation older than this, in ms, is a fault."""
    on_fault: Literal["hold", "safe"] = "hold"
    """Contract: repeat the last action for some steps before the safe stop, or stop at once."""
    rate_limit: tuple[float, ...] = ()
    """Contract: largest change of the action per second, one number or one an entry; needs --hz."""
    action_names: tuple[str, ...] = ()
    """Contract: names of the action's entries, e.g. the joints, in the policy's order."""
    robot_model: str = ""
    """Contract: robot that the policy drives."""
    robot_revision: str = ""
    """Contract: its revision or configuration."""
    json: bool = False
    """Print one JSON object."""


def run(args: Args) -> int:
    """Export and print what was checked."""
    promises = DevicePromises(
        hz=args.hz, deadline_ms=args.deadline_ms, max_obs_age_ms=args.max_obs_age_ms, on_fault=args.on_fault,
        rate_limit=args.rate_limit, action_names=args.action_names,
        robot_model=args.robot_model, robot_revision=args.robot_revision,
    )  # fmt: skip
    with working("exporting and comparing with the trained network"):
        outcome = export(
            args.run, args.out, promises=promises, int8=args.quantize == "int8", best_of_n=args.best_of_n,
            episodes=args.env_episodes, sign_key=args.sign,
        )  # fmt: skip
    if args.json:
        write_json(outcome)
        return 0
    rows = []
    for name, entry in outcome["variants"].items():
        parity, score = entry["parity"], entry["evaluation"]
        rows.append([
            name, f"{entry['size']:,}", str(entry["max_batch"] or "any"), f"{parity['action_error_ordinary']:.1e}",
            f"{parity['action_error']:.1e}", f"{score['mean']:.4g}" if score else "-",
        ])  # fmt: skip
    for name, entry in outcome["left_out"].items():
        parity = entry["parity"]
        over = f"left out: above {entry['limit']:g}"
        rows.append([name, over, "-", f"{parity['action_error_ordinary']:.1e}", f"{parity['action_error']:.1e}", "-"])
    columns = ["variant", "bytes", "batch", "error, ordinary", "error, extremes", "mean return"]
    signed = ", signed" if outcome["signed"] else ""
    results.print(table(f"{args.out}: policy {outcome['policy']}, verified against the network{signed}", columns, rows))
    return 0
