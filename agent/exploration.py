"""How the run's collectors explore, seen from the learner: what it publishes for them, and the frozen policy's state.

    sample     the actor alone, whose noise collectors draw
    best_of_n  actor and critics in one graph: of `online.candidates` sampled actions the one of the greatest Q
    expansion  the same with the actor as it was at the switch: one of the two acts, by a softmax of Q

Evaluations give no noise and so score the actor's mean in all three (export/candidates.py).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from agent.algorithms.base import Algorithm
from agent.config import TrainConfig
from agent.errors import CheckpointError
from agent.networks import Actor, CandidatePolicy, EnsembleCritic
from export.candidates import EXPANSION, Candidates

PREFIX = "exploration.frozen."
"""Before the names of the frozen policy's weights in a checkpoint's tensors."""


class Exploration:
    """Order: `load` what a checkpoint holds, `begin` once the policy is pretrained, and publish what that gives."""

    def __init__(self, algorithm: Algorithm[Any], config: TrainConfig) -> None:
        self._algorithm, self._config = algorithm, config
        self._frozen: Actor | None = None

    def begin(self) -> Actor | CandidatePolicy:
        """At the switch, or again after a resume: what is to be published; it shares the learner's networks.

        Freezes the pretrained policy where it is to be kept. CheckpointError: it should have been frozen long ago.
        """
        algorithm, online = self._algorithm, self._config.online
        if not self._config.online_steps or online.exploration == "sample":
            return algorithm.actor
        candidates = Candidates(count=online.candidates)
        if online.exploration == "expansion":
            candidates = Candidates(count=2, choice=EXPANSION, temperature=online.expansion_temperature)
            if self._frozen is None:
                if algorithm.updates > self._config.pretrain_steps:
                    raise CheckpointError(
                        "the checkpoint lacks the frozen policy of online.exploration expansion: resume with the "
                        "configuration that the run was started with"
                    )
                self._frozen = _frozen_copy(algorithm.actor)
        return CandidatePolicy(
            algorithm.actor, critic_of(algorithm), candidates, action_size=algorithm.action_size, frozen=self._frozen
        )

    def tensors(self) -> dict[str, Tensor]:
        """The frozen policy's weights, as entries of a checkpoint; none where there is none."""
        frozen = {} if self._frozen is None else self._frozen.state_dict()
        return {f"{PREFIX}{name}": tensor for name, tensor in frozen.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Take those of a checkpoint's tensors that are the frozen policy's; the others."""
        own = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}
        if own:
            self._frozen = _frozen_copy(self._algorithm.actor)
            try:
                self._frozen.load_state_dict(own)
            except RuntimeError as error:
                raise CheckpointError(
                    "the checkpoint's frozen policy is not this configuration's: resume with the configuration that "
                    "the run was started with"
                ) from error
        return {name: tensor for name, tensor in tensors.items() if not name.startswith(PREFIX)}


def critic_of(algorithm: Algorithm[Any]) -> EnsembleCritic:
    """The critics that are trained, not their targets."""
    critic = algorithm.networks["critic"]
    assert isinstance(critic, EnsembleCritic)
    return critic


def _frozen_copy(actor: Actor) -> Actor:
    return copy.deepcopy(actor).requires_grad_(False).eval()
