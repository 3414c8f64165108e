"""The wrapper: flattening like Gymnasium's, fresh buffers, safe actions, and a fault for everything that goes wrong."""

from __future__ import annotations

import pickle
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.errors import EnvError, EnvFault
from envs.make import describe, make_env
from envs.wrappers import Flattener

FAULTY = "tests.envs.faulty:Faulty-v0"

_LEAVES = st.one_of(
    st.lists(st.integers(0, 3), min_size=0, max_size=3).map(lambda shape: spaces.Box(-1.0, 1.0, shape[:2], np.float64)),
    st.integers(1, 5).map(lambda n: spaces.Box(-1.0, 1.0, (n,), np.float32)),
    st.integers(1, 5).map(lambda n: spaces.Discrete(n, start=2)),
    st.lists(st.integers(1, 4), min_size=1, max_size=3).map(spaces.MultiDiscrete),
    st.integers(1, 4).map(spaces.MultiBinary),
)
_SPACES = st.recursive(
    _LEAVES,
    lambda children: st.one_of(
        st.dictionaries(st.text("abz", min_size=1, max_size=3), children, min_size=1, max_size=3).map(spaces.Dict),
        st.lists(children, min_size=1, max_size=3).map(spaces.Tuple),
    ),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(_SPACES, st.integers(0, 1000))
def test_flattening_equals_gymnasium_on_any_nested_space(space: spaces.Space[Any], seed: int) -> None:
    if spaces.flatdim(space) == 0:
        with pytest.raises(EnvError, match="empty"):
            Flattener(space, "any")
        return
    space.seed(seed)
    sample = space.sample()
    flattener = Flattener(space, "any")
    expected = np.asarray(spaces.flatten(space, sample)).astype(np.float32)
    np.testing.assert_array_equal(flattener(sample), expected)
    assert sum(term["length"] for term in flattener.terms()) == expected.size
    names = [term["name"] for term in flattener.terms()]
    assert len(set(names)) == len(names)


def test_observations_are_never_aliased() -> None:
    env = make_env(FAULTY)
    seen = [env.reset()[0]]
    seen += [env.step(np.zeros(2))[0] for _ in range(4)]
    np.testing.assert_array_equal([row[0] for row in seen], [0, 1, 2, 3, 4])
    assert not any(np.shares_memory(a, b) for i, a in enumerate(seen) for b in seen[:i])


def test_the_description_is_plain_data_that_rebuilds_the_environment() -> None:
    env = make_env(FAULTY, kwargs={"at": 9}, max_episode_steps=5)
    layout = describe(env)
    assert layout["observation"] == [{"name": "observation", "offset": 0, "length": 3, "dtype": "float64"}]
    assert layout["action_low"] == [-2.0, float(np.float32(-0.1))]
    assert layout["action_high"] == [2.0, float(np.float32(0.3))]
    assert layout["env"] == {"id": FAULTY, "kwargs": {"at": 9}, "max_episode_steps": 5}
    spec = layout["env"]
    again = make_env(spec["id"], kwargs=spec["kwargs"], max_episode_steps=spec["max_episode_steps"])
    assert describe(again) == layout


def test_finite_actions_are_clipped_into_the_bounds_in_a_fresh_array_of_the_environments_dtype() -> None:
    env = make_env(FAULTY)
    env.reset()
    action = np.array([5.0, -5.0], np.float32)
    env.step(action)
    env.step([0.5, 0.3])
    first, second = env.unwrapped.actions
    assert first.dtype == np.float64
    np.testing.assert_array_equal(first, [2.0, -0.1])
    np.testing.assert_array_equal(second, [0.5, 0.3])
    np.testing.assert_array_equal(action, np.array([5.0, -5.0], np.float32))
    assert first in env.unwrapped.action_space


def test_an_action_given_in_float32_bounds_stays_inside_float64_bounds() -> None:
    env = make_env(FAULTY)
    env.reset()
    env.step(env.action_high)
    assert env.unwrapped.actions[0] in env.unwrapped.action_space


def test_matrix_actions_are_driven_by_a_flat_vector() -> None:
    env = make_env(FAULTY, kwargs={"action_space": "matrix"})
    env.reset()
    env.step(np.arange(6) / 10)
    np.testing.assert_allclose(env.unwrapped.actions[0], np.arange(6).reshape(2, 3) / 10, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_action_that_is_not_finite_is_refused_and_the_episode_goes_on(bad: float) -> None:
    env = make_env(FAULTY)
    env.reset()
    with pytest.raises(EnvError, match="action is not finite") as caught:
        env.step(np.array([0.0, bad]))
    assert not isinstance(caught.value, EnvFault)
    assert env.step(np.zeros(2))[0][0] == 1.0


def test_an_action_of_the_wrong_size_is_refused() -> None:
    env = make_env(FAULTY)
    env.reset()
    with pytest.raises(EnvError, match=r"shape \(3,\) instead of \(2,\)"):
        env.step(np.zeros(3))


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        ("raise", "RuntimeError: the gripper fell off"),
        ("nan", r"observation 'observation'\[1\] is nan"),
        ("inf", r"observation 'observation'\[2\] is -inf"),
        ("too large", r"observation 'observation'\[0\] is inf"),
        ("shape", r"shape \(4,\) instead of \(3,\)"),
        ("reward", "reward is nan"),
        ("large reward", r"reward is 1e\+39"),
        ("figure", "info figure is nan"),
        ("word", "ValueError: could not convert string to float"),
    ],
)
def test_whatever_the_environment_does_wrong_is_a_fault_naming_it_and_the_step(fault: str, what: str) -> None:
    env = make_env(FAULTY, kwargs={"fault": fault, "at": 3})
    env.columns = ("figure", "absent")
    env.reset()
    env.step(np.zeros(2))
    env.step(np.zeros(2))
    with pytest.raises(EnvFault, match=what) as caught:
        env.step(np.zeros(2))
    assert (caught.value.env_id, caught.value.step) == (FAULTY, 3)
    assert FAULTY in str(caught.value) and "step 3" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(EnvError, match="call reset"):
        env.step(np.zeros(2))
    assert env.reset()[0][0] == 0.0


