"""A learner's state is all that its next update depends on: saved and loaded it goes on bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agent import checkpoint
from agent.algorithms.iql import IQL
from agent.errors import CheckpointError
from agent.feeding import AHEAD, Feed
from agent.preparation import make_preparation
from agent.pretraining import pretrain
from agent.transitions import Preparer
from replay.schema import StoreSpec
from replay.statistics import observation_moments
from replay.store import Store
from tests.agent.learners import ACTIONS, OBSERVATIONS, digest, learn, make_learner, random_transitions

# Dropout draws from the learner's generator, so its place in the stream is part of the state.
CHANGES: dict[str, Any] = {"dropout": 0.1, "critic_layer_norm": True}


def saved(algorithm: IQL, folder: Path, **more: Any) -> None:
    state = algorithm.state_dict()
    checkpoint.save(folder, algorithm.updates, state["tensors"], {"numbers": state["numbers"], **more}, keep=3)


def restored(folder: Path, **changes: Any) -> tuple[IQL, checkpoint.Checkpoint]:
    """Another learner, of another seed, that has loaded what the folder holds."""
    found = checkpoint.load_latest(folder, on_fallback=pytest.fail)
    assert found is not None
    algorithm = make_learner(seed=99, offline_steps=1, **changes)
    algorithm.load_state_dict({"tensors": found.tensors, "numbers": found.state["numbers"]})
    return algorithm, found


@pytest.mark.parametrize("first", [0, 1, 13, 25])
def test_a_saved_and_loaded_learner_goes_on_bit_for_bit(first: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    batches = [random_transitions(rng) for _ in range(30)]

    whole = make_learner(offline_steps=20, **CHANGES)
    for batch in batches:
        whole.update(batch)

    before = make_learner(offline_steps=20, **CHANGES)
    for batch in batches[:first]:
        before.update(batch)
    saved(before, tmp_path)
    after, _ = restored(tmp_path, **CHANGES)
    assert digest(after) == digest(before)
    for batch in batches[first:]:
        after.update(batch)
    assert digest(after) == digest(whole)


def test_a_saved_state_does_not_move_with_the_learner(tmp_path: Path) -> None:
    algorithm, rng = make_learner(), np.random.default_rng(0)
    learn(algorithm, rng, 3)
    at_save = digest(algorithm)
    saved(algorithm, tmp_path)
    learn(algorithm, rng, 3)
    assert digest(restored(tmp_path)[0]) == at_save != digest(algorithm)


def test_everything_that_the_next_update_reads_is_in_the_digest() -> None:
    # The negative control of the tests above: each part of the state, disturbed alone, changes the hash.
    algorithm = make_learner(**CHANGES)
    learn(algorithm, np.random.default_rng(0), 3)
    undisturbed = digest(algorithm)
    names = set(algorithm.state_dict()["tensors"])
    for part in ("actor.", "critic.", "target_critic.", "value.", "generator"):
        assert any(name.startswith(part) for name in names), part
    assert sum("adam" in name or "optimizer" in name for name in names) > 20
    algorithm.generator.manual_seed(5)
    disturbed = digest(algorithm)
    assert disturbed != undisturbed
    for name, tensor in algorithm.state_dict()["tensors"].items():
        if name != "generator":
            with torch.no_grad():
                tensor += 1.0
            assert digest(algorithm) != disturbed, name
            disturbed = digest(algorithm)


@pytest.mark.parametrize("damage", ["missing", "extra", "misshapen"])
@pytest.mark.parametrize("part", ["actor.log_std", "value.layers.0.weight", "target_critic.biases.1", "moments"])
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(damage: str, part: str) -> None:
    donor, algorithm = make_learner(seed=1), make_learner(seed=0)
    learn(donor, np.random.default_rng(1), 2)
    learn(algorithm, np.random.default_rng(0), 2)
    before = digest(algorithm)
    state = donor.state_dict()
    tensors = dict(state["tensors"])
    name = next(n for n in sorted(tensors) if "adam" in n or "optimizer" in n) if part == "moments" else part
    if damage == "missing":
        del tensors[name]
    elif damage == "extra":
        name = f"{name}.more"
        tensors[name] = torch.zeros(3)
    else:
        tensors[name] = torch.zeros(7, 7)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")) as raised:
        algorithm.load_state_dict({"tensors": tensors, "numbers": state["numbers"]})
    assert "\n" not in str(raised.value)
    assert digest(algorithm) == before


@pytest.mark.parametrize("changes", [{"hidden": (16, 17)}, {"critics": 3}, {"critic_layer_norm": True}])
def test_a_state_of_another_configuration_is_refused(changes: dict[str, Any]) -> None:
    algorithm = make_learner()
    before = digest(algorithm)
    with pytest.raises(CheckpointError, match="resume with the configuration"):
        algorithm.load_state_dict(make_learner(**changes).state_dict())
    assert digest(algorithm) == before


def test_different_seeds_give_different_learners() -> None:
    assert digest(make_learner(seed=0)) != digest(make_learner(seed=1))


# --- with the store, sampler and preparation that feed it -------------------------------------------------------------


def make_store(path: Path) -> Store:
    terms = [{"name": "observation", "offset": 0, "length": OBSERVATIONS, "dtype": "float32"}]
    store = Store.create(path, StoreSpec.from_terms(terms, [-1.0] * ACTIONS, [1.0] * ACTIONS), chunk_rows=64)
    rng = np.random.default_rng(0)
    with store.writer("data", durability="process") as writer:
        for episode in range(10):
            writer.append_episode(
                rng.normal(size=(21, OBSERVATIONS)), rng.uniform(-1, 1, (20, ACTIONS)), rng.normal(size=20),
                terminated=episode % 2 == 0, truncated=episode % 2 == 1, info=None,
            )  # fmt: skip
    return store


def train(
    path: Path, *, seed: int, updates: int, stop_at: int | None = None, folder: Path | None = None,
    ahead: int = AHEAD,
) -> IQL:  # fmt: skip
    """Pretrain from the store at `path`; through a checkpoint and a second process's worth of objects at `stop_at`."""
    store = Store.open(path)
    spec = store.spec
    preparation = make_preparation(
        moments=observation_moments(store.reader()),
        action_low=np.asarray(spec.action_low), action_high=np.asarray(spec.action_high),
        normalize=True, clip=10.0, reward_scale=1.0, reward_shift=0.0, discount=0.99,
    )  # fmt: skip
    prepare = Preparer(preparation, torch.device("cpu"))

    fed: list[dict[str, Any]] = []

    def go(algorithm: IQL, sampler: Any, until: int) -> None:
        with Feed(sampler, prepare, ahead=ahead) as feed:
            assert pretrain(algorithm, feed, steps=until, stopping=lambda: False, after_update=lambda result: None)
            fed.append(feed.state_dict())

    algorithm, sampler = make_learner(seed=seed, **CHANGES), store.sampler(32, rng=np.random.default_rng(seed))
    if stop_at is not None:
        assert folder is not None
        go(algorithm, sampler, stop_at)
        saved(algorithm, folder, sampler=fed[-1])
        algorithm, found = restored(folder, **CHANGES)
        sampler = Store.open(path).sampler(32, rng=np.random.default_rng(12345))
        sampler.load_state_dict(found.state["sampler"])
    go(algorithm, sampler, updates)
    return algorithm


def test_a_resumed_run_draws_the_batches_that_the_whole_run_drew(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    whole = train(tmp_path / "store", seed=0, updates=60)
    resumed = train(tmp_path / "store", seed=0, updates=60, stop_at=23, folder=tmp_path / "checkpoints")
    assert digest(resumed) == digest(whole)


def test_two_processes_with_one_seed_end_with_the_same_bits(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    program = (
        "import sys; from pathlib import Path; import tests.agent.test_learner_state as t; "
        "print(t.digest(t.train(Path(sys.argv[1]), seed=7, updates=1000)))"
    )

    other_process = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "store")],
        cwd=Path(__file__).parents[2], env={**os.environ, "PYTHONHASHSEED": "12345"},
        capture_output=True, text=True, check=True, timeout=120,
    ).stdout.strip()  # fmt: skip
    assert other_process == digest(train(tmp_path / "store", seed=7, updates=1000))
