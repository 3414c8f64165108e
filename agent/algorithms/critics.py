"""Critics that learn by temporal differences from slowly moving copies of themselves: what value-based methods share.

Shapes: B batch, O observation, A action, N critics.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from agent import losses
from agent.adam import FusedAdam
from agent.algorithms.base import Algorithm, move_targets
from agent.networks import EnsembleCritic, Members, Subset
from agent.transitions import Transitions


class Critics:
    """An ensemble of critics, its targets and its optimiser, entered in the algorithm as critic and target_critic.

    The minimum over the targets is clipped double Q-learning (Fujimoto, van Hoof, Meger 2018, arXiv:1802.09477).
    """

    def __init__(
        self,
        algorithm: Algorithm[Any],
        *,
        members: int,
        target_rate: float,
        layer_norm: bool = False,
        subset: int = 0,
        make: Callable[[], EnsembleCritic] | None = None,
    ) -> None:
        """`target_rate` α of Q̂ ← (1 − α)·Q̂ + α·Q. `subset`: as many targets count, drawn anew by `subset.draw`.

        `make` gives critics other than plain ones.
        """
        self._algorithm, self._target_rate = algorithm, target_rate
        self.subset = Subset(members, subset, generator=algorithm.generator, device=algorithm.device)

        def plain() -> EnsembleCritic:
            return EnsembleCritic(
                algorithm.observation_size, algorithm.action_size, algorithm.config.hidden,
                members=members, generator=algorithm.generator, layer_norm=layer_norm,
            ).to(algorithm.device)  # fmt: skip

        make = make or plain
        self.online, self.target = make(), make().requires_grad_(False)
        self.target.load_state_dict(self.online.state_dict())
        self.optimizer = FusedAdam(list(self.online.parameters()))
        algorithm.networks |= {"critic": self.online, "target_critic": self.target}
        algorithm.optimizers["critic"] = self.optimizer
        self._online_parameters: list[Tensor] = list(self.online.parameters())
        self._target_parameters: list[Tensor] = list(self.target.parameters())

    def judge(self, observation_BO: Tensor, action_BA: Tensor, members: Members = None) -> Tensor:
        """Q_i(s, a) [N, B] of those members, with a gradient."""
        q_NB: Tensor = self.online(observation_BO, action_BA, self._algorithm.affine, members=members)
        return q_NB

    @torch.no_grad()
    def target_minimum(self, observation_BO: Tensor, action_BA: Tensor) -> Tensor:
        """min_i Q̂_i(s, a) [B], over those of the subset."""
        q_NB: Tensor = self.target(observation_BO, action_BA, self._algorithm.affine, members=self.subset.members)
        return q_NB.amin(dim=0)

    def learn(
        self,
        batch: Transitions,
        target_B: Tensor,
        counts_B: Tensor | None = None,
        *,
        penalty: Callable[[Tensor], Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """One step towards targets [B]; where `counts_B` [B] is 0 a row is left out. Returns what is worth logging.

        `penalty` of Q [N, B] joins the loss.
        """
        q_NB = self.judge(batch.observation, batch.action)
        if counts_B is None:
            loss = losses.td_loss(q_NB, target_B)
        else:
            loss = losses.td_loss(q_NB * counts_B, target_B * counts_B)
        self.optimizer.minimize(loss if penalty is None else loss + penalty(q_NB), self._algorithm.rate)
        return {"critic_loss": loss.detach(), "q": q_NB.detach()}

    @torch.no_grad()
    def move_targets(self) -> None:
        """Q̂ ← (1 − α)·Q̂ + α·Q."""
        move_targets(self._target_parameters, self._online_parameters, self._target_rate)
