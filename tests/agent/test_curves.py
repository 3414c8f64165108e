"""TensorBoard's files hold what was measured, and looking at a policy's actions does not change its training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agent import losses
from agent.curves import Curves
from agent.monitoring import histograms
from agent.run_directory import RunDirectory
from agent.training_log import TrainingLog, statistics
from tests.agent.learners import digest, make_learner, random_transitions


def read(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder), size_guidance={"histograms": 0, "images": 0, "scalars": 0}).Reload()


def test_what_is_written_is_what_tensorboard_reads(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(2.0, 3.0, size=(50, 20)).astype(np.float32)
    curves = Curves(tmp_path)
    curves.scalars("train", {"value_loss": 0.5, "q_mean": -3.0}, 500)
    curves.scalars("train", {"value_loss": 0.25}, 1000)
    curves.histogram("advantage", values, 500)
    curves.histogram("nothing", values[:0], 500)
    curves.pictures("evaluation/episode", b"GIF89a...", (240, 320), 500)
    curves.close()
    found = read(tmp_path)
    assert [(e.step, e.value) for e in found.Scalars("train/value_loss")] == [(500, 0.5), (1000, 0.25)]
    assert found.Scalars("train/q_mean")[0].value == -3.0
    assert found.Tags()["histograms"] == ["advantage"]
    histogram = found.Histograms("advantage")[0].histogram_value
    assert (histogram.num, histogram.min) == (1000, pytest.approx(values.min()))
    assert sum(histogram.bucket) == 1000 and histogram.sum == pytest.approx(values.sum(dtype=float))
    below = sum(count for edge, count in zip(histogram.bucket_limit, histogram.bucket, strict=True) if edge <= 2.0)
    assert below == pytest.approx(500, abs=60)
    assert found.Images("evaluation/episode")[0].encoded_image_string == b"GIF89a..."


def test_the_log_keeps_distributions_out_of_the_metrics_file(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    log = TrainingLog(run, weight_clip=100.0)
    log.training(
        {"value_loss": torch.tensor(0.5)}, phase="offline", updates=500, histograms={"action/policy": torch.ones(8, 2)}
    )
    log.close()
    assert "action" not in run.metrics.read_text()
    found = read(run.tensorboard)
    assert found.Histograms("action/policy")[0].histogram_value.num == 16
    assert found.Scalars("train/value_loss")[0].value == 0.5


@pytest.mark.parametrize("clip", [0.3, 7.0, 20.0, 100.0, 1e30])
def test_weights_at_the_clip_are_counted_whatever_float32_makes_of_it(clip: float) -> None:
    weight = losses.advantage_weights(torch.tensor([100.0, -9.0, -2.0, 100.0]), 1.0, clip)
    assert statistics({"weight": weight}, weight_clip=clip)["weight_clipped_share"] == 0.5


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e30])
def test_the_effective_share_is_that_of_the_samples_which_equal_weights_would_leave(scale: float) -> None:
    for weights, share in ([1, 1, 1, 1], 1.0), ([1, 0, 0, 0], 0.25), ([1, 1, 0, 0], 0.5), ([3, 1], 0.8), ([0, 0], 0.0):
        found = statistics({"weight": scale * torch.tensor(weights)}, weight_clip=100.0)["weight_effective_share"]
        assert found == pytest.approx(share)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_looking_at_the_policys_actions_changes_nothing(dropout: float) -> None:
    rng, looked_at, left_alone = np.random.default_rng(0), make_learner(dropout=dropout), make_learner(dropout=dropout)
    for _ in range(5):
        batch = random_transitions(rng)
        result = looked_at.update(batch)
        left_alone.update(batch)
        found = histograms(looked_at.actor, batch, result)
        assert set(found) == {"action/batch", "action/policy", "advantage"}
        assert found["action/policy"].shape == batch.action.shape and found["action/policy"].abs().max() <= 1.0
    assert digest(looked_at) == digest(left_alone)
    assert looked_at.actor.training == left_alone.actor.training
