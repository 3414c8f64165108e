"""What every algorithm is: networks, optimisers, one update of tensor operations, and a state that resumes exactly."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch
from torch import Tensor

from agent.adam import FusedAdam
from agent.algorithms.config import AlgorithmConfig
from agent.algorithms.noise import Noise
from agent.errors import CheckpointError
from agent.executors.eager import Executor, eager
from agent.networks import Actor
from agent.networks.products import AFFINE
from agent.transitions import Transitions

C = TypeVar("C", bound=AlgorithmConfig)


class Algorithm(ABC, Generic[C]):
    """Holds all of a learner's state.

    A subclass makes its networks and optimisers in `__init__` (after `super().__init__`) and enters them in `networks`
    and `optimizers`, whose names are those of the checkpoint's tensors; all else follows from them. `step` is the
    update. What is random or a Python number goes into tensors in `before_step`, because a compiled step sees neither.

    `generator` initialises the networks and draws all noise; its state is part of `state_dict`. `precision` is that
    of the hidden layers' matrix products (`self.affine`); everything else is float32. `executor` runs `step`.
    """

    name: ClassVar[str]

    actor: Actor
    """The policy that is published, evaluated and exported."""

    def __init__(
        self,
        config: C,
        *,
        observation_size: int,
        action_size: int,
        offline_steps: int,
        generator: torch.Generator,
        precision: Literal["float32", "bf16"] = "float32",
        device: torch.device | None = None,
    ) -> None:
        self.config: C = config
        self.precision = precision
        self.observation_size, self.action_size = observation_size, action_size
        self.offline_steps = offline_steps
        self.generator = generator
        self.device = device or torch.device("cpu")
        self.updates = 0
        self.affine = AFFINE[precision]
        self.executor: Executor = eager
        self.part = "all"
        """What the update that is due changes; each value is a graph of its own when compiled."""
        self.networks: dict[str, torch.nn.Module] = {}
        self.optimizers: dict[str, FusedAdam] = {}
        self.gradients_every = 0
        """Updates between those that also return `grad_norm_<optimizer>`; 0 for none."""
        self.noise = Noise(generator, self.device)
        """What `before_step` draws for the coming update, by name."""
        self.rate = torch.tensor(config.learning_rate, device=self.device)
        """The constant learning rate as a tensor."""

    def update(self, batch: Transitions) -> dict[str, Tensor]:
        """One gradient step; returns detached tensors for the log."""
        self.part = self.due()
        self.before_step(len(batch.reward))
        watched = self.gradients_every and (self.updates + 1) % self.gradients_every == 0
        marks = {name: optimizer.mark() for name, optimizer in self.optimizers.items()} if watched else {}
        result = self.executor(self, batch)
        self.updates += 1
        for name, mark in marks.items():
            if (norm := self.optimizers[name].gradient_norm(mark)) is not None:
                result[f"grad_norm_{name}"] = norm
        return result

    def due(self) -> str:
        """The value of `part` for the coming update."""
        return "all"

    @abstractmethod
    def before_step(self, rows: int) -> None:
        """Draw noise and masks for a batch of `rows` and set scheduled rates, in place."""

    @abstractmethod
    def step(self, batch: Transitions) -> dict[str, Tensor]:
        """The update as tensor operations alone, in place on parameters, moments and targets.

        The one definition that all executors run: no Python number of the learner changes here, no random one is drawn.
        Of what it returns, `q`, `v`, `q_policy` and `critic_loss` are watched for explosions, beyond what rewards and
        the scalar `bonus`, which the algorithm adds to them or takes off, can sum to; `weight` are advantage weights.
        """

    def set_actor(self, state: Mapping[str, Tensor]) -> None:
        """Go on from these weights of the actor, its optimiser begun anew."""
        self.actor.load_state_dict(state)
        self.optimizers["actor"].forget()

    def hold_actor(self, held: bool) -> None:
        """While held, updates leave the actor where it is."""
        self.optimizers["actor"].hold(held)

    def weight_clip(self) -> float:
        """Where the advantage weights are cut off."""
        return math.inf

    def offline_cosine(self, first: int = 0) -> float:
        """Base learning rate times a cosine from one at update `first` to zero at the last offline one, then constant.

        The schedule ends with the offline phase instead of leaving the actor frozen when online training starts.
        """
        if self.updates >= self.offline_steps:
            return self.config.learning_rate
        progress = max(0, self.updates - first) / (self.offline_steps - first)
        return self.config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))

    # --- state ----------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next update depends on: tensors by name and plain numbers."""
        return {
            "tensors": {
                **{
                    f"{name}.{key}": tensor
                    for name, part in self._parts().items()
                    for key, tensor in part.state_dict().items()
                },
                "generator": self.generator.get_state(),
            },
            "numbers": {"updates": self.updates, "offline_steps": self.offline_steps},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore exactly; any missing, extra or misshapen entry raises CheckpointError before anything changes."""
        current: Mapping[str, Tensor] = self.state_dict()["tensors"]
        tensors: Mapping[str, Tensor] = state["tensors"]
        unmatched = sorted(set(tensors) ^ set(current))
        if unmatched:
            raise CheckpointError(
                f"checkpoint and configuration disagree about {unmatched[0]} ({len(unmatched)} entries): "
                "resume with the configuration that the run was started with"
            )
        for name, tensor in current.items():
            if tensors[name].shape != tensor.shape:
                raise CheckpointError(
                    f"checkpoint tensor {name} has shape {tuple(tensors[name].shape)}, this configuration makes "
                    f"{tuple(tensor.shape)}: resume with the configuration that the run was started with"
                )
        for name, part in self._parts().items():
            part.load_state_dict({key: tensors[f"{name}.{key}"] for key in part.state_dict()})
        self.generator.set_state(tensors["generator"])
        self.updates = int(state["numbers"]["updates"])
        self.offline_steps = int(state["numbers"]["offline_steps"])

    def _parts(self) -> dict[str, torch.nn.Module | FusedAdam]:
        """What has tensors, by the name that it has in checkpoints."""
        return {**self.networks, **{f"adam.{name}": optimizer for name, optimizer in self.optimizers.items()}}


def move_targets(targets: list[Tensor], parameters: list[Tensor], rate: float) -> None:
    """Q̂ ← (1 − α)·Q̂ + α·Q, in place. Call it under `torch.no_grad()`."""
    if torch.compiler.is_compiling():
        for target, parameter in zip(targets, parameters, strict=True):
            target.lerp_(parameter, rate)
    else:
        torch._foreach_lerp_(targets, parameters, rate)
