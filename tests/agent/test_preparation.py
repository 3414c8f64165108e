"""One frozen view of the data: what the learner sees is what the exported graph computes, and it survives its file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from agent.errors import ConfigError
from agent.policy_contract import make_contract
from agent.preparation import Preparation, make_preparation
from agent.transitions import Preparer
from export.onnx_writer import export_policy
from export.runner import PolicyRunner
from replay.sampler import Batch, UniformSampler
from replay.schema import StoreSpec
from replay.statistics import observation_moments
from replay.store import Store
from tests.agent.learners import ACTIONS, OBSERVATIONS, make_learner

LOW, HIGH = [-2.0, 0.1], [0.5, 0.3]
CONSTANT = 3  # the observation that never moves in the data
SPEC = StoreSpec.from_terms(
    [{"name": "observation", "offset": 0, "length": OBSERVATIONS, "dtype": "float64"}], LOW, HIGH
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Thirty steps of random data, one observation constant."""
    rng = np.random.default_rng(0)
    store = Store.create(tmp_path / "store", SPEC, chunk_rows=8)
    observations = rng.normal(5.0, 3.0, (31, OBSERVATIONS))
    observations[:, CONSTANT] = 7.0
    with store.writer("data", durability="process") as writer:
        actions = rng.uniform(LOW, HIGH, (30, ACTIONS))
        writer.append_episode(observations, actions, rng.normal(size=30), terminated=False, truncated=True, info=None)
    return store


@pytest.fixture
def preparation(store: Store) -> Preparation:
    return prepared(store)


def prepared(store: Store, *, normalize: bool = True) -> Preparation:
    return make_preparation(
        moments=observation_moments(store.reader()),
        action_low=np.asarray(SPEC.action_low),
        action_high=np.asarray(SPEC.action_high),
        normalize=normalize,
        clip=10.0,
        reward_scale=0.5,
        reward_shift=-1.0,
        discount=0.99,
    )


def rows_of(observations: np.ndarray, actions: np.ndarray, rewards: np.ndarray) -> Batch:
    batch = Batch(np.zeros((len(observations), 2 * SPEC.row_width), np.float32), SPEC)
    batch.observations[:], batch.actions[:], batch.rewards[:] = observations, actions, rewards
    return batch


@pytest.mark.parametrize("normalize", [True, False])
def test_the_exported_policy_acts_as_the_trained_actor_on_the_learners_own_view(store: Store, normalize: bool) -> None:
    preparation = prepared(store, normalize=normalize)
    algorithm = make_learner(seed=3, dropout=0.1)
    contract = make_contract(SPEC, preparation, run="test", algorithm="iql", env=None)
    actor = algorithm.actor
    runner = PolicyRunner(export_policy(actor.trunk, log_std=actor.clamped_log_std(), contract=contract))

    rng = np.random.default_rng(1)
    ordinary = rng.normal(5.0, 3.0, (500, OBSERVATIONS))
    extreme = rng.choice([-1e6, -20.0, 0.0, 7.0, 7.001, 1e6] if normalize else [-50.0, 0.0, 50.0], (500, OBSERVATIONS))
    observations = np.concatenate([ordinary, extreme]).astype(np.float32)
    seen = Preparer(preparation, torch.device("cpu"))(rows_of(observations, np.zeros((1000, ACTIONS)), np.zeros(1000)))
    with torch.no_grad():
        unit = torch.tanh(actor.eval()(seen.observation)).numpy()
    low, high = np.float32(LOW), np.float32(HIGH)
    expected = unit * (high - low) / 2 + (high + low) / 2
    np.testing.assert_allclose(runner.act(observations), expected, atol=2e-6 if normalize else 2e-5)
    assert np.std(expected, axis=0).min() > 1e-3  # the policy is not constant


def test_normalised_data_has_mean_zero_and_deviation_one(store: Store, preparation: Preparation) -> None:
    episode = next(iter(store.episodes()))
    x = (episode.observations[:-1] - preparation.mean) / preparation.std
    moving = np.arange(OBSERVATIONS) != CONSTANT
    np.testing.assert_allclose(x.mean(axis=0), 0.0, atol=1e-5)
    np.testing.assert_allclose(x.std(axis=0)[moving], 1.0, atol=1e-5)


