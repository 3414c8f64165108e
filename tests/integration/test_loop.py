"""The whole loop, closed: collect, ingest, train in both phases, evaluate, export, verify, deploy, ingest, train."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.export_request import request_export
from agent.exporting import export_run
from export.runner import PolicyRunner
from replay.episodes import Episode
from replay.store import Store
from tests.export.keys import make_keys
from tests.integration.command import outcome, refusal, succeed
from tests.integration.conftest import (
    ONLINE_STEPS,
    PRETRAIN_STEPS,
    SMALL,
    TOLERANCE_STEPS,
    WARMUP_STEPS,
    Made,
)

GOAL = slice(2, 4)
"""Columns of the maze's desired goal, drawn anew by every reset and constant until the next."""
POSITION = slice(0, 2)
GOAL_RADIUS = 0.45
"""PointMaze's own threshold, in metres."""


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def check_maze_episodes(episodes: list[Episode], limit: int) -> None:
    """Each episode is one stretch of the maze: one goal, its own final observation, an end that tells the truth."""
    for episode in episodes:
        goals = episode.observations[:, GOAL]
        assert (goals == goals[0]).all(), "the final observation belongs to another episode"
        moved = np.linalg.norm(np.diff(episode.observations[:, POSITION], axis=0), axis=1)
        assert moved.max() < 0.6, "the point jumped: a reset was taken for a step"
        distance = np.linalg.norm(episode.observations[-1, POSITION] - goals[-1])
        assert episode.terminated == (distance <= GOAL_RADIUS)
        assert episode.rewards[-1] == float(episode.terminated)
        assert (episode.rewards[:-1] == 0.0).all()
        assert episode.truncated == (len(episode.rewards) == limit) or episode.terminated
        assert len(episode.rewards) <= limit
    for before, after in itertools.pairwise(episodes):
        assert (before.observations[-1, GOAL] != after.observations[0, GOAL]).any()


def test_logged_episodes_end_where_the_maze_ended_them(log: Made) -> None:
    episodes = list(Store.open(log.path).episodes())
    assert log.said["steps"] == sum(len(episode.rewards) for episode in episodes) >= 1500
    assert log.said["episodes"] == len(episodes)
    assert {episode.terminated for episode in episodes} == {True, False}
    check_maze_episodes(episodes, limit=100)


def test_an_ingested_log_equals_the_log(log: Made, data: Made) -> None:
    assert data.said["already"] is False
    before, after = list(Store.open(log.path).episodes()), list(Store.open(data.path).episodes())
    assert len(before) == len(after) == data.said["episodes"]
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one.observations, other.observations)
        np.testing.assert_array_equal(one.actions, other.actions)
        np.testing.assert_array_equal(one.rewards, other.rewards)
        assert (one.terminated, one.truncated) == (other.terminated, other.truncated)


def test_ingesting_the_same_again_changes_nothing(place: Path, data: Made) -> None:
    zarr = (data.path / "zarr.json").stat().st_mtime_ns
    assert outcome("ingest", "log.zarr", "--out", "data.zarr", cwd=place)["already"] is True
    assert (data.path / "zarr.json").stat().st_mtime_ns == zarr


def test_both_phases_ran_and_were_scored(trained: Made) -> None:
    assert trained.said["finished"] is True
    records = lines(trained.path / "metrics.jsonl")
    assert {record["phase"] for record in records if record["kind"] == "train"} == {"offline", "online"}
    updates = [record["updates"] for record in records if record["kind"] == "train"]
    assert updates == sorted(set(updates))
    labels = {record["label"] for record in records if record["kind"] == "evaluation"}
    assert {"pretrained", "finetuned"} <= labels <= {"pretrained", "curve", "finetuned"}
    data_mean = trained.said["dataset"]["mean"]
    assert data_mean == pytest.approx(
        np.mean([e.rewards.sum() for e in Store.open(trained.path.parent / "data.zarr").episodes()])
    )


def test_every_online_step_was_stored(trained: Made) -> None:
    store = Store.open(trained.path / "replay.zarr")
    episodes = list(store.episodes())
    stored = sum(len(episode.rewards) for episode in episodes)
    status = json.loads((trained.path / "status.json").read_text())
    assert status["online_steps"] >= ONLINE_STEPS
    # The last step before the stop has its successor in the cut row, so every step can be sampled.
    assert stored == store.num_steps == status["online_steps"]
    whole = [episode for episode in episodes if not episode.interrupted]
    assert len(episodes) - len(whole) <= 1
    check_maze_episodes(whole, limit=100)


