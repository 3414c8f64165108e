"""n-step transitions: reward sums, bootstrapping discounts and next observations, against a plain loop over rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from replay import MixedSampler, Store
from replay.errors import SchemaError
from tests.replay import formula

GAMMA = 0.9


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Stream a: every way an episode can end, small chunks; stream b: an episode still running."""
    store = Store.create(tmp_path / "s.zarr", formula.spec(), chunk_rows=5)
    rng = np.random.default_rng(0)
    with store.writer("a", durability="process") as writer:
        for number, (steps, end) in enumerate([(4, "t"), (7, "c"), (1, "t"), (2, "i"), (12, "c"), (1, "i"), (3, "t")]):
            at = np.arange(steps + 1)
            observations = np.stack([0 * at, 0 * at + number, at, at, at], axis=1)
            writer.append_episode(
                observations, np.zeros((steps, 2)), rng.normal(size=steps), terminated=end == "t", truncated=end == "c"
            )
    writer = store.writer("b", durability="process")
    for t in range(9):
        if t in (0, 6):  # at 6 the next episode begins although nothing ended the first: its writer was killed
            first = True
        writer.append(
            [1, t >= 6, t - 6 * (t >= 6), t, t], [0, 0], 1.0, first=first, terminated=False, truncated=False,
            next_observation=None,
        )  # fmt: skip
        first = False
    writer.close()
    return store


def expected(store: Store, n: int) -> dict[tuple[int, int, int], tuple[float, float, float, float, int]]:
    """(tag, episode, t) to reward sum, discount, terminated, truncated, t of the next observation, by a plain loop."""
    reader, at = store.reader(), store.spec.offsets
    out = {}
    for stream, head in reader.heads.items():
        rows = reader.rows(stream, 0, head)

        def is_step(i: int, rows: np.ndarray = rows, head: int = head) -> bool:
            return bool(i + 1 < head and rows[i, at["valid"]] and not rows[i + 1, at["first"]])

        for i in range(head):
            if not is_step(i):
                continue
            total, m, ended = 0.0, 0, False
            while m < n and not ended and is_step(i + m):
                total += GAMMA**m * float(rows[i + m, at["reward"]])
                ended = bool(rows[i + m, at["terminated"]] or rows[i + m, at["truncated"]])
                m += 1
            last = rows[i + m - 1]
            discount = 0.0 if last[at["terminated"]] else GAMMA**m
            key = (int(rows[i, 0]), int(rows[i, 1]), int(rows[i, 2]))
            terminated, truncated = float(last[at["terminated"]]), float(last[at["truncated"]])
            out[key] = (total, discount, terminated, truncated, key[2] + m)
    return out


@pytest.mark.parametrize("n", [1, 2, 3, 5, 20])
def test_sums_discounts_and_successors_are_those_of_a_plain_loop(store: Store, n: int) -> None:
    wanted = expected(store, n)
    assert len(wanted) == store.num_steps == 30 + 5 + 2
    sampler = store.sampler(256, rng=np.random.default_rng(n), n_step=n, gamma=GAMMA)
    seen = set()
    for _ in range(5):
        batch = sampler.next()
        assert batch.discounts is not None
        for i in range(len(batch)):
            key = tuple(int(x) for x in batch.observations[i, :3])
            total, discount, terminated, truncated, after = wanted[key]
            np.testing.assert_allclose(batch.rewards[i], total, rtol=1e-6)
            np.testing.assert_allclose(batch.discounts[i], discount, rtol=1e-6)
            assert (batch.terminated[i], batch.truncated[i]) == (terminated, truncated)
            assert tuple(batch.next_observations[i, :3]) == (*key[:2], after)
            seen.add(key)
    assert seen == set(wanted)


def test_one_step_with_a_gamma_draws_what_the_plain_sampler_draws(store: Store) -> None:
    plain = store.sampler(64, rng=np.random.default_rng(3))
    discounted = store.sampler(64, rng=np.random.default_rng(3), gamma=GAMMA)
    for _ in range(20):
        one, other = plain.next(), discounted.next()
        np.testing.assert_array_equal(one.packed, other.packed)
        assert other.discounts is not None and one.discounts is None
        np.testing.assert_allclose(other.discounts, GAMMA * (1 - one.terminated), rtol=1e-6)


def test_a_mixture_carries_discounts_and_refuses_unequal_steps(store: Store) -> None:
    rng = np.random.default_rng(0)
    three = store.sampler(8, rng=rng, n_step=3, gamma=GAMMA)
    batch = MixedSampler([(three, 5), (store.sampler(8, rng=rng, n_step=3, gamma=GAMMA), 3)]).next()
    assert batch.discounts is not None and ((batch.discounts > 0) | (batch.terminated > 0)).all()
    with pytest.raises(SchemaError, match="one n_step and gamma"):
        MixedSampler([(three, 5), (store.sampler(8, rng=rng, n_step=2, gamma=GAMMA), 3)])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"n_step": 3}, "without a gamma"), ({"n_step": 0}, "at least 1"), ({"gamma": 1.5}, r"\[0, 1\]")],
)
def test_steps_that_make_no_sense_are_refused(store: Store, options: dict[str, float], message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        store.sampler(8, rng=np.random.default_rng(0), **options)  # type: ignore[arg-type]