def test_a_fault_at_reset_says_so_and_crosses_process_boundaries() -> None:
    env = make_env(FAULTY, kwargs={"fault": "raise at reset"})
    with pytest.raises(EnvFault, match=r"failed at reset.*no contact with the robot") as caught:
        env.reset()
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (type(copy), str(copy), copy.step) == (EnvFault, str(caught.value), 0)


def test_large_but_finite_observations_are_no_fault() -> None:
    space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    np.testing.assert_array_equal(Flattener(space, "any")(np.array([3e38, -3e38])), np.array([3e38, -3e38], np.float32))


def test_a_simulation_that_blows_up_is_a_fault_although_mujoco_resets_it_silently(
    tmp_path, monkeypatch, caplog
) -> None:
    monkeypatch.chdir(tmp_path)
    env = make_env("Hopper-v5")
    env.reset(seed=0)
    for _ in range(3):
        env.step(np.zeros(3))
    env.unwrapped.data.qvel[:] = 1e12
    with pytest.raises(EnvFault, match="unstable"):
        env.step(np.zeros(3))
    assert "unstable" in caplog.text
    assert not list(tmp_path.iterdir()), "MuJoCo would write MUJOCO_LOG.TXT into the working directory"


def test_the_time_limit_does_not_hide_a_termination_in_the_same_step() -> None:
    env = make_env(FAULTY, kwargs={"terminate_at": 4}, max_episode_steps=4)
    env.reset()
    ends = [env.step(np.zeros(2))[2:4] for _ in range(4)]
    assert ends[-1] == (True, True) and ends[:-1] == [(False, False)] * 3


def test_stepping_before_reset_or_after_the_end_is_refused() -> None:
    env = make_env(FAULTY, max_episode_steps=1)
    with pytest.raises(EnvError, match="call reset"):
        env.step(np.zeros(2))
    env.reset()
    env.step(np.zeros(2))
    with pytest.raises(EnvError, match="call reset"):
        env.step(np.zeros(2))


@pytest.mark.parametrize(
    ("kwargs", "why"),
    [
        ({"action_space": "discrete"}, "discrete"),
        ({"action_space": "integer"}, "only continuous"),
        ({"action_space": "unbounded"}, "bounds are not finite"),
        ({"observation_space": "image"}, "image of shape"),
        ({"observation_space": "nested image"}, "'camera' is an image"),
        ({"observation_space": "text"}, "'note' is a Text"),
        ({"observation_space": "empty"}, "empty"),
        ({"no_such_argument": 1}, "no_such_argument"),
    ],
)
def test_what_we_cannot_drive_is_refused_at_construction_in_one_line(kwargs: dict[str, Any], why: str) -> None:
    with pytest.raises(EnvError, match=why) as caught:
        make_env(FAULTY, kwargs=kwargs)
    assert "Faulty-v0" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_discrete_task_of_gymnasium_is_refused() -> None:
    with pytest.raises(EnvError, match="CartPole-v1: actions are Discrete"):
        make_env("CartPole-v1")


def test_a_time_limit_below_one_is_refused() -> None:
    with pytest.raises(EnvError, match="at least 1"):
        make_env(FAULTY, max_episode_steps=0)


def test_arguments_that_are_no_json_are_refused_when_described() -> None:
    env = make_env(FAULTY, kwargs={"at": 3})
    env.kwargs["at"] = object()
    with pytest.raises(EnvError, match="JSON"):
        describe(env)


def test_it_is_a_gymnasium_environment() -> None:
    env = make_env(FAULTY)
    assert isinstance(env, gymnasium.Env)
    assert env.reset(seed=1)[0] in env.observation_space
    assert env.step(env.action_space.sample())[4] == {"note": "kept", "figure": 0.5}
