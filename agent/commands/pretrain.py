"""The offline phase alone, from a replay store. `slipway finetune RUN` goes on from it.

Learns by IQL, or as --algorithm.name says (`--algorithm.name bc --help` shows that one's flags).

Example:
  slipway pretrain --replay door.zarr --pretrain-steps 100000 --out runs/door
  slipway pretrain CONFIG.toml --seed 1 --out runs/door-1
"""

from __future__ import annotations

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
    if not (algorithm := args.config.algorithm).pretrains:
        raise ConfigError(
            f"{algorithm.name} learns from its own experience only: train it with "
            f"`slipway train --algorithm.name {algorithm.name} --pretrain-steps 0 --online-steps N`, or choose another"
        )
    if not args.config.pretrain_steps:
        raise ConfigError("--pretrain-steps is 0, which would leave a random policy: give 1 or more")
    return train.run(args)
