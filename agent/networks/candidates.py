"""A policy that proposes several actions and takes one by Q, as it is exported (export/candidates.py says what as).

* `best`: the best of N actions drawn from the actor (Ghasemipour, Schuurmans, Gu 2021, arXiv:2007.11091, equation 3).
* `expansion`: the frozen policy's mean or an action drawn from the actor, by the softmax of Q / temperature (policy
  expansion, PEX: Zhang, Xu, Yu 2023, arXiv:2302.00935, equation 6; the frozen one by its mean as in the authors' code).

Q is the minimum over the critics, all of them, in float32.

Shape legend: B batch, O observation entries, A action entries, K candidates, E entries of noise.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from agent.networks.actors import Actor
from agent.networks.critics import EnsembleCritic
from export.candidates import EXPANSION, Candidates, embedded_noise
from export.contract_parts import Stochastic


class CandidatePolicy(nn.Module):
    """Shares the networks that it is given with whoever trains them; offers for publication what an `Actor` does."""

    def __init__(
        self,
        actor: Actor,
        critic: EnsembleCritic,
        candidates: Candidates,
        *,
        action_size: int,
        frozen: Actor | None = None,
    ) -> None:
        """`frozen` is the other policy of an expansion."""
        super().__init__()
        self.actor, self.critic, self.frozen = actor, critic, frozen
        self.candidates, self._action_size = candidates, action_size
        self.stochastic = Stochastic(eps=candidates.seed is None, form=actor.stochastic.form)
        if candidates.seed is not None:
            # Flat, so that the variant with smaller weights leaves it as it is.
            self.register_buffer("noise", torch.from_numpy(embedded_noise(candidates, action_size)).flatten())

    noise: Tensor

    def forward(self, observation: Tensor, eps: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised observation [B, O], noise [B, E] → action within ±1 [B, A], the actor's `raw` [B, A], q [B, K]."""
        eps = self.noise.expand(observation.shape[0], -1) if eps is None else eps
        if self.frozen is None:
            actions_BKA, raw = self.actor.propose(observation, eps.view(-1, self.candidates.count, self._action_size))
        else:
            learnt_B1A, raw = self.actor.propose(observation, eps[:, None, :-1])
            actions_BKA = torch.cat([torch.tanh(self.frozen.raw(observation)).unsqueeze(1), learnt_B1A], dim=1)
        q_BK = self.judge(observation, actions_BKA)
        if self.candidates.choice == EXPANSION:
            assert self.candidates.temperature is not None
            learnt = torch.sigmoid((q_BK[:, 1:] - q_BK[:, :1]) / self.candidates.temperature)
            unit = torch.where(eps[:, -1:] <= learnt, actions_BKA[:, 1], actions_BKA[:, 0])
        else:
            best = q_BK.argmax(dim=1)[:, None, None].expand(-1, 1, self._action_size)
            unit = actions_BKA.gather(1, best).squeeze(1)
        return unit, raw, q_BK

    def judge(self, observation: Tensor, actions_BKA: Tensor) -> Tensor:
        """min_j Q_j(s, a_i) [B, K] of actions in [−1, 1]."""
        count = actions_BKA.shape[1]
        repeated = observation.unsqueeze(1).expand(-1, count, -1).flatten(0, 1)
        q_B: Tensor = self.critic(repeated, actions_BKA.flatten(0, 1)).amin(dim=0)
        return q_B.view(-1, count)

    def to_export(self) -> tuple[nn.Module, Tensor | None]:
        """What `export.onnx_writer.export_policy` takes."""
        return self, None

    def exported_weights(self) -> dict[str, np.ndarray]:
        """Parameters and constants by the names that they have in the exported graph."""
        named = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        return {f"network.{name}": tensor.detach().numpy() for name, tensor in named.items()}
