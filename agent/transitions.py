"""From stored rows to what a learner consumes: normalised, scaled, discounted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from agent.preparation import Preparation
from replay.sampler import Batch


@dataclass(frozen=True, kw_only=True)
class Transitions:
    """One batch ready for an update. B batch, O observation, A action; float32."""

    observation: Tensor
    """[B, O], normalised and clipped."""
    action: Tensor
    """[B, A], scaled to [−1, 1]."""
    reward: Tensor
    """[B], after the run's scale and shift."""
    discount: Tensor
    """[B], γ(1 − terminated): a time limit keeps γ."""
    next_observation: Tensor
    """[B, O], normalised and clipped."""


class Preparer:
    """Applies a `Preparation` to sampled rows, on one device."""

    def __init__(self, preparation: Preparation, device: torch.device) -> None:
        self.preparation = preparation
        self.device = device
        self._mean = torch.tensor(preparation.mean, device=device)
        self._inv_std = torch.tensor(1.0 / preparation.std, device=device)
        self._shift = torch.tensor((preparation.action_high + preparation.action_low) / 2, device=device)
        self._inv_scale = torch.tensor(2.0 / (preparation.action_high - preparation.action_low), device=device)

    def __call__(self, batch: Batch) -> Transitions:
        """Prepare one sampled batch; the result shares nothing with the sampler's reused buffer."""
        p = self.preparation
        return Transitions(
            observation=self._normalize(batch.observations),
            action=((self._tensor(batch.actions) - self._shift) * self._inv_scale).clamp_(-1.0, 1.0),
            reward=self._tensor(batch.rewards) * p.reward_scale + p.reward_shift,
            discount=(1.0 - self._tensor(batch.terminated)) * p.discount,
            next_observation=self._normalize(batch.next_observations),
        )

    def _normalize(self, observations: np.ndarray) -> Tensor:
        normalized = (self._tensor(observations) - self._mean) * self._inv_std
        c = self.preparation.clip
        return normalized if c is None else normalized.clamp_(-c, c)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device)
