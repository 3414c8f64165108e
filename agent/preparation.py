"""The run's frozen view of its data: normaliser, action scaling, reward transform, discount. Torch-free.

The store holds raw rewards, actions in environment units and unnormalised observations. What a run does to them is
frozen into this one object, saved with the run and repeated inside the exported graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from agent.errors import ConfigError

STD_FLOOR = 1e-3


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """The run's frozen view of its data."""

    mean: np.ndarray
    """[O] float32, subtracted from observations."""
    std: np.ndarray
    """[O] float32, floored: a dimension that is constant offline must not explode online."""
    clip: float | None
    """Normalised observations are clipped to ±clip; None leaves them as they are."""
    count: int
    """Rows that the moments were taken over."""
    action_low: np.ndarray
    """[A] float32, environment units."""
    action_high: np.ndarray
    """[A] float32, environment units."""
    reward_scale: float
    """Multiplies the stored reward."""
    reward_shift: float
    """Added after the scale."""
    discount: float
    """γ."""

    def __post_init__(self) -> None:
        if not np.all(self.action_high > self.action_low):
            dimension = int(np.flatnonzero(~(self.action_high > self.action_low))[0])
            raise ConfigError(
                f"action dimension {dimension} has low {self.action_low[dimension]} and high "
                f"{self.action_high[dimension]}: bounds must satisfy low < high; correct the store's action space"
            )

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, exact for float32."""
        return {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in ((field, getattr(self, field)) for field in self.__dataclass_fields__)
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Preparation:
        """Inverse of `to_json`; a missing or extra key raises TypeError."""
        arrays = {"mean", "std", "action_low", "action_high"}
        values: dict[str, Any] = {k: np.asarray(v, dtype=np.float32) if k in arrays else v for k, v in data.items()}
        return cls(**values)


def make_preparation(
    *,
    moments: tuple[np.ndarray, np.ndarray, int],
    action_low: np.ndarray,
    action_high: np.ndarray,
    normalize: bool,
    clip: float,
    reward_scale: float,
    reward_shift: float,
    discount: float,
) -> Preparation:
    """Freeze moments (mean [O], std [O], count) into a run; `normalize=False` leaves observations alone, unclipped."""
    mean, std, count = moments
    if not normalize:
        mean, std = np.zeros_like(mean), np.ones_like(std)
    return Preparation(
        mean=mean.astype(np.float32),
        std=np.maximum(std, STD_FLOOR).astype(np.float32),
        clip=clip if normalize else None,
        count=int(count),
        action_low=np.asarray(action_low, dtype=np.float32),
        action_high=np.asarray(action_high, dtype=np.float32),
        reward_scale=reward_scale,
        reward_shift=reward_shift,
        discount=discount,
    )
