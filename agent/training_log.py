"""The learner's figures: metrics.jsonl and TensorBoard, and the alarm for values that are not finite."""

from __future__ import annotations

import time
from typing import Any

from torch import Tensor

from agent.errors import DivergenceError
from agent.run_directory import RunDirectory


class TrainingLog:
    """Writes a line whenever asked; TensorBoard is opened with the first."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._writer: Any = None
        self._last: tuple[float, int] | None = None

    def training(self, result: dict[str, Tensor], *, phase: str, updates: int, **context: float) -> None:
        """Log the statistics of one update; DivergenceError naming the first tensor that is not finite."""
        values: dict[str, float] = {}
        for name, tensor in result.items():
            if not bool(tensor.isfinite().all()):
                raise DivergenceError(
                    f"{name} is not finite after {updates} updates; the last good checkpoint in "
                    f"{self._run.checkpoints} stands: lower --algorithm.learning-rate or check the rewards' scale"
                )
            if tensor.ndim == 0:
                values[name] = float(tensor)
            else:
                values[f"{name}_mean"], values[f"{name}_std"] = float(tensor.mean()), float(tensor.std(correction=0))
                values[f"{name}_max"] = float(tensor.max())
        now = time.monotonic()
        if self._last is not None and updates > self._last[1]:
            values["updates_per_second"] = (updates - self._last[1]) / (now - self._last[0])
        self._last = (now, updates)
        values.update(context)
        self._run.metric("train", phase=phase, updates=updates, **{k: round(v, 6) for k, v in values.items()})
        writer = self._tensorboard()
        for name, value in values.items():
            writer.add_scalar(f"train/{name}", value, updates)

    def _tensorboard(self) -> Any:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._run.tensorboard))
        return self._writer

    def close(self) -> None:
        """Flush what is buffered."""
        if self._writer is not None:
            self._writer.close()
