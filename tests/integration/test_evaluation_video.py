"""An evaluation's video: an episode of the very policy that was scored, on disk and in TensorBoard."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from agent import filming
from agent.errors import RenderingError
from agent.evaluator import draw_curves
from agent.files import read_lines
from agent.publish import policy_path, published_versions
from agent.rendering import backend
from agent.report import rollout as report
from agent.run_directory import RunDirectory
from tests.integration.conftest import Made


@pytest.fixture
def filmed(place: Path, trained: Made, tmp_path: Path) -> tuple[RunDirectory, dict[str, Any], Path]:
    """A copy of a real run that wants videos, one of its evaluations, and a policy."""
    shutil.copytree(place / "run", tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    shutil.rmtree(run.tensorboard)
    text = run.config.read_text()
    assert text.count("video = false") == 1
    run.config.write_text(text.replace("video = false", "video = true"))
    record = run.evaluations()[-1]
    return run, record, policy_path(run.policies, published_versions(run.policies)[-1])


def curves(run: RunDirectory) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(run.tensorboard / "evaluation")).Reload()


@pytest.fixture
def drawing() -> None:
    """Skips where nothing draws."""
    try:
        backend()
    except RenderingError as error:
        pytest.skip(str(error))


# imageio's own reader leaves ffmpeg's pipes to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("drawing")
def test_an_evaluation_leaves_a_video_and_points_on_the_curves(
    filmed: tuple[RunDirectory, dict[str, Any], Path],
) -> None:
    run, record, policy = filmed
    draw_curves(run, record, policy)
    (video,) = run.videos.iterdir()
    assert video.name == f"{record['label']}-{record['online_steps']:09d}-v{record['policy_version']:06d}.mp4"
    assert video.stat().st_size > 2000
    found = curves(run)
    point = found.Scalars("evaluation/mean")[0]
    assert (point.step, point.value) == (record["updates"], pytest.approx(record["mean"]))
    image = found.Images("evaluation/episode")[0]
    assert image.encoded_image_string.startswith(b"GIF89a") and (image.width, image.height) == (320, 240)


@pytest.mark.usefixtures("drawing")
def test_a_film_that_ends_before_its_episode_says_so(
    filmed: tuple[RunDirectory, dict[str, Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _, policy = filmed
    version, env = published_versions(run.policies)[-1], run.read_record(run.env)
    monkeypatch.setattr(filming, "MOST_STEPS", 3)
    monkeypatch.setattr(report, "MOST_STEPS", 3)
    drawn = report.rollout(run, env, seed=0)
    assert drawn is not None and drawn.words.startswith(f"The first 3 steps of an episode of policy version {version}:")
    assert "solved" not in drawn.words
    run.videos.mkdir()
    filming.film(policy, run.videos / f"pretrained-000000000-v{version:06d}.mp4", env=env, seed=0)
    kept = report.rollout(run, env, seed=0)
    assert kept is not None and kept.words.startswith("The beginning, up to 3 steps, of an episode of policy version")


def test_where_nothing_draws_the_evaluation_stands_and_the_event_says_why(
    filmed: tuple[RunDirectory, dict[str, Any], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run, record, policy = filmed
    before = len(read_lines(run.events))
    # Mesa's EGL finds no driver.
    monkeypatch.setenv("__EGL_VENDOR_LIBRARY_FILENAMES", str(tmp_path / "none.json"))
    draw_curves(run, record, policy)
    (event,) = read_lines(run.events)[before:]
    assert event["kind"] == "video_failed" and "nothing can draw here (egl:" in event["message"]
    assert list(run.videos.iterdir()) == []
    assert curves(run).Scalars("evaluation/mean")[0].value == pytest.approx(record["mean"])
