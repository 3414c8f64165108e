"""The offline phase alone, from a replay store. `slipway finetune RUN` goes on from it.

Learns by IQL, or as --algorithm.name says (`--algorithm.name bc --help` shows that one's flags).

Example:
  slipway pretrain --replay door.zarr --pretrain-steps 100000 --out runs/door
"""

from __future__ import annotations

import dataclasses

from agent.commands import train
from agent.commands.train import Args
from agent.errors import ConfigError


def parse(arguments: list[str]) -> Args:
    """As `slipway train`."""
    return train.parse(arguments, prog="slipway pretrain", description=__doc__)


def run(args: Args) -> int:
    """Pretrain until done or stopped."""
    if args.config.online_steps:
        raise ConfigError("--online-steps belongs to `slipway train` or `slipway finetune`: leave it out here")
    return train.run(dataclasses.replace(args, config=args.config))
