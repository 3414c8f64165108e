"""ReBRAC (Tarasov et al. 2023, arXiv:2305.09836): TD3 in which policy and target both pay for leaving the data.

L_π = E[β1·‖π(s) − a‖² − min_i Q_i(s, π(s)) / mean|min_i Q_i|]
y   = r + γ(1 − terminated)·(min_i Q̂_i(s', ã) − β2·‖ã − a'‖²),  a' the data's next action

Where the episode was cut off by a limit or a fault there is no a': the target then pays nothing. (The authors leave
such transitions out of their data.) The square is the sum over action dimensions, as in the authors' code.
"""

from __future__ import annotations

from torch import Tensor

from agent import losses
from agent.algorithms.rebrac_config import ReBRACConfig
from agent.algorithms.td3 import TD3
from agent.transitions import Transitions


class ReBRAC(TD3[ReBRACConfig]):
    """TD3 with a penalty in the policy's loss and another in the critics' target."""

    name = "rebrac"

    def step(self, batch: Transitions) -> dict[str, Tensor]:
        # Actions lie within ±1, so that no square sums up to more.
        most = 4.0 * self.action_size * self.config.critic_penalty
        return {**super().step(batch), "bonus": batch.reward.new_full((), most)}

    def policy_loss(self, batch: Transitions, action_BA: Tensor, q_NB: Tensor) -> Tensor:
        q_B = q_NB.amin(dim=0)
        distance_B = (action_BA - batch.action).square().sum(dim=-1)
        return self.config.actor_penalty * distance_B.mean() + losses.policy_gradient_loss(q_B, losses.scale_of(q_B))

    def next_penalty(self, batch: Transitions, next_action_BA: Tensor) -> Tensor:
        assert batch.next_action is not None and batch.next_action_known is not None
        distance_B = (next_action_BA - batch.next_action).square().sum(dim=-1)
        return self.config.critic_penalty * batch.next_action_known * distance_B
