"""From stored rows to what a learner consumes: normalised, scaled, discounted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from agent.preparation import Preparation
from replay.sampler import Batch


@dataclass(frozen=True, kw_only=True)
class Transitions:
    """One batch ready for an update. B batch, O observation, A action; float32."""

    observation: Tensor
    """[B, O], normalised and clipped."""
    action: Tensor
    """[B, A], scaled to [−1, 1]."""
    reward: Tensor
    """[B], after the run's scale and shift."""
    discount: Tensor
    """[B], γ(1 − terminated): a time limit keeps γ. Over n steps γ^m(1 − terminated) of the m ≤ n taken."""
    next_observation: Tensor
    """[B, O], normalised and clipped."""
    next_action: Tensor | None = None
    """[B, A], what the data did in the next observation, scaled to [−1, 1]; None unless the algorithm needs it."""
    next_action_known: Tensor | None = None
    """[B], 0 or 1: 0 where the episode ended there, whatever ended it, so that there is no next action. None too."""
    return_to_go: Tensor | None = None
    """[B], discounted sum of prepared rewards from this step to its episode's end, NaN where that is not known; None
    unless the algorithm needs it."""


class TransitionBuffer:
    """Reused memory of some batches: filled on the host by one thread, read on `device` by another.

    On a GPU the host's side is pinned and copied on a stream of its own, so that neither thread waits for the copy:
    `fill` waits until the device has done with what the buffer held before, and work queued after `acquire` waits until
    the copy is there.
    """

    def __init__(
        self,
        batches: int,
        rows: int,
        observation_size: int,
        action_size: int,
        device: torch.device,
        *,
        next_action: bool = False,
        returns: bool = False,
    ) -> None:
        shapes: dict[str, tuple[int, ...]] = {
            "observation": (batches, rows, observation_size),
            "action": (batches, rows, action_size),
            "reward": (batches, rows),
            "discount": (batches, rows),
            "next_observation": (batches, rows, observation_size),
        }
        if next_action:
            shapes |= {"next_action": (batches, rows, action_size), "next_action_known": (batches, rows)}
        if returns:
            shapes["return_to_go"] = (batches, rows)
        sizes = [int(np.prod(shape)) for shape in shapes.values()]
        self._on_gpu = device.type == "cuda"
        self._host = torch.empty(sum(sizes), pin_memory=self._on_gpu)
        self._device = torch.empty(sum(sizes), device=device) if self._on_gpu else self._host
        on_host = zip(np.split(self._host.numpy(), np.cumsum(sizes)[:-1]), shapes.items(), strict=True)
        self.arrays = {name: part.reshape(shape) for part, (name, shape) in on_host}
        """By the names of the transitions' fields, on the host; all shapes begin with the number of batches."""
        on_device = list(zip(torch.split(self._device, sizes), shapes.items(), strict=True))
        self.transitions = [
            Transitions(**{name: part.view(shape)[each] for part, (name, shape) in on_device})
            for each in range(batches)
        ]
        """Views of the device's memory, for work on the current stream behind `acquire`; overwritten by `fill`."""
        if self._on_gpu:
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._released = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def wait_until_free(self) -> None:
        """Before the host's side is overwritten."""
        if self._on_gpu:
            self._released.synchronize()

    def send(self) -> None:
        """After the host's side was written."""
        if self._on_gpu:
            with torch.cuda.stream(self._stream):
                self._device.copy_(self._host, non_blocking=True)
                self._copied.record(self._stream)

    def acquire(self) -> None:
        """Work queued on the current stream from now on may read what was filled last."""
        if self._on_gpu:
            torch.cuda.current_stream().wait_event(self._copied)

    def release(self) -> None:
        """All work that reads the transitions is queued on the current stream: the next `fill` may follow it."""
        if self._on_gpu:
            self._released.record(torch.cuda.current_stream())


