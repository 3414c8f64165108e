"""Calibrated Q-Learning (Nakamoto et al. 2023, arXiv:2303.05479): CQL that never pushes Q below what the data earned.

In CQL's penalty, Q_i(s, a_j) of the policy's actions becomes max(Q_i(s, a_j), V^μ(s)) (equation 5.1): where Q already
lies below the value V^μ of the policy that made the data it is pushed down no further, so that fine-tuning need not
unlearn an exaggerated pessimism. V^μ(s) is the discounted return that followed in the data
(`Transitions.return_to_go`); where it is not known, as in episodes that still run, the penalty is CQL's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from agent.algorithms.cal_ql_config import CalQLConfig
from agent.algorithms.cql import CQL
from agent.transitions import Transitions


class CalQL(CQL[CalQLConfig]):
    """CQL with a floor under what it pushes down."""

    name = "cal_ql"

    def calibrate(self, batch: Transitions, q_NMB: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return floored(q_NMB, batch.return_to_go, uniform=self.config.sampled_actions)


def floored(q_NMB: Tensor, return_B: Tensor | None, *, uniform: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Q of the policy's actions, those after the first `uniform`, at least the return where it is known.

    Also `calibrated_share`: how much of it the returns have raised.
    """
    assert return_B is not None, "an algorithm that needs_return_to_go gets it"
    floor_B = torch.nan_to_num(return_B, nan=-torch.inf, neginf=-torch.inf)
    of_policy = q_NMB[:, uniform:]
    raised = torch.maximum(of_policy, floor_B)
    share = (of_policy.detach() < floor_B).float().mean()
    return torch.cat([q_NMB[:, :uniform], raised], dim=1), {"calibrated_share": share}
