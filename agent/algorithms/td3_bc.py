"""TD3+BC (Fujimoto & Gu 2021, arXiv:2106.06860): TD3 whose policy also imitates the data.

L_π = −λ·E[Q_1(s, π(s))] + E[(π(s) − a)²],  λ = α / mean|Q_1(s, π(s))|

The square is the mean over action dimensions too, and λ carries no gradient, as in the authors' code.
"""

from __future__ import annotations

from torch import Tensor

from agent import losses
from agent.algorithms.td3 import TD3
from agent.algorithms.td3_bc_config import TD3BCConfig
from agent.transitions import Transitions


class TD3BC(TD3[TD3BCConfig]):
    """TD3 with behaviour cloning in the policy's loss."""

    name = "td3_bc"
    policy_judges = slice(1)

    def policy_loss(self, batch: Transitions, action_BA: Tensor, q_NB: Tensor) -> Tensor:
        imitation = (action_BA - batch.action).square().mean()
        return imitation + self.config.bc_alpha * losses.policy_gradient_loss(q_NB[0], losses.scale_of(q_NB[0]))