class Preparer:
    """Applies a `Preparation` to sampled rows, for one device.

    In NumPy: its calls need neither torch's dispatcher nor its threads, so the sampler's thread hardly takes the
    interpreter from the update.
    """

    def __init__(
        self, preparation: Preparation, device: torch.device, *, next_action: bool = False, returns: bool = False
    ) -> None:
        """With `next_action` transitions hold what the data did next, with `returns` what followed in all."""
        self.preparation = preparation
        self.device = device
        self._next_action, self._returns = next_action, returns
        self._inv_std = np.float32(1.0) / preparation.std
        self._shift = (preparation.action_high + preparation.action_low) / np.float32(2)
        self._inv_scale = np.float32(2.0) / (preparation.action_high - preparation.action_low)

        self.largest_reward = 0.0
        """Largest |reward| after the run's scale and shift among all that was prepared or noted."""

    def note_rewards(self, low: float, high: float) -> None:
        """Let `largest_reward` know of raw rewards from `low` to `high`."""
        p = self.preparation
        for raw in (low, high):
            self.largest_reward = max(self.largest_reward, abs(raw * p.reward_scale + p.reward_shift))

    def returns_to_go(self) -> dict[str, float] | None:
        """What samplers must be given for their batches to hold the prepared rewards' returns, if they are needed."""
        p = self.preparation
        return {"gamma": p.discount, "scale": p.reward_scale, "shift": p.reward_shift} if self._returns else None

    def allocate(self, batches: int, rows: int) -> TransitionBuffer:
        """Memory for `fill`."""
        return TransitionBuffer(
            batches, rows, len(self.preparation.mean), len(self._shift), self.device,
            next_action=self._next_action, returns=self._returns,
        )  # fmt: skip

    def fill(self, batch: Batch, buffer: TransitionBuffer) -> None:
        """Prepare a sampled block of batches, or one, into `buffer`, which shares nothing with the sampler's own."""
        p = self.preparation
        arrays = buffer.arrays
        reward, discount = arrays["reward"], arrays["discount"]
        buffer.wait_until_free()
        self._normalize(batch.observations, arrays["observation"])
        self._scale(batch.actions, arrays["action"])
        np.multiply(batch.rewards, np.float32(p.reward_scale), out=reward)
        if batch.steps is None or batch.discounts is None:
            np.add(reward, np.float32(p.reward_shift), out=reward)
            self.largest_reward = max(self.largest_reward, float(reward.max()), -float(reward.min()))
            np.subtract(np.float32(1.0), batch.terminated, out=discount)
            np.multiply(discount, np.float32(p.discount), out=discount)
        else:
            # Of m steps: the shift is added to each of their rewards, which are discounted sums already.
            np.add(reward, p.reward_shift * (1.0 - p.discount**batch.steps) / (1.0 - p.discount), out=reward)
            np.copyto(discount, batch.discounts)
        if self._next_action:
            self._scale(batch.next_actions, arrays["next_action"])
            np.copyto(arrays["next_action_known"], batch.next_valid)
        if self._returns:
            # A batch that was put together from bare rows, as for diagnostics, does not know them.
            np.copyto(arrays["return_to_go"], np.nan if batch.returns_to_go is None else batch.returns_to_go)
        self._normalize(batch.next_observations, arrays["next_observation"])
        buffer.send()

    def __call__(self, batch: Batch) -> Transitions:
        """Prepare one sampled batch into memory of its own."""
        buffer = self.allocate(1, len(batch))
        self.fill(batch, buffer)
        buffer.acquire()
        return buffer.transitions[0]

    def _scale(self, actions: np.ndarray, out: np.ndarray) -> None:
        np.subtract(actions, self._shift, out=out)
        np.multiply(out, self._inv_scale, out=out)
        np.clip(out, -1.0, 1.0, out=out)

    def _normalize(self, observations: np.ndarray, out: np.ndarray) -> None:
        np.subtract(observations, self.preparation.mean, out=out)
        np.multiply(out, self._inv_std, out=out)
        c = self.preparation.clip
        if c is not None:
            np.clip(out, -c, c, out=out)
