"""Fine-tune a pretrained run online: collectors drive the environment while the learner trains.

Example:
  slipway finetune runs/door --online-steps 100000
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from agent.commands.train import report, train_with_progress
from agent.resolving import continued


@dataclass(frozen=True, kw_only=True)
class Args:
    run: Annotated[Path, tyro.conf.Positional]
    """Run directory of `slipway pretrain` or `slipway train`."""
    online_steps: int = 0
    """Online environment steps in all, warm-up included; 0 keeps what the run was started with."""
    json: bool = False
    """Print one JSON object at the end instead of a table."""


def run(args: Args) -> int:
    """Fine-tune until done or stopped."""
    config = continued(args.run, args.online_steps)
    return report(train_with_progress(config), as_json=args.json)
