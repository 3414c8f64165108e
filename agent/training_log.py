"""The learner's figures and incidents: metrics.jsonl, TensorBoard and events.jsonl.

What cannot be written (a full disk) is not worth a training: lines are lost, and said to be lost once they can be.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from agent.curves import Curves
from agent.incidents import Incidents
from agent.run_directory import RunDirectory

CLIPPED = 1.0 - 1e-5
"""Weights this near to the clip are at it: exp(log c) in float32 may be less than c."""
TINY = 1e-30
"""Keeps weights that are all 0 from a division by it."""


class TrainingLog:
    """Writes a line whenever asked; `weight_clip` is where advantage weights are cut off."""

    def __init__(self, run: RunDirectory, *, weight_clip: float) -> None:
        self._run, self._weight_clip = run, weight_clip
        self._writer: Curves | None = None
        self._last: tuple[float, int] | None = None
        self._incidents = Incidents(run)
        self._lost = 0

    def training(
        self,
        result: dict[str, Tensor],
        *,
        phase: str,
        updates: int,
        histograms: dict[str, Tensor] | None = None,
        **context: float,
    ) -> None:
        """Log the statistics of one update: scalars as they are; mean, deviation and maximum of the others.

        `histograms`, of any shape by name, go to TensorBoard alone.
        """
        values = statistics(result, weight_clip=self._weight_clip)
        now = time.monotonic()
        if self._last is not None and updates > self._last[1]:
            values["updates_per_second"] = (updates - self._last[1]) / (now - self._last[0])
        self._last = (now, updates)
        values.update(context)
        # Seven digits are all that a float32 has; a fixed number of decimals would turn small losses into 0.
        rounded = {name: float(f"{value:.7g}") for name, value in values.items()}
        try:
            self._run.metric("train", phase=phase, updates=updates, **rounded)
            self.open()
            assert self._writer is not None
            self._writer.scalars("train", values, updates)
            for name, tensor in (histograms or {}).items():
                self._writer.histogram(name, tensor.detach().float().cpu().numpy(), updates)
        except OSError:
            self._lost += 1
            self._writer = None  # its thread has ended with the error; the next line opens another file
        self._say_what_is_unsaid()

    def diagnostics(self, values: dict[str, Any], *, phase: str, updates: int) -> None:
        """Log what was measured of networks and values; plain numbers go to TensorBoard too."""
        try:
            self._run.metric("diagnostics", phase=phase, updates=updates, **values)
            self.open()
            assert self._writer is not None
            plain = {name: value for name, value in values.items() if isinstance(value, float)}
            self._writer.scalars("diagnostics", plain, updates)
        except OSError:
            self._lost += 1
            self._writer = None

    def event(self, kind: str, message: str, **details: Any) -> None:
        """Record an incident, now or as soon as it can be written."""
        self._incidents.event(kind, message, **details)
        self._say_what_is_unsaid()

    def _say_what_is_unsaid(self) -> None:
        if self._incidents.flush() and self._lost:
            lost, self._lost = self._lost, 0
            self._incidents.event("metrics_lost", f"{lost} lines of figures could not be written", lines=lost)

    def open(self) -> None:
        """Open TensorBoard's file now: importing it takes time, which the first line would take from training."""
        if self._writer is None:
            self._writer = Curves(self._run.tensorboard)

    def close(self) -> None:
        """Flush what is buffered."""
        if self._writer is not None:
            self._writer.close()


def statistics(result: dict[str, Tensor], *, weight_clip: float) -> dict[str, float]:
    """Plain numbers of one update's tensors, fetched from their device at once."""
    names: list[str] = []
    numbers: list[Tensor] = []
    for name, tensor in result.items():
        if tensor.ndim == 0:
            names.append(name)
            numbers.append(tensor)
            continue
        names += [f"{name}_mean", f"{name}_std", f"{name}_max"]
        numbers += [tensor.mean(), tensor.std(correction=0), tensor.max()]
        if name == "weight":
            names += ["weight_clipped_share", "weight_effective_share"]
            numbers += [(tensor >= CLIPPED * weight_clip).float().mean(), effective_share(tensor)]
    return dict(zip(names, torch.stack([n.float() for n in numbers]).tolist(), strict=True)) if names else {}


def effective_share(weight_B: Tensor) -> Tensor:
    """Kish's effective sample size of weights ≥ 0 over their number, in (0, 1]: (Σw)² / (B·Σw²); 0 where all are 0."""
    scaled_B = weight_B / weight_B.max().clamp(min=TINY)  # squares of weights up to a clip of 1e30 would be infinite
    return scaled_B.mean().square() / scaled_B.square().mean().clamp(min=TINY)
