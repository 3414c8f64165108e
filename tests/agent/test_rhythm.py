"""A collector under `online.rate` keeps absolute deadlines, counts what comes late, and is never late for a pause."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from agent.board import Board, CollectorSlot
from agent.collection import Collection, Lane, collect
from agent.latest_policy import LatestPolicy
from agent.publish import Publisher
from agent.repeating import LocalEnv
from agent.rhythm import Rhythm
from envs.make import make_env
from export.contract_parts import ActionSpec, Normalizer, ObservationTerm
from export.onnx_writer import export_policy
from export.pacing import Pacer
from export.template import Template
from replay.schema import StoreSpec
from replay.store import Store
from tests.export.policies import make_contract

HZ = 50.0
PERIOD = 1 / HZ
EPISODE = 20


class Clock:
    """Time that passes only where it is said to, so that a busy machine changes nothing."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


CLOCK = Clock()


class Slow(gymnasium.Env[Any, Any]):
    """A reset takes five periods, a step a tenth of one; where `late`, every tenth step two and a half."""

    observation_space = Box(-9.0, 9.0, (1,), np.float64)
    action_space = Box(-1.0, 1.0, (1,), np.float32)
    began: ClassVar[list[float]] = []

    def __init__(self, late: bool = False) -> None:
        self.late, self.steps = late, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        CLOCK.sleep(5 * PERIOD)
        return np.zeros(1), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        Slow.began.append(CLOCK.now)
        self.steps += 1
        CLOCK.sleep(2.5 * PERIOD if self.late and self.steps % 10 == 0 else 0.1 * PERIOD)
        return np.zeros(1), 0.0, False, False, {}


gymnasium.register("Slow-v0", Slow, max_episode_steps=EPISODE, disable_env_checker=True)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Board]:
    """A folder with one published policy, and its board."""
    folder = tmp_path_factory.mktemp("policies")
    board = Board(folder / "board.bin")
    contract = make_contract(
        observation=(ObservationTerm(name="observation", offset=0, length=1),),
        normalizer=Normalizer(mean=(0.0,), std=(1.0,), clip=10.0, count=1),
        action=ActionSpec(low=(-1.0,), high=(1.0,)), stochastic=True,
    )  # fmt: skip
    network, log_std = torch.nn.Sequential(torch.nn.Linear(1, 1)), torch.zeros(1)
    model = export_policy(network, log_std=log_std, contract=contract)
    weights = {f"network.{k}": v.detach().numpy() for k, v in network.state_dict().items()}
    Publisher(folder, board, Template.from_bytes(model), contract, version=0).publish(
        {**weights, "log_std": log_std.numpy()}, step=1
    )
    return folder, board


def run(policy: tuple[Path, Board], place: Path, *, hz: float, late: bool, pause_at: int = 10**6) -> np.ndarray:
    """Collect 50 steps; when each began, in periods. Before step `pause_at` none is due for 3.5 periods."""
    folder, board = policy
    slots = board.collector(0)
    slots[:] = 0
    CLOCK.now, Slow.began[:] = 1000.0, []
    terms = [{"name": "observation", "offset": 0, "length": 1, "dtype": "float64"}]
    store = Store.create(place / "store", StoreSpec.from_terms(terms, [-1.0], [1.0]), chunk_rows=4096)
    rng, until = np.random.default_rng(0), 0.0
    env = LocalEnv(lambda: make_env("Slow-v0", kwargs={"late": late}), store.spec)

    def due() -> int:
        nonlocal until
        if len(Slow.began) == pause_at and until == 0.0:
            until = CLOCK.now + 3.5 * PERIOD
        if CLOCK.now >= until:
            return 1
        CLOCK.sleep(PERIOD / 20)
        return 0

    with store.writer("a", durability="process") as writer:
        collection = Collection(
            [Lane(env=env, writer=writer, row=0)], LatestPolicy(folder, board, noise=1.0, rng=rng),
            on_fault=pytest.fail, slots=slots, rng=rng,
        )  # fmt: skip
        rhythm = Rhythm(hz, slots, make=lambda hz: Pacer(hz, clock=CLOCK, sleep=CLOCK.sleep))
        collect(collection, rhythm=rhythm, slots=slots, due=due, stopping=lambda: len(Slow.began) >= 50)
        assert writer.steps == 50
    return np.array(Slow.began) / PERIOD


def overruns(policy: tuple[Path, Board]) -> int:
    return int(policy[1].collector(0)[CollectorSlot.OVERRUNS])


def test_steps_come_at_the_rate_and_neither_resets_nor_pauses_are_overruns(
    policy: tuple[Path, Board], tmp_path: Path
) -> None:
    gaps = np.diff(run(policy, tmp_path, hz=HZ, late=False, pause_at=30))
    expected = np.ones(49)
    expected[[EPISODE - 1, 2 * EPISODE - 1]] = 5.1  # the last step, then the reset
    expected[29] = 3.6
    assert gaps == pytest.approx(expected, abs=0.06)
    assert overruns(policy) == 0


def test_late_steps_are_counted_and_never_made_up_for(policy: tuple[Path, Board], tmp_path: Path) -> None:
    gaps = np.diff(run(policy, tmp_path, hz=HZ, late=True))
    # Steps 10, 30 and 50 of the process are late in mid-episode; 20 and 40 end theirs.
    expected = np.ones(49)
    expected[[9, 29]] = 3.0  # the next deadline that lay ahead
    expected[[EPISODE - 1, 2 * EPISODE - 1]] = 7.5
    assert gaps == pytest.approx(expected, abs=0.01)
    assert overruns(policy) == 2


def test_without_a_rate_nothing_waits(policy: tuple[Path, Board], tmp_path: Path) -> None:
    gaps = np.diff(run(policy, tmp_path, hz=0.0, late=False))
    assert np.delete(gaps, [EPISODE - 1, 2 * EPISODE - 1]) == pytest.approx(np.full(47, 0.1))
    assert overruns(policy) == 0
