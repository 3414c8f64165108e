"""Random tensors of an update, drawn before it: a compiled graph cannot hold a torch.Generator."""

from __future__ import annotations

import torch
from torch import Tensor


class Noise:
    """Tensors by name, drawn from the learner's generator in place, so that a compiled graph always reads the newest.

    >>> noise.normal("next", rows, actions)  # in before_step
    >>> actor.sample(batch.next_observation, noise["next"])  # in step
    """

    def __init__(self, generator: torch.Generator, device: torch.device) -> None:
        self._generator, self._device = generator, device
        self._drawn: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        """What was drawn last under `name`."""
        return self._drawn[name]

    def normal(self, name: str, *shape: int) -> None:
        """Standard normal."""
        self._place(name, shape).normal_(generator=self._generator)

    def uniform(self, name: str, *shape: int) -> None:
        """Uniform in [−1, 1): the actions' range."""
        self._place(name, shape).uniform_(-1.0, 1.0, generator=self._generator)

    def _place(self, name: str, shape: tuple[int, ...]) -> Tensor:
        tensor = self._drawn.get(name)
        if tensor is None or tuple(tensor.shape) != shape:
            tensor = self._drawn[name] = torch.empty(shape, device=self._device)
        return tensor
