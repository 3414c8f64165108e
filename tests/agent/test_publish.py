"""Publication: versions only grow, a version on the board can be opened, weights that are not finite stay inside."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from agent import latest_policy, publish
from agent.algorithms.iql import IQL
from agent.board import Board, Slot
from agent.errors import DivergenceError
from agent.latest_policy import LatestPolicy
from agent.policy_contract import make_contract
from agent.preparation import Preparation
from agent.publish import KEEP, PolicyRefusedError, Publisher, policy_path, published_versions
from export.contract import Contract
from export.errors import ExportError
from export.onnx_writer import export_policy
from export.policy import read_policy
from export.runner import PolicyRunner
from export.template import Template
from replay.schema import StoreSpec
from tests.agent.learners import ACTIONS, OBSERVATIONS, learn, make_learner


@pytest.fixture(scope="module")
def contract() -> Contract:
    terms = [{"name": "observation", "offset": 0, "length": OBSERVATIONS, "dtype": "float32"}]
    spec = StoreSpec.from_terms(terms, [-1.0] * ACTIONS, [1.0] * ACTIONS)
    preparation = Preparation(
        mean=np.zeros(OBSERVATIONS, np.float32), std=np.ones(OBSERVATIONS, np.float32), clip=10.0, count=1,
        action_low=np.float32(spec.action_low), action_high=np.float32(spec.action_high),
        reward_scale=1.0, reward_shift=0.0, discount=0.99,
    )  # fmt: skip
    return make_contract(spec, preparation, run="test", algorithm="iql", env=None)


@pytest.fixture(scope="module")
def template(contract: Contract) -> Template:
    actor = make_learner().actor
    return Template.from_bytes(export_policy(actor.trunk, log_std=actor.clamped_log_std(), contract=contract))


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path / "board.bin")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "policies").mkdir()
    return tmp_path / "policies"


@pytest.fixture
def publisher(folder: Path, board: Board, template: Template, contract: Contract) -> Publisher:
    return Publisher(folder, board, template, contract, version=0)


@pytest.fixture
def algorithm() -> IQL:
    return make_learner(seed=4)


def test_what_is_published_acts_as_the_actor_does(publisher: Publisher, board: Board, algorithm: IQL) -> None:
    rng = np.random.default_rng(0)
    for version in (1, 2, 3):
        learn(algorithm, rng, 5)
        path = publisher.publish(algorithm.actor.exported_weights(), step=algorithm.updates)
        runner = PolicyRunner(path)
        assert (runner.contract.policy_version, runner.contract.step) == (version, algorithm.updates)
        observations = rng.normal(size=(50, OBSERVATIONS)).astype(np.float32)
        with torch.no_grad():
            expected = torch.tanh(algorithm.actor(torch.from_numpy(observations))).numpy()
        np.testing.assert_allclose(runner.act(observations), expected, atol=1e-6)
        assert board[Slot.POLICY_VERSION] == version
        assert (path.parent / "LATEST").read_text().strip() == path.name


def test_versions_go_on_growing_after_a_restart_and_after_a_rollback(
    folder: Path, board: Board, template: Template, contract: Contract, algorithm: IQL
) -> None:
    weights = algorithm.actor.exported_weights()
    first = Publisher(folder, board, template, contract, version=0)
    for _ in range(3):
        first.publish(weights, step=1)
    # The checkpoint that the learner restarts from knew of version 1 only; collectors have acted with 3.
    rolled_back = Publisher(folder, board, template, contract, version=1)
    assert rolled_back.publish(weights, step=1) == policy_path(folder, 4)
    # The folder was lost, the checkpoint knows better.
    assert Publisher(folder, board, template, contract, version=70).publish(weights, step=1) == policy_path(folder, 71)
    assert published_versions(folder) == [1, 2, 3, 4, 71]


def test_versions_grow_past_six_digits(
    folder: Path, board: Board, template: Template, contract: Contract, algorithm: IQL
) -> None:
    weights = algorithm.actor.exported_weights()
    Publisher(folder, board, template, contract, version=999_998).publish(weights, step=1)
    for version in (1_000_000, 1_000_001):
        restarted = Publisher(folder, board, template, contract, version=0)
        assert restarted.publish(weights, step=1) == policy_path(folder, version)
    assert published_versions(folder) == [999_999, 1_000_000, 1_000_001]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["log_std", "network.layers.2.weight"])
def test_weights_that_are_not_finite_are_refused_and_nothing_is_written(
    name: str, value: float, publisher: Publisher, folder: Path, board: Board, algorithm: IQL
) -> None:
    publisher.publish(algorithm.actor.exported_weights(), step=1)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    weights = {key: array.copy() for key, array in algorithm.actor.exported_weights().items()}
    weights[name].flat[-1] = value
    with pytest.raises(DivergenceError, match=rf"policy weight {name} is not finite after 17 updates") as raised:
        publisher.publish(weights, step=17)
    assert "\n" not in str(raised.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert board[Slot.POLICY_VERSION] == 1
    assert publisher.publish(algorithm.actor.exported_weights(), step=18) == policy_path(folder, 2)


def test_a_policy_that_acts_nan_is_never_published_though_its_weights_are_finite(
    folder: Path, board: Board, template: Template, contract: Contract, algorithm: IQL
) -> None:
    probe = np.random.default_rng(0).normal(size=(8, OBSERVATIONS)).astype(np.float32)
    publisher = Publisher(folder, board, template, contract, version=0, probe=probe)
    publisher.publish(algorithm.actor.exported_weights(), step=1)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    weights = {key: array.copy() for key, array in algorithm.actor.exported_weights().items()}
    for name in weights:
        if name.endswith("weight"):
            weights[name][:] = 3e38 * np.sign(weights[name])  # products overflow, and infinities of both signs meet
    with pytest.raises(PolicyRefusedError, match=r"after 17 updates gives NaN or infinity in 8 of 8 observations"):
        publisher.publish(weights, step=17)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert board[Slot.POLICY_VERSION] == 1
    assert publisher.publish(algorithm.actor.exported_weights(), step=18) == policy_path(folder, 2)


def test_the_first_and_the_newest_versions_are_kept(publisher: Publisher, folder: Path, algorithm: IQL) -> None:
    weights = algorithm.actor.exported_weights()
    for _ in range(KEEP + 7):
        publisher.publish(weights, step=1)
    assert published_versions(folder) == [1, *range(8, KEEP + 8)]
    assert len(list(folder.iterdir())) == 2 * (KEEP + 1) + 2  # a file and a checksum each, and LATEST with its spare


@pytest.mark.parametrize("scored", [1, 5])
def test_the_version_scored_last_is_kept_too(
    publisher: Publisher, folder: Path, board: Board, algorithm: IQL, scored: int
) -> None:
    board[Slot.SCORED_VERSION] = scored
    for _ in range(3 * KEEP):
        publisher.publish(algorithm.actor.exported_weights(), step=1)
    kept = published_versions(folder)
    assert kept[: 1 + (scored > 1)] == sorted({1, scored})
    assert (len(kept), kept[-1]) == (1 + KEEP, 3 * KEEP)
    board[Slot.SCORED_VERSION] = 3 * KEEP
    publisher.publish(algorithm.actor.exported_weights(), step=1)
    assert published_versions(folder) == [1, *range(2 * KEEP + 2, 3 * KEEP + 2)]


def test_a_reader_that_stood_still_past_a_version_s_end_takes_the_newest(
    publisher: Publisher, folder: Path, board: Board, algorithm: IQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = algorithm.actor.exported_weights()
    for _ in range(2):
        publisher.publish(weights, step=1)

    def stand_still(path: Path) -> PolicyRunner:
        if path == policy_path(folder, 2):
            for _ in range(KEEP + 1):
                publisher.publish(weights, step=2)
        return PolicyRunner(path)

    monkeypatch.setattr(latest_policy, "PolicyRunner", stand_still)
    policy = LatestPolicy(folder, board, noise=1.0, rng=np.random.default_rng(0))
    assert policy.newest().version == KEEP + 3
    policy_path(folder, KEEP + 3).unlink()  # while the board names it: no such thing happens to it by itself
    with pytest.raises(ExportError, match="no such policy"):
        LatestPolicy(folder, board, noise=1.0, rng=np.random.default_rng(0)).newest()


def test_a_death_before_the_board_is_told_costs_a_number_not_a_version(
    publisher: Publisher, folder: Path, board: Board, template: Template, contract: Contract, algorithm: IQL,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    weights = algorithm.actor.exported_weights()
    publisher.publish(weights, step=1)

    def die(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(publish.SwappedFile, "write", die)
        with pytest.raises(KeyboardInterrupt):
            publisher.publish(weights, step=2)
    assert board[Slot.POLICY_VERSION] == 1
    assert (folder / "LATEST").read_text().strip() == "v000001.onnx"
    restarted = Publisher(folder, board, template, contract, version=0)
    assert restarted.publish(weights, step=3) == policy_path(folder, 3)


def test_a_file_without_its_checksum_is_no_published_version(folder: Path) -> None:
    policy_path(folder, 3).write_bytes(b"half")
    (folder / "vector.onnx").write_bytes(b"")
    (folder / "v12x.onnx").write_bytes(b"")
    assert published_versions(folder) == []


def test_a_reader_can_always_open_the_version_on_the_board(
    publisher: Publisher, folder: Path, board: Board, algorithm: IQL
) -> None:
    weights = algorithm.actor.exported_weights()
    publisher.publish(weights, step=1)
    seen: list[int] = []
    failures: list[Exception] = []
    finished = threading.Event()

    def read() -> None:
        while not finished.is_set():
            version = board[Slot.POLICY_VERSION]
            try:
                seen.append(read_policy(policy_path(folder, version)).contract.policy_version)
                assert seen[-1] == version
            except ExportError as error:
                # Kept from running for KEEP versions, it may find its own gone: no promise holds any more.
                if board[Slot.POLICY_VERSION] - version < publish.KEEP:
                    failures.append(error)
                    return
            except Exception as error:  # noqa: BLE001 - whatever it is fails the test, in the main thread
                failures.append(error)
                return

    reader = threading.Thread(target=read)
    reader.start()
    for step in range(100):
        publisher.publish(weights, step=step)
    finished.set()
    reader.join()
    assert failures == []
    assert seen == sorted(seen)
    assert len(set(seen)) > 3
