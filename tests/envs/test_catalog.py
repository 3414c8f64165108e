"""The catalogue: complete, in step with the reference scores, and helpful when a name is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import gymnasium
import pytest

from envs.catalog import CATALOG, counts_as_scored, evaluation_spec, lookup, normalized_score, training_spec
from envs.errors import EnvError


def test_importing_envs_loads_no_simulator_and_no_torch() -> None:
    script = "import envs, envs.catalog, envs.errors, sys; print(*(m for m in sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
    assert not {"gymnasium", "gymnasium_robotics", "mujoco", "torch"} & set(loaded)


def test_every_family_of_the_issue_is_named() -> None:
    wanted = [
        *("Hopper-v5", "HalfCheetah-v5", "Walker2d-v5", "Ant-v5", "FrankaKitchen-v1"),
        *(f"AdroitHand{name}-v1" for name in ("Pen", "Hammer", "Door", "Relocate")),
        *(
            f"AntMaze_{name}-v{version}"
            for name in ("UMaze", "Medium", "Large", "Medium_Diverse_GR", "Large_Diverse_GR")
            for version in (4, 5)
        ),
        *(f"PointMaze_{name}-v3" for name in ("Open", "UMaze", "Medium", "Large")),
        *(f"Fetch{name}-v4" for name in ("Reach", "Push", "PickAndPlace", "Slide")),
    ]
    assert set(wanted) <= set(CATALOG)
    assert all(task.id == name for name, task in CATALOG.items())


def test_reference_scores_are_those_of_d4rl() -> None:
    folder = os.environ.get("SLIPWAY_DATA")
    source = Path(folder or ".") / "reference_scores.json"
    if not source.exists():
        reason = "reference_scores.json not found: set SLIPWAY_DATA to the folder that holds it"
        if os.environ.get("SLIPWAY_REQUIRE_DATA") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    scores = json.loads(source.read_text())["d4rl"]
    names = {
        "hopper": "Hopper-v5",
        "halfcheetah": "HalfCheetah-v5",
        "walker2d": "Walker2d-v5",
        "ant": "Ant-v5",
        "pen": "AdroitHandPen-v1",
        "hammer": "AdroitHandHammer-v1",
        "door": "AdroitHandDoor-v1",
        "relocate": "AdroitHandRelocate-v1",
        "kitchen-*": "FrankaKitchen-v1",
        "antmaze-*": "AntMaze_Large_Diverse_GR-v4",
    }
    for name, env_id in names.items():
        task = CATALOG[env_id]
        assert [task.reference_min, task.reference_max] == scores[name], env_id


def test_normalised_score_is_0_at_random_and_100_at_expert_and_absent_without_reference() -> None:
    door = CATALOG["AdroitHandDoor-v1"]
    assert normalized_score(door, -56.512833) == 0.0
    assert normalized_score(door, 2880.5693087298737) == pytest.approx(100.0)
    assert normalized_score(door, 803.1) == pytest.approx(29.3, abs=0.05)  # shared/data/README: door/human
    assert normalized_score(CATALOG["PointMaze_Medium-v3"], 1.0) is None


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("PointMaze_Medum-v3", "PointMaze_Medium-v3"),
        ("AdroitHandDor-v1", "AdroitHandDoor-v1"),
        ("hopper-v5", "Hopper-v5"),
        ("FrankaKitchen-v2", "FrankaKitchen-v1"),
    ],
)
def test_an_unknown_id_names_the_nearest(wrong: str, near: str) -> None:
    with pytest.raises(EnvError, match=r"unknown environment .*did you mean") as caught:
        lookup(wrong)
    assert near in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", ["§§§", "nonsense", "json:Foo-v0"])
def test_an_id_like_nothing_known_gets_no_guess(wrong: str) -> None:
    with pytest.raises(EnvError, match=f"unknown environment {wrong!r}: ") as caught:
        lookup(wrong)
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize("wrong", ["", "json:"])
def test_an_empty_id_is_called_empty(wrong: str) -> None:
    with pytest.raises(EnvError, match=r"the environment's name is empty: give a Gymnasium id, e\.g\. Hopper-v5"):
        lookup(wrong)


def test_a_missing_module_is_named() -> None:
    with pytest.raises(EnvError, match="no_such_module"):
        lookup("no_such_module:Thing-v0")


def test_a_module_is_found_in_the_working_directory_and_its_faults_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_tasks.py").write_text("import gymnasium\ngymnasium.register('MyTask-v0', 'my_tasks:Task')\n")
    (tmp_path / "my_broken_tasks.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each not in ("", str(tmp_path))])
    assert lookup("my_tasks:MyTask-v0").id == "my_tasks:MyTask-v0"
    with pytest.raises(
        EnvError, match=r"module my_tasks registers no MyTsk-v0: did you mean MyTask-v0\?; importing it"
    ):
        lookup("my_tasks:MyTsk-v0")
    with pytest.raises(
        EnvError, match=r"cannot import module 'my_broken_tasks' .*: ZeroDivisionError: division by zero"
    ):
        lookup("my_broken_tasks:Thing-v0")
    del gymnasium.registry["MyTask-v0"]


def test_other_registered_ids_get_defaults_and_unlisted_variants_those_of_their_family() -> None:
    assert (lookup("Pusher-v5").success_key, lookup("Pusher-v5").preset) == (None, "")
    diverse = lookup("PointMaze_Large_Diverse_GR-v3")
    assert (diverse.id, diverse.expert, diverse.terminate_on) == (
        "PointMaze_Large_Diverse_GR-v3",
        "waypoint",
        "success",
    )
    sparse = lookup("AdroitHandDoorSparse-v1")
    assert sparse.success_key == "success"
    assert sparse.reference_max is None, "D4RL's scores are for the dense reward"


def test_a_dataset_is_evaluated_in_its_own_environment_but_never_past_the_scored_limit() -> None:
    door = evaluation_spec({"id": "AdroitHandDoor-v1", "kwargs": {"reward_type": "dense"}, "max_episode_steps": 300})
    assert door == {"id": "AdroitHandDoor-v1", "kwargs": {"reward_type": "dense"}, "max_episode_steps": 200}
    assert evaluation_spec({"id": "AdroitHandPen-v1"})["max_episode_steps"] == 100
    short = {"id": "PointMaze_Medium-v3", "kwargs": {"continuing_task": True}, "max_episode_steps": 150}
    assert evaluation_spec(short) == {**short, "kwargs": {"continuing_task": False}}


def test_kitchen_trains_under_its_datasets_reward_and_is_scored_under_d4rls() -> None:
    recorded = {
        "tasks_to_complete": ["microwave", "kettle", "bottom burner", "light switch"],  # as D4RL/kitchen/mixed-v2
        "remove_task_when_completed": False,
        "terminate_on_tasks_completed": False,
    }
    env = {"id": "FrankaKitchen-v1", "kwargs": recorded, "max_episode_steps": 450}
    assert training_spec(env) == {**env, "max_episode_steps": 280}
    scored = {**recorded, "remove_task_when_completed": True, "terminate_on_tasks_completed": True}
    assert evaluation_spec(env) == {"id": "FrankaKitchen-v1", "kwargs": scored, "max_episode_steps": 280}


def test_specs_never_share_the_catalogues_own_lists() -> None:
    evaluation_spec({"id": "FrankaKitchen-v1"})["kwargs"]["tasks_to_complete"].clear()
    assert len(CATALOG["FrankaKitchen-v1"].kwargs["tasks_to_complete"]) == 4


def test_without_the_simulators_the_catalogue_still_answers_and_making_one_says_what_to_install() -> None:
    script = (
        "import sys; sys.modules['gymnasium'] = None\n"
        "import envs\n"
        "print(envs.lookup('AdroitHandPen-v1').id)\n"
        "try:\n    import envs.make\n"
        "except envs.EnvError as error:\n    print(error)\n"
    )
    said = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert said.splitlines()[0] == "AdroitHandPen-v1"
    assert "pip install 'slipway[sim]'" in said.splitlines()[1]


def test_data_compares_with_scores_where_its_rewards_are_counted_alike() -> None:
    minari = {"remove_task_when_completed": False, "terminate_on_tasks_completed": False}
    alike = dict.fromkeys(minari, True)
    assert not counts_as_scored("FrankaKitchen-v1", {"id": "FrankaKitchen-v1", "kwargs": minari})
    assert not counts_as_scored("FrankaKitchen-v1", None)
    assert counts_as_scored("FrankaKitchen-v1", {"id": "FrankaKitchen-v1", "kwargs": alike})
    assert counts_as_scored("AdroitHandDoor-v1", None)
    assert counts_as_scored("of_a_module:that-is-not-here-v0", {"id": "Door"})