def test_every_row_was_made_by_a_published_version_and_versions_never_go_back(trained: Made) -> None:
    reader = Store.open(trained.path / "replay.zarr").reader()
    newest = max(int(path.stem[1:]) for path in (trained.path / "policies").glob("v*.onnx"))
    for stream, head in reader.heads.items():
        versions = reader.meta(stream, 0, head)[:, 0]
        assert versions.max() <= newest
        assert (np.diff(versions) >= 0).all()
        assert versions[0] == 1
        assert versions[-1] > 1, "no collector ever swapped its policy"


def test_warm_up_was_collected_by_the_pretrained_policy_alone(trained: Made) -> None:
    reader = Store.open(trained.path / "replay.zarr").reader()
    (stream,) = reader.heads
    valid = reader.rows(stream, 0, reader.heads[stream])[:, reader.spec.offsets["valid"]] > 0
    versions = reader.meta(stream, 0, reader.heads[stream])[valid, 0]
    assert (versions[:WARMUP_STEPS] == 1).all()


def test_updates_keep_to_the_ratio(trained: Made) -> None:
    """One update a step after warm-up (utd 1), within the tolerance all along and exact at the end."""
    status = json.loads((trained.path / "status.json").read_text())
    assert abs(status["online_updates"] - (status["online_steps"] - WARMUP_STEPS)) <= 1
    for record in lines(trained.path / "metrics.jsonl"):
        if record["kind"] == "train" and record["phase"] == "online":
            ahead = record["updates"] - PRETRAIN_STEPS - (record["online_steps"] - WARMUP_STEPS)
            assert abs(ahead) <= TOLERANCE_STEPS + 1


def test_collectors_explored_around_the_policy_that_they_name(trained: Made) -> None:
    """Stored actions are the named version's mean plus its noise, clipped into the bounds."""
    deviations = []
    for episode in Store.open(trained.path / "replay.zarr").episodes():
        for version in np.unique(episode.policy_version):
            of_version = episode.policy_version == version
            published = trained.path / "policies" / f"v{version:06d}.onnx"
            # Only the newest twenty and the first are kept.
            if published.exists():
                mean = PolicyRunner(published).act(episode.observations[:-1][of_version])
                deviations.append(episode.actions[of_version] - mean)
        assert (np.abs(episode.actions) <= 1.0).all()
    noise = np.concatenate(deviations)
    assert np.abs(noise).max() > 0.01
    assert np.abs(noise.mean(axis=0)).max() < 0.3


def test_an_export_passed_the_parity_gate_and_verifies(place: Path, bundle: Made) -> None:
    assert bundle.said["step"] == PRETRAIN_STEPS + ONLINE_STEPS - WARMUP_STEPS
    assert bundle.said["parity"]["observations"] >= 10_000
    assert bundle.said["parity"]["share_of_tolerance"] < 1.0
    verified = outcome("verify", "maze.policy", cwd=place)
    assert verified["checksums"] == verified["contract"] == "ok"
    assert verified["golden"]["rows"] > 0
    assert verified["policy_id"] == bundle.said["policy"]


def test_a_bundle_bears_the_score_of_its_very_weights_or_none(trained: Made, bundle: Made, tmp_path: Path) -> None:
    scored = [line for line in lines(trained.path / "metrics.jsonl") if line["kind"] == "evaluation"]
    last = next(line for line in scored if line["label"] == "finetuned")
    assert bundle.said["variants"]["float32"]["evaluation"]["mean"] == last["mean"]
    # Stopped before its last evaluation: all there are belong to other weights.
    run = tmp_path / "run"
    shutil.copytree(trained.path, run)
    kept = [line for line in lines(run / "metrics.jsonl") if line.get("updates") != last["updates"]]
    assert any(line["kind"] == "evaluation" for line in kept)
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    outcome = export_run(request_export(run, tmp_path / "again.policy"))
    assert outcome["variants"]["float32"]["evaluation"] is None


