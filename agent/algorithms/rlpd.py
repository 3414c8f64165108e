"""RLPD, reinforcement learning with prior data (Ball, Smith, Kostrikov, Levine 2023, arXiv:2302.02948).

SAC from scratch with half of each batch from the logged data, LayerNorm in a large ensemble of critics, whose target is
the minimum over a random subset (REDQ, Chen et al. 2021), and many updates a step. Nothing but configuration differs
from `SAC`; sampling and pace are the run's.
"""

from __future__ import annotations

from agent.algorithms.rlpd_config import RLPDConfig
from agent.algorithms.sac import SAC


class RLPD(SAC[RLPDConfig]):
    """SAC under RLPD's name and values."""

    name = "rlpd"
