"""Behaviour cloning: maximum likelihood of the data's actions, L_π = −E[log π(a|s)].

Of all data, or of the best episodes alone: then the sampler draws from nothing else.

The same as IQL's extraction with β = 0 (all weights 1), without the values that it then has no use for.
"""

from __future__ import annotations

from torch import Tensor

from agent.algorithms.bc_config import CloningConfig
from agent.algorithms.regression import Regression
from agent.transitions import Transitions


class BC(Regression[CloningConfig]):
    """The actor alone."""

    name = "bc"

    def step(self, batch: Transitions) -> dict[str, Tensor]:
        return {"actor_loss": self.imitate(batch)}


class TopBC(BC):
    """The same of the best episodes, which `TopBCConfig.sampling` chooses."""

    name = "top_bc"