def test_an_export_holds_what_it_was_asked_for(place: Path, trained: Made) -> None:
    """Variants with error and score, promises to the device, and a signature that only its owner could make."""
    private, public = make_keys(place)
    said = outcome(
        "export", "run", "--out", "signed.policy", "--quantize", "int8", "--env-episodes", 2, "--sign", private,
        "--hz", 50, "--deadline-ms", 5, "--max-obs-age-ms", 200, "--on-fault", "safe", "--rate-limit", 40, 30,
        "--action-names", "x", "y", "--robot-model", "ball", "--robot-revision", "b", cwd=place,
    )  # fmt: skip
    assert said["signed"] is True
    # Whether float16 weights are good enough depends on what was learned; either way its error is stated.
    assert ("wfp16" in said["variants"]) != ("wfp16" in said["left_out"])
    assert {"float32", "int8"} <= said["variants"].keys()
    for entry in said["variants"].values():
        assert entry["evaluation"]["episodes"] == 2
        assert entry["parity"]["action_error_ordinary"] > 0.0
    verified = outcome("verify", "signed.policy", "--verify-key", public, cwd=place)
    assert verified["signature"] == "ok"
    assert verified["variants"].keys() == said["variants"].keys()
    contract = PolicyRunner(place / "signed.policy", variant="int8", verify_key=public).contract
    assert (contract.action.names, contract.action.rate_limit) == (("x", "y"), (40.0, 30.0))
    control = contract.control
    assert (control.hz, control.deadline_ms, control.max_obs_age_ms, control.on_fault) == (50.0, 5.0, 200.0, "safe")
    assert (contract.robot.model, contract.robot.revision) == ("ball", "b")
    scored = outcome("eval", "signed.policy", "--variant", "int8", "--episodes", 2, "--seed", 0, cwd=place)
    assert scored["mean"] == pytest.approx(said["variants"]["int8"]["evaluation"]["mean"])


def test_bundles_that_the_key_did_not_sign_are_refused(place: Path, bundle: Made, tmp_path: Path) -> None:
    _, public = make_keys(tmp_path)
    assert "not signed" in refusal("verify", "maze.policy", "--verify-key", public, cwd=place)
    line = refusal("export", "run", "--out", "never.policy", "--rate-limit", 40, cwd=place)
    assert "needs control.hz" in line
    line = refusal("export", "run", "--out", "never.policy", "--sign", public, cwd=place)
    assert "private key" in line or "no usable key" in line
    assert not (place / "never.policy").exists()


def test_run_bundle_and_control_loop_behave_the_same(place: Path, bundle: Made, flights: Made) -> None:
    """One artefact everywhere: the run's newest version, its export and the deployed loop score alike."""
    run = outcome("eval", "run", "--episodes", 5, "--seed", 0, cwd=place)
    exported = outcome("eval", "maze.policy", "--episodes", 5, "--seed", 0, cwd=place)
    same = ("mean", "std", "success", "length", "episodes", "ci")
    assert {key: run[key] for key in same} == {key: exported[key] for key in same}
    assert np.mean(flights.said["returns"]) == pytest.approx(exported["mean"])
    assert np.mean(flights.said["lengths"]) == pytest.approx(exported["length"])
    assert np.mean(flights.said["successes"]) == pytest.approx(exported["success"])


def test_recorded_actions_are_the_ones_that_the_policy_gives(bundle: Made, flights: Made) -> None:
    runner = PolicyRunner(bundle.path)
    episodes = list(Store.open(flights.path).episodes())
    assert [len(episode.rewards) for episode in episodes] == flights.said["lengths"]
    assert flights.said["recorded"] == sum(flights.said["lengths"]) == flights.said["steps"]
    assert flights.said["lost"] == 0
    assert flights.said["record_error"] is None
    for episode in episodes:
        np.testing.assert_array_equal(
            episode.actions, np.stack([runner.act(observation) for observation in episode.observations[:-1]])
        )
        assert (episode.policy_version == runner.contract.policy_version).all()
    check_maze_episodes(episodes, limit=100)


def test_a_recording_continues_the_store_it_is_given(place: Path, bundle: Made) -> None:
    command = ("deploy", "maze.policy", "--episodes", 1, "--record", "twice.zarr", "--seed")
    outcome(*command, 1, cwd=place)
    first = [episode.observations for episode in Store.open(place / "twice.zarr").episodes()]
    outcome(*command, 2, cwd=place)
    both = [episode.observations for episode in Store.open(place / "twice.zarr").episodes()]
    assert len(both) == 2
    np.testing.assert_array_equal(both[0], first[0])


def test_flights_feed_the_next_training(place: Path, flights: Made) -> None:
    ingested = outcome("ingest", "flights.zarr", "--out", "flown.zarr", cwd=place)
    assert ingested["steps"] == flights.said["recorded"]
    command = ("pretrain", "--replay", "flown.zarr", "--out", "next", *SMALL, "--pretrain-steps", 20)
    said = outcome(*command, cwd=place)
    assert said["finished"] is True
    assert said["dataset"]["mean"] == pytest.approx(np.mean(flights.said["returns"]))
    succeed("verify", "next", cwd=place)
