"""What a transition says of the step after it, and of the several steps that it spans."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from agent.preparation import Preparation
from agent.transitions import Preparer
from replay.schema import StoreSpec
from replay.store import Store

GAMMA, SCALE, SHIFT = 0.9, 2.0, -1.0
TERM = {"name": "observation", "offset": 0, "length": 1, "dtype": "float32"}
HALF = {100.0: "terminated", 200.0: "truncated", 300.0: "cut", 400.0: "running"}
STEPS = 4


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Episodes of four steps that end in every way; observation: episode + step, action: step / 10, reward: step."""
    store = Store.create(tmp_path / "s.zarr", StoreSpec.from_terms([TERM], [-2.0], [2.0]), chunk_rows=3)
    with store.writer("a", durability="process") as writer:
        for base, end in HALF.items():
            for t in range(STEPS):
                ended = end if t == STEPS - 1 else ""
                writer.append(
                    np.array([base + t]), np.array([t / 10]), float(t), first=t == 0,
                    terminated=ended == "terminated", truncated=ended == "truncated",
                    next_observation=np.array([base + STEPS]) if ended in ("terminated", "truncated") else None,
                )  # fmt: skip
            if end == "cut":
                writer.cut(np.array([base + STEPS]))
    return store


def preparation() -> Preparation:
    return Preparation(
        mean=np.zeros(1, np.float32), std=np.ones(1, np.float32), clip=1e6, count=1,
        action_low=np.float32([-2]), action_high=np.float32([2]),
        reward_scale=SCALE, reward_shift=SHIFT, discount=GAMMA,
    )  # fmt: skip


def test_the_next_action_is_the_next_steps_and_unknown_where_the_episode_ended_whatever_ended_it(store: Store) -> None:
    prepare = Preparer(preparation(), torch.device("cpu"), next_action=True)
    sampler = store.sampler(200, rng=np.random.default_rng(0))
    batch = prepare(sampler.next())
    assert batch.next_action is not None and batch.next_action_known is not None
    seen = set()
    columns = batch.observation[:, 0], batch.next_action[:, 0], batch.next_action_known
    for o, action, known in zip(*(column.tolist() for column in columns), strict=True):
        step = o % 100
        assert known == (step < STEPS - 1)
        if known:
            assert action == pytest.approx((step + 1) / 10 / 2, abs=1e-6)  # scaled to [-1, 1]
        seen.add(o)
    # The running episode's newest step has no successor yet and is not drawn at all.
    assert seen == {base + t for base in HALF for t in range(STEPS)} - {400.0 + STEPS - 1}


def test_batches_of_algorithms_that_do_not_ask_hold_no_next_action(store: Store) -> None:
    batch = Preparer(preparation(), torch.device("cpu"))(store.sampler(8, rng=np.random.default_rng(0)).next())
    assert batch.next_action is None and batch.next_action_known is None


@pytest.mark.parametrize("n", [1, 3, 9])
def test_over_several_steps_the_shift_is_added_to_each_reward_and_only_termination_stops_the_bootstrap(
    store: Store, n: int
) -> None:
    sampler = store.sampler(200, rng=np.random.default_rng(0), n_step=n, gamma=GAMMA)
    batch = Preparer(preparation(), torch.device("cpu"))(sampler.next())
    for o, reward, discount, following in zip(
        batch.observation[:, 0].tolist(), batch.reward.tolist(), batch.discount.tolist(),
        batch.next_observation[:, 0].tolist(), strict=True,
    ):  # fmt: skip
        base, step = o // 100 * 100, int(o % 100)
        # What is left of the episode; the running one's newest step is no step yet.
        m = min(n, STEPS - step - (HALF[base] == "running"))
        assert following == base + step + m
        wanted = sum(GAMMA**k * (SCALE * (step + k) + SHIFT) for k in range(m))
        assert reward == pytest.approx(wanted, rel=1e-5, abs=1e-5)
        ended = HALF[base] == "terminated" and step + m == STEPS
        assert discount == pytest.approx(0.0 if ended else GAMMA**m, rel=1e-6)
