"""Vectorised collection on real environments: final observations, whole episodes, faults that stay in their lane."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agent.board import Board, CollectorSlot, Pause, Slot
from agent.collection import Collection, Lane, collect
from agent.collector import steps_of_idle_streams, stream_name
from agent.env_child import EnvSpec
from agent.env_process import EnvHung, EnvProcess, EnvServer
from agent.files import read_lines
from agent.full_disk import DiskPatience
from agent.incidents import Incidents
from agent.latest_policy import ActingPolicy, LatestPolicy
from agent.publish import Publisher, policy_path
from agent.rhythm import Rhythm
from agent.run_directory import RunDirectory
from envs.errors import EnvFault
from export.contract_parts import ActionSpec, Normalizer, ObservationTerm
from export.onnx_writer import export_policy
from export.runner import PolicyRunner
from export.template import Template
from replay.schema import StoreSpec
from replay.store import Store
from replay.verify import verify
from tests.export.policies import make_contract
from tests.faults.faulty_cart import TIME_LIMIT
from tests.faults.test_full_disk_training import fill
from tests.small_disk import mounted

CART = EnvSpec(
    id="tests.faults.faulty_cart:SoundCart-v0", kwargs={}, max_episode_steps=None,
    observation_size=4, action_size=1, columns=(),
)  # fmt: skip
ENVS = 3


@pytest.fixture(scope="module")
def server() -> Iterator[EnvServer]:
    with EnvServer() as server:
        yield server


@pytest.fixture(scope="module")
def template() -> Template:
    """A stochastic linear policy."""
    contract = make_contract(
        observation=(ObservationTerm(name="observation", offset=0, length=4),),
        normalizer=Normalizer(mean=(0.0,) * 4, std=(1.0,) * 4, clip=10.0, count=1),
        action=ActionSpec(low=(-1.0,), high=(1.0,)),
        stochastic=True,
    )
    log_std = torch.full((1,), -1.0)
    return Template.from_bytes(export_policy(torch.nn.Linear(4, 1), log_std=log_std, contract=contract))


@pytest.fixture
def board(tmp_path: Path, template: Template) -> Board:
    """With the policy published as version 1."""
    board = Board(tmp_path / "board.bin")
    (tmp_path / "policies").mkdir()
    publisher = Publisher(tmp_path / "policies", board, template, template.contract, version=0)
    publisher.publish({name: template.weight(name) for name in template.weight_names}, step=1)
    return board


@pytest.fixture
def store(tmp_path: Path) -> Store:
    terms = [{"name": "observation", "offset": 0, "length": 4, "dtype": "float64"}]
    return Store.create(tmp_path / "online.zarr", StoreSpec.from_terms(terms, [-1.0], [1.0]), chunk_rows=4096)


@contextlib.contextmanager
def collection(
    server: EnvServer,
    store: Store,
    board: Board,
    policies: Path,
    *,
    envs: int = ENVS,
    deadline: float = 5.0,
    patiently: Callable[[Callable[[], object]], object] = lambda write: write(),
    **swap: Any,
) -> Iterator[tuple[Collection, list[Lane], list[EnvFault]]]:
    faults: list[EnvFault] = []
    rng = np.random.default_rng(0)
    with contextlib.ExitStack() as stack:
        lanes = []
        for index in range(envs):
            env = EnvProcess(server, CART, deadline_seconds=deadline)
            stack.callback(env.close)
            writer = stack.enter_context(store.writer(stream_name(0, index), durability="process"))
            lanes.append(Lane(env=env, writer=writer, row=index))
        policy = LatestPolicy(policies, board, noise=1.0, rng=rng, **swap)
        yield (
            Collection(lanes, policy, on_fault=faults.append, patiently=patiently, slots=board.collector(0), rng=rng),
            lanes,
            faults,
        )


def test_final_observations_are_those_of_the_last_step_not_of_the_reset(
    server: EnvServer, store: Store, board: Board, tmp_path: Path
) -> None:
    with collection(server, store, board, tmp_path / "policies") as (collecting, _, faults):
        for _ in range(2 * TIME_LIMIT + 7):
            collecting.round(ENVS)
        collecting.cut()
    assert faults == []
    episodes = list(store.episodes())
    assert len(episodes) == 3 * ENVS
    for episode in episodes:
        # The cart's third column counts the steps of its episode, the fourth names it.
        np.testing.assert_allclose(episode.observations[:, 2], 0.1 * np.arange(len(episode.rewards) + 1), atol=1e-5)
        assert (episode.observations[:, 3] == episode.observations[0, 3]).all()
        assert (len(episode.rewards) == TIME_LIMIT) == episode.truncated
        np.testing.assert_allclose(episode.rewards, -np.abs(episode.observations[1:, 0]), atol=1e-6)
    assert len({float(episode.observations[0, 3]) for episode in episodes}) == len(episodes)


def test_collection_waits_on_a_full_disk_and_goes_on_without_a_lost_step(
    server: EnvServer, board: Board, tmp_path: Path
) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").mkdir()
    with mounted(tmp_path / "disk", "4m", instead="; the pause itself needs a disk that fills up") as disk:
        terms = [{"name": "observation", "offset": 0, "length": 4, "dtype": "float64"}]
        store = Store.create(disk / "online.zarr", StoreSpec.from_terms(terms, [-1.0], [1.0]), chunk_rows=512)
        run, slots, stop = RunDirectory(tmp_path / "run"), board.collector(0), threading.Event()
        patiently = DiskPatience(Incidents(run), slots, stop.is_set)
        with collection(server, store, board, tmp_path / "policies", patiently=patiently) as (collecting, _, faults):
            loop = threading.Thread(
                target=collect, args=(collecting,),
                kwargs={"due": lambda: ENVS, "rhythm": Rhythm(0.0, slots), "stopping": stop.is_set, "slots": slots},
            )  # fmt: skip
            loop.start()
            fill(disk / "filler")
            wait_for(lambda: slots[CollectorSlot.PAUSE] == Pause.FULL_DISK)
            steps, beat = int(slots[CollectorSlot.STEPS]), int(slots[CollectorSlot.BEAT])
            wait_for(lambda: slots[CollectorSlot.BEAT] > beat)  # it waits and lives
            assert abs(int(slots[CollectorSlot.STEPS]) - steps) <= ENVS
            (disk / "filler").unlink()
            wait_for(lambda: slots[CollectorSlot.STEPS] > steps + 600)
            assert slots[CollectorSlot.PAUSE] == Pause.NONE
            stop.set()
            loop.join()
        assert faults == []
        assert [event["kind"] for event in read_lines(run.events)] == ["collection_paused", "collection_resumed"]
        assert verify(disk / "online.zarr")["sound"]
        episodes = list(store.episodes())
        # All but the three that the stop cut are whole: none was cut or lost a step for the pause.
        assert sum(episode.interrupted for episode in episodes) <= ENVS
        for episode in episodes:
            np.testing.assert_allclose(np.diff(episode.observations[:, 2]), 0.1, atol=1e-5)
            assert episode.observations[0, 2] == 0.0
            assert episode.interrupted or len(episode.rewards) == TIME_LIMIT


def wait_for(condition: Callable[[], bool]) -> None:
    """AssertionError if it does not come true within a minute."""
    deadline = time.monotonic() + 60.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_each_environment_fills_a_stream_of_its_own_and_the_board_counts_them_all(
    server: EnvServer, store: Store, board: Board, tmp_path: Path
) -> None:
    with collection(server, store, board, tmp_path / "policies") as (collecting, _, _):
        for _ in range(TIME_LIMIT):
            collecting.round(ENVS)
        collecting.round(1)
    slots = board.collector(0)
    assert store.stream_names() == ["collector-000", "collector-000-001", "collector-000-002"]
    assert slots[CollectorSlot.STEPS] == store.num_steps + 1 == ENVS * TIME_LIMIT + 1
    assert slots[CollectorSlot.EPISODES] == ENVS
    # A start with one environment goes on counting what the others have stored.
    assert steps_of_idle_streams(store, 0, ["collector-000"]) == (ENVS - 1) * TIME_LIMIT


def test_a_batch_acts_as_single_observations_do_each_with_its_own_noise(board: Board, tmp_path: Path) -> None:
    observations = np.random.default_rng(1).standard_normal((5, 4), dtype=np.float32)
    policy = LatestPolicy(tmp_path / "policies", board, noise=1.0, rng=np.random.default_rng(7))
    together = policy.act(policy.newest(), observations)
    noise = np.random.default_rng(7).standard_normal((5, 1), dtype=np.float32)
    runner = PolicyRunner(policy_path(tmp_path / "policies", board[Slot.POLICY_VERSION]))
    alone = [runner.act(row, eps) for row, eps in zip(observations, noise, strict=True)]
    np.testing.assert_allclose(together, alone, atol=1e-6)
    assert len(np.unique(noise)) == 5


def test_an_action_that_is_not_finite_is_never_taken_and_costs_its_own_episode(
    server: EnvServer, store: Store, board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound, calls = LatestPolicy.act, itertools.count(1)

    def act(policy: LatestPolicy, acting: ActingPolicy, observations: np.ndarray) -> np.ndarray:
        actions = sound(policy, acting, observations)
        if next(calls) == 11:
            actions[1] = np.nan
        return actions

    monkeypatch.setattr(LatestPolicy, "act", act)
    with collection(server, store, board, tmp_path / "policies") as (collecting, lanes, faults):
        collecting.round(ENVS)
        processes = [lane.env.pid for lane in lanes]
        for _ in range(19):
            collecting.round(ENVS)
        collecting.cut()
        assert [lane.env.pid for lane in lanes] == processes  # it was no fault of theirs
    (fault,) = faults
    assert "policy v1 acts NaN" in str(fault)
    lengths = {(episode.stream, len(episode.rewards)) for episode in store.episodes()}
    assert lengths == {
        ("collector-000", 20), ("collector-000-001", 10), ("collector-000-001", 9), ("collector-000-002", 20),
    }  # fmt: skip
    assert all(np.isfinite(episode.actions).all() for episode in store.episodes())


def collect_while_publishing(
    server: EnvServer, store: Store, board: Board, policies: Path, template: Template, **swap: Any
) -> dict[str, np.ndarray]:
    """Rounds in environments whose episodes end at different times, a new version every tenth; versions by stream."""
    publisher = Publisher(policies, board, template, template.contract, version=1)
    with collection(server, store, board, policies, **swap) as (collecting, lanes, faults):
        for count in range(3 * TIME_LIMIT):
            collecting.round(1 + count % ENVS if count < TIME_LIMIT else ENVS)
            if count % 10 == 9:
                publisher.publish({name: template.weight(name) for name in template.weight_names}, step=count)
        slots = board.collector(0)
        assert slots[CollectorSlot.POLICY_VERSION] == min(lane.acting.version for lane in lanes if lane.acting)
        collecting.cut()
    assert faults == []
    reader = store.reader()
    return {name: reader.meta(name, 0, head)[:, 0] for name, head in reader.heads.items()}


def changes_within_episodes(store: Store, versions: dict[str, np.ndarray]) -> int:
    """How often the acting version changes between two rows of one episode."""
    reader = store.reader()
    changes = 0
    for name, of_rows in versions.items():
        rows = reader.rows(name, 0, reader.heads[name])
        began = rows[1:, store.spec.offsets["first"]] > 0
        changes += int(((of_rows[1:] != of_rows[:-1]) & ~began).sum())
    return changes


def test_swapped_by_episode_each_environment_s_episode_is_one_version_s(
    server: EnvServer, store: Store, board: Board, tmp_path: Path, template: Template
) -> None:
    versions = collect_while_publishing(server, store, board, tmp_path / "policies", template, by_episode=True)
    assert changes_within_episodes(store, versions) == 0
    assert all(len(set(of_rows)) >= 3 for of_rows in versions.values())
    # They began at different times, so that versions acted side by side.
    assert len({tuple(of_rows) for of_rows in versions.values()}) == ENVS


def test_swapped_by_step_a_new_version_acts_at_the_next_step(
    server: EnvServer, store: Store, board: Board, tmp_path: Path, template: Template
) -> None:
    versions = collect_while_publishing(server, store, board, tmp_path / "policies", template)
    assert changes_within_episodes(store, versions) > 2 * ENVS
    assert all(of_rows[-2] == 9 for of_rows in versions.values())


def test_an_episode_that_outlasts_its_policy_s_limit_goes_on_with_the_newest(
    server: EnvServer, store: Store, board: Board, tmp_path: Path, template: Template
) -> None:
    heard: list[tuple[int, int]] = []
    publisher = Publisher(tmp_path / "policies", board, template, template.contract, version=1)
    with collection(
        server, store, board, tmp_path / "policies", envs=1,
        by_episode=True, limit_seconds=0.2, on_overdue=lambda old, new: heard.append((old, new)),
    ) as (collecting, lanes, _):  # fmt: skip
        collecting.round(1)
        time.sleep(0.3)  # the newest may be as old as it likes
        collecting.round(1)
        assert heard == []
        publisher.publish({name: template.weight(name) for name in template.weight_names}, step=2)
        collecting.round(1)
        assert lanes[0].acting is not None
        assert (lanes[0].acting.version, heard) == (1, [])
        time.sleep(0.3)
        collecting.round(1)
        assert (lanes[0].acting.version, heard) == (2, [(1, 2)])


def test_a_hung_environment_costs_its_own_episode_and_no_other_s(
    server: EnvServer, store: Store, board: Board, tmp_path: Path
) -> None:
    with collection(server, store, board, tmp_path / "policies", deadline=0.5) as (collecting, lanes, faults):
        for _ in range(10):
            collecting.round(ENVS)
        os.kill(lanes[1].env.pid, signal.SIGSTOP)
        for _ in range(10):
            collecting.round(ENVS)
        collecting.cut()
    (fault,) = faults
    assert isinstance(fault, EnvHung)
    by_stream: dict[str, list[int]] = {}
    for episode in store.episodes():
        by_stream.setdefault(episode.stream, []).append(len(episode.rewards))
        assert episode.interrupted
        np.testing.assert_allclose(np.diff(episode.observations[:, 2]), 0.1, atol=1e-5)
    assert by_stream == {"collector-000": [20], "collector-000-001": [10, 9], "collector-000-002": [20]}
    assert board.collector(0)[CollectorSlot.FAULTS] == 1
