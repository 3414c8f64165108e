"""Alarms for training that has gone wrong, looked at before a checkpoint or a policy is replaced by what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from agent.errors import DivergenceError

# Returns are sums of γ^t·r, so no |Q| beyond max|r| / (1 − γ) is right. Function approximation overshoots early on;
# ten times that is no overshoot any more.
OVERSHOOT = 10.0


def check_finite(tensors: Mapping[str, Tensor], *, updates: int, checkpoints: Path) -> None:
    """DivergenceError naming the first tensor that holds NaN or infinity."""
    for name, tensor in tensors.items():
        # One pass and no mask in memory: a sum of finite float32 in float64 cannot overflow.
        if tensor.is_floating_point() and not bool(tensor.sum(dtype=torch.float64).isfinite()):
            raise DivergenceError(
                f"{name} is not finite after {updates} updates; the last good checkpoint in {checkpoints} stands: "
                "lower --algorithm.learning-rate or check the rewards' scale"
            )


def check_bounds(result: Mapping[str, Tensor], *, largest_reward: float, discount: float, updates: int) -> None:
    """DivergenceError if a value estimate has left every return that rewards up to `largest_reward` can sum to.

    Looks at `q`, `v` and `q_policy` and, for |Q| beyond the batch's, at `critic_loss`; statistics that a result lacks
    are not looked at. `bonus` is what the algorithm itself adds to a reward, or takes off it.
    """
    if "bonus" in result:
        largest_reward += float(result["bonus"])
    bound = OVERSHOOT * max(1.0, largest_reward) / (1.0 - discount)
    for name, limit in (("q", bound), ("v", bound), ("q_policy", bound), ("critic_loss", 4.0 * bound**2)):
        if name in result:
            reached = float(result[name].abs().max())
            if reached > limit:
                raise DivergenceError(
                    f"{name} has exploded: {reached:.3g} after {updates} updates, where rewards up to "
                    f"{largest_reward:.3g} with a discount of {discount:g} allow for {limit / OVERSHOOT:.3g} at most; "
                    "the last good checkpoint stands: lower --algorithm.learning-rate or scale the rewards"
                )
