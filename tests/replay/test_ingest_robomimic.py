"""robomimic files become stores: low-dimensional keys, filters, and ends that bootstrap where they should."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replay.ingest import IngestError, SourceFormatError, SourceValueError, ingest, recorded_environment
from replay.store import Store
from tests.replay.make_robomimic import write

h5py = pytest.importorskip("h5py", reason="needs the train extra")


def stored(path: Path, **options: Any) -> list[tuple[list[float], int, bool, bool]]:
    """(first observation column, steps, terminated, truncated) of each episode."""
    out = path.with_suffix(".store")
    ingest(path, out, **options)
    return [
        (e.observations[:, 0].tolist(), len(e.rewards), e.terminated, e.truncated) for e in Store.open(out).episodes()
    ]


def test_demonstrations_are_taken_in_number_order_with_their_final_observations(tmp_path: Path) -> None:
    path = write(tmp_path / "lift.hdf5")
    assert stored(path) == [
        ([90, 91, 92, 93, 94], 4, True, False),
        ([100, 101, 102, 103], 3, True, False),
        ([110, 111, 112, 113, 114, 115], 5, True, False),
    ]
    spec = Store.open(path.with_suffix(".store")).spec
    assert [(t.name, t.length) for t in spec.observation] == [("object", 2), ("robot0_gripper_qpos", 2)]
    assert (spec.action_low, spec.action_high) == ((-1.0,) * 3, (1.0,) * 3)
    assert spec.env is None
    assert spec.source is not None
    assert spec.source["env_args"]["env_name"] == "Lift"
    with h5py.File(path) as file:
        actions = file["data/demo_10/actions"][:]
    episode = list(Store.open(path.with_suffix(".store")).episodes())[1]
    np.testing.assert_array_equal(episode.actions, actions.astype(np.float32))
    assert ingest(path, path.with_suffix(".store"))["already"]


def test_without_next_obs_only_a_terminated_episode_keeps_its_last_step(tmp_path: Path) -> None:
    assert stored(write(tmp_path / "a.hdf5", (3,), next_obs=False)) == [([90, 91, 92, 92], 3, True, False)]
    unrewarded = write(tmp_path / "b.hdf5", (3,), next_obs=False, rewards=np.zeros)
    assert stored(unrewarded) == [([90, 91, 92], 2, False, True)]


def test_an_early_done_ends_the_episode_and_an_unrewarded_last_done_is_a_truncation(tmp_path: Path) -> None:
    early = write(tmp_path / "early.hdf5", (5,), dones=lambda n: np.arange(n) >= 2, rewards=lambda n: np.arange(n) >= 2)
    outcome = ingest(early, tmp_path / "store")
    assert (outcome["steps"], outcome["terminated"], outcome["mended"]["steps_after_done"]) == (3, 1, 2)
    assert stored(write(tmp_path / "end.hdf5", (3,), rewards=np.zeros)) == [([90, 91, 92, 93], 3, False, True)]


def test_observation_keys_choose_and_order_and_leave_images_out(tmp_path: Path) -> None:
    path = write(tmp_path / "images.hdf5", images=True)
    with pytest.raises(
        SourceFormatError, match=r"agentview_image .*image.*--observation-keys object,robot0_gripper_qpos"
    ):
        ingest(path, tmp_path / "store")
    outcome = ingest(path, tmp_path / "store", observation_keys=["robot0_gripper_qpos", "object"])
    assert [term["name"] for term in outcome["observation"]] == ["robot0_gripper_qpos", "object"]
    with pytest.raises(SourceFormatError, match=r"data/demo_9/obs lacks 'objekt'; did you mean 'object'"):
        ingest(path, tmp_path / "other", observation_keys=["objekt"])
    assert not (tmp_path / "other").exists()


def test_a_filter_takes_its_demonstrations_only(tmp_path: Path) -> None:
    path = write(tmp_path / "lift.hdf5")
    assert [steps for _, steps, _, _ in stored(path, filter_key="train")] == [4, 5]
    with pytest.raises(SourceFormatError, match="no filter mask/valid; it has train"):
        ingest(path, tmp_path / "other", filter_key="valid")


def test_a_gymnasium_environment_in_env_args_is_kept(tmp_path: Path) -> None:
    args = {"env_name": "Hopper-v5", "type": 2, "env_kwargs": {}}
    path = write(tmp_path / "hopper.hdf5", env_args=args)
    env = {"id": "Hopper-v5", "kwargs": {}, "max_episode_steps": None}
    assert recorded_environment(path) == env == ingest(path, tmp_path / "store")["env"]


def test_success_ends_episodes_from_sparse_rewards(tmp_path: Path) -> None:
    path = write(tmp_path / "x.hdf5", (4,), dones=np.zeros, rewards=lambda n: np.arange(n) == 1)
    assert stored(path, terminate_on="success") == [([90, 91, 92], 2, True, False)]


def test_a_success_in_the_last_step_is_kept_though_no_next_observation_is(tmp_path: Path) -> None:
    path = write(tmp_path / "x.hdf5", (3,), dones=np.zeros, next_obs=False)
    assert stored(path, terminate_on="success") == [([90, 91, 92, 92], 3, True, False)]


@pytest.mark.parametrize("field", ["actions", "rewards", "dones", "obs/object", "next_obs/object"])
def test_a_missing_field_is_named_with_its_demonstration(field: str, tmp_path: Path) -> None:
    path = write(tmp_path / "x.hdf5", drop=field)
    with pytest.raises(SourceFormatError, match=r"data/demo_10.* lacks ") as caught:
        ingest(path, tmp_path / "store")
    assert field.rpartition("/")[2] in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.hdf5"]


def test_bad_values_and_options_are_refused_and_a_dry_run_lists_them(tmp_path: Path) -> None:
    path = write(tmp_path / "x.hdf5")
    with h5py.File(path, "a") as file:
        file["data/demo_9/actions"][1, 2] = 3.0
        file["data/demo_11/obs/object"][2, 0] = np.nan
    with pytest.raises(SourceValueError, match="data/demo_9: actions at step 1, dimension 2 is 3"):
        ingest(path, tmp_path / "store")
    found = ingest(path, tmp_path / "store", dry_run=True)
    assert (found["episodes"], found["steps"], found["refused_episodes"]) == (1, 3, 2)
    assert ["demo_9" in found["refused"][0], "demo_11" in found["refused"][1]] == [True, True]
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.hdf5"]
    with pytest.raises(IngestError, match="--columns serves table sources only"):
        ingest(path, tmp_path / "store", columns={"observation": ["a"], "action": ["b"], "reward": "r", "episode": "e"})


def test_dones_are_flags_and_an_environment_has_the_files_layout(tmp_path: Path) -> None:
    path = write(tmp_path / "half.hdf5", dones=lambda n: np.full(n, 0.5))
    with pytest.raises(SourceFormatError, match=r"data/demo_9: dones at row 0 is 0.5; a flag is 0 or 1"):
        ingest(path, tmp_path / "store")
    with pytest.raises(SourceFormatError, match=r"columns but environment Pendulum-v1 has 3"):
        ingest(write(tmp_path / "x.hdf5"), tmp_path / "store", env={"id": "Pendulum-v1"})
    assert not (tmp_path / "store").exists()
