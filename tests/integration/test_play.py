"""`slipway play` as a user calls it: a trained policy, its run, and what it recorded in flight."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.command import outcome, refusal
from tests.integration.conftest import Made

pytestmark = pytest.mark.usefixtures("drawn")


def test_a_bundle_is_played_as_it_is_evaluated(place: Path, bundle: Made, tmp_path: Path) -> None:
    import imageio.v3 as imageio

    video = tmp_path / "policy.gif"
    said = outcome(
        "play", "maze.policy", "--episodes", 2, "--out", video, "--width", 128, "--height", 96, cwd=place
    )  # fmt: skip
    assert [each["how"] for each in said["episodes"]] == ["policy", "policy"]
    frames = sum(each["frames"] for each in said["episodes"])
    assert frames == sum(1 + -(-each["steps"] // 2) for each in said["episodes"]), "50 steps a second, 25 frames"
    assert imageio.imread(video).shape[1:] == (96, 128, 3)
    # The same seeds as `slipway eval`'s, hence the same episodes.
    score = outcome("eval", "maze.policy", "--episodes", 2, cwd=place)
    assert score["mean"] == pytest.approx(sum(each["return"] for each in said["episodes"]) / 2)


def test_flights_are_shown_by_their_states(place: Path, flights: Made, tmp_path: Path) -> None:
    said = outcome("play", "flights.zarr", "--pick", "last", "--out", tmp_path / "flight.mp4", cwd=place)
    (episode,) = said["episodes"]
    assert (episode["how"], episode["note"]) == ("states", "")
    assert (tmp_path / "flight.mp4").stat().st_size > 2000


def test_a_policy_for_another_layout_is_refused(place: Path, bundle: Made, tmp_path: Path) -> None:
    line = refusal("play", "maze.policy", "--env", "Hopper-v5", "--out", tmp_path / "x.gif", cwd=place)
    assert "another layout" in line
