"""Advantage-weighted regression (AWR; Peng, Kumar, Zhang, Levine 2019, arXiv:1910.00177) on a fixed data set.

One update on one batch of n steps each, with returns R = Σ_{k<m} γ^k r_k + γ^m(1 − terminated)·V(s_m), m ≤ n:
  1. V:  L_V = E[(R − V(s))²]
  2. π:  L_π = −E[min(exp(β·(A − mean A)/std A), c)·log π(a|s)],  A = R − V(s), with the new V

The authors' returns are TD(λ); n steps, which the store's sampler sums up, take the place of λ. Advantages are
normalised as in their code, over the batch where theirs is over the buffer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from agent import losses
from agent.adam import FusedAdam
from agent.algorithms.awr_config import AWRConfig
from agent.algorithms.regression import Regression
from agent.networks import MLP
from agent.transitions import Transitions


class AWR(Regression[AWRConfig]):
    """Actor, and the value of the policy that made the data."""

    name = "awr"

    def __init__(self, config: AWRConfig, **arguments: Any) -> None:
        super().__init__(config, **arguments)
        self.value = MLP(self.observation_size, config.hidden, 1, generator=self.generator).to(self.device)
        self.networks["value"] = self.value
        self.optimizers["value"] = FusedAdam(list(self.value.parameters()))

    def weight_clip(self) -> float:
        return self.config.weight_clip

    def step(self, batch: Transitions) -> dict[str, Tensor]:
        c = self.config
        with torch.no_grad():
            last_v_B = self.value(batch.next_observation, self.affine).squeeze(-1)
            return_B = losses.td_target(batch.reward, batch.discount, last_v_B)
        value_loss = (return_B - self.value(batch.observation, self.affine).squeeze(-1)).square().mean()
        self.optimizers["value"].minimize(value_loss, self.rate)

        with torch.no_grad():
            v_B = self.value(batch.observation, self.affine).squeeze(-1)
            advantage_B = return_B - v_B
            weights_B = losses.advantage_weights(losses.standardized(advantage_B), c.beta, c.weight_clip)
        return {
            "value_loss": value_loss.detach(), "actor_loss": self.imitate(batch, weights_B),
            "v": v_B, "advantage": advantage_B, "weight": weights_B,
        }  # fmt: skip