def test_a_dimension_that_never_moved_offline_stays_within_the_clip_online(preparation: Preparation) -> None:
    assert preparation.std[CONSTANT] == np.float32(1e-3)
    observations = np.tile(preparation.mean, (3, 1))
    observations[:, CONSTANT] = [7.0, 7.005, 1e9]
    seen = Preparer(preparation, torch.device("cpu"))(rows_of(observations, np.zeros((3, ACTIONS)), np.zeros(3)))
    # float32 resolves 7.005 to 5e-7, a two-thousandth of the floor.
    assert seen.observation[:, CONSTANT].tolist() == pytest.approx([0.0, 5.0, 10.0], abs=1e-3)


def test_without_normalisation_observations_pass_unchanged_however_large(store: Store) -> None:
    plain = prepared(store, normalize=False)
    observations = np.float32([[1.0, -2.0, 3e6, 7.0, -1e4]])
    seen = Preparer(plain, torch.device("cpu"))(rows_of(observations, np.zeros((1, ACTIONS)), np.zeros(1)))
    assert seen.observation.tolist() == observations.tolist()


def test_actions_are_scaled_so_that_the_bounds_are_one_and_back(preparation: Preparation) -> None:
    rng = np.random.default_rng(2)
    low, high = np.float32(LOW), np.float32(HIGH)
    actions = np.concatenate([[low, high], rng.uniform(low, high, (50, ACTIONS))]).astype(np.float32)
    zeros = np.zeros((len(actions), OBSERVATIONS))
    unit = Preparer(preparation, torch.device("cpu"))(rows_of(zeros, actions, np.zeros(len(actions)))).action.numpy()
    np.testing.assert_allclose(unit[:2], [[-1.0, -1.0], [1.0, 1.0]], atol=1e-6)
    np.testing.assert_allclose(unit * (high - low) / 2 + (high + low) / 2, actions, atol=1e-6)
    assert np.abs(unit).max() <= 1.0


def test_rewards_are_scaled_then_shifted(preparation: Preparation) -> None:
    rewards = np.float32([0.0, 1.0, -4.0])
    batch = rows_of(np.zeros((3, OBSERVATIONS)), np.zeros((3, ACTIONS)), rewards)
    assert Preparer(preparation, torch.device("cpu"))(batch).reward.tolist() == [-1.0, -0.5, -3.0]


def test_a_prepared_batch_outlives_the_samplers_buffer(store: Store, preparation: Preparation) -> None:
    sampler = UniformSampler(store.reader(), 16, rng=np.random.default_rng(0))
    transitions = Preparer(preparation, torch.device("cpu"))(sampler.next())
    filled = {name: tensor for name, tensor in vars(transitions).items() if tensor is not None}
    before = {name: tensor.clone() for name, tensor in filled.items()}
    sampler.next()
    assert len(filled) == 5
    assert all(torch.equal(filled[name], tensor) for name, tensor in before.items())


def test_the_file_gives_back_the_very_same_numbers(preparation: Preparation) -> None:
    again = Preparation.from_json(json.loads(json.dumps(preparation.to_json())))
    for name in preparation.__dataclass_fields__:
        ours, read = getattr(preparation, name), getattr(again, name)
        if isinstance(ours, np.ndarray):
            assert read.dtype == ours.dtype
            assert read.tobytes() == ours.tobytes()
        else:
            assert (type(read), read) == (type(ours), ours)


def test_a_file_with_a_missing_or_foreign_entry_is_refused(preparation: Preparation) -> None:
    plain = preparation.to_json()
    with pytest.raises(TypeError, match="reward_shift"):
        Preparation.from_json({k: v for k, v in plain.items() if k != "reward_shift"})
    with pytest.raises(TypeError, match="surprise"):
        Preparation.from_json({**plain, "surprise": 1})


@pytest.mark.parametrize("high", [-2.0, -3.0, float("nan")])
def test_bounds_that_leave_no_room_are_refused_by_dimension(store: Store, high: float) -> None:
    with pytest.raises(ConfigError, match=r"action dimension 1 has low -2\.0 and high .*correct the store"):
        make_preparation(
            moments=observation_moments(store.reader()),
            action_low=np.array([-1.0, -2.0]),
            action_high=np.array([1.0, high]),
            normalize=True,
            clip=10.0,
            reward_scale=1.0,
            reward_shift=0.0,
            discount=0.99,
        )
