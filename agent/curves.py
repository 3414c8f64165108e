"""TensorBoard's event files without torch: scalars, histograms and moving pictures.

TensorBoard reads one event file a folder, so each process writes into a folder of its own.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

HISTOGRAM_BINS = 40


class Curves:
    """Appends to an event file in `folder`; OSError, sooner or later, where that cannot be written."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        self._histogram = summary_pb2.HistogramProto
        self._writer = EventFileWriter(str(folder))

    def scalars(self, prefix: str, values: Mapping[str, float], step: int) -> None:
        """One point on each curve `prefix/name`."""
        self._add([self._summary.Value(tag=f"{prefix}/{k}", simple_value=v) for k, v in values.items()], step)

    def histogram(self, tag: str, values: np.ndarray, step: int) -> None:
        """The distribution of finite `values` [N]; nothing where there are none."""
        values = values.astype(np.float64).ravel()
        if not len(values):
            return
        counts, edges = np.histogram(values, bins=HISTOGRAM_BINS)
        made = self._histogram(
            min=values.min(), max=values.max(), num=len(values), sum=values.sum(), sum_squares=(values**2).sum(),
            bucket_limit=edges[1:].tolist(), bucket=counts.tolist(),
        )  # fmt: skip
        self._add([self._summary.Value(tag=tag, histo=made)], step)

    def pictures(self, tag: str, gif: bytes, size: tuple[int, int], step: int) -> None:
        """A moving picture of `size` (height, width); TensorBoard plays GIFs among its images."""
        image = self._summary.Image(height=size[0], width=size[1], colorspace=3, encoded_image_string=gif)
        self._add([self._summary.Value(tag=tag, image=image)], step)

    def close(self) -> None:
        """Write what is buffered."""
        self._writer.close()

    def _add(self, values: list[object], step: int) -> None:
        event = self._event(wall_time=time.time(), step=step, summary=self._summary(value=values))
        self._writer.add_event(event)
