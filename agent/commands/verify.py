"""Check a bundle (or a bare .onnx with its .sha256): checksums, contract, golden outputs. Needs no torch.

With a key an unsigned or wrongly signed bundle is refused; without one a signature is not checked.

Example:
  slipway verify door.policy
  slipway verify door.policy --verify-key key.pub.pem
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from agent.console import results, write_json
from agent.policies import resolve_policy
from export.verify import verify


@dataclass(frozen=True, kw_only=True)
class Args:
    bundle: Annotated[Path, tyro.conf.Positional]
    """Bundle folder, .onnx policy, or run (its newest policy)."""
    verify_key: Path | None = None
    """Ed25519 public key (PEM) whose owner must have signed the bundle; needs slipway[sign]."""
    json: bool = False
    """Print one JSON object."""


def run(args: Args) -> int:
    """Verify and print."""
    report = verify(resolve_policy(args.bundle), verify_key=args.verify_key)
    if args.json:
        write_json(report)
    else:
        results.print(f"{args.bundle}: verified")
        for name, value in report.items():
            if not isinstance(value, dict | list):
                results.print(f"  {name}: {value}")
        for name, golden in report.get("variants", {}).items():
            results.print(f"  {name}: golden outputs use {golden['share_of_tolerance']:.1%} of their tolerance")
    return 0
