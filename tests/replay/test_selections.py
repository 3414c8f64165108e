"""Which rows are drawn: windows, weights, returns, epochs; and that every sampler resumes and follows growth."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from replay import Store
from replay.episodes import EpisodeIndex, episode_table
from replay.errors import EmptyReplayError, SamplerStateError, SchemaError
from replay.sampler import PrioritisedSampler, SequenceSampler, TransitionSampler
from replay.sampling.epochs import ROUNDS, permute
from tests.replay import formula
from tests.replay.test_sampling import fill

ROOT = Path(__file__).parents[2]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"n_step": 3, "gamma": 0.9},
    {"recent": 50},
    {"stream_weights": {"a": 1.0, "b": 3.0}},
    {"source_weights": {0: 0.25, 7: 0.75}, "recent": 150, "n_step": 2, "gamma": 0.5},
    {"return_temperature": 0.5},
    {"top_fraction": 1.0},
    {"epochs": True},
    {"alpha": 0.7, "beta_steps": 50},
    {"alpha": 0.7, "n_step": 2, "gamma": 0.5},
    {"length": 6, "burn_in": 2},
    {"length": 6, "epochs": True},
    {"length": 3, "recent": 40},
]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.create(tmp_path / "s.zarr", formula.spec(), chunk_rows=formula.CHUNK_ROWS)
    fill(store, "a", [60, 3, 90, 1, 1, 1, 200])
    fill(store, "b", [17] * 12, tag=1)
    grow(store, "b", [13, 29], source_id=7)
    return store


def grow(store: Store, stream: str, lengths: list[int], *, source_id: int = 0) -> None:
    """Episodes of tag 2 whose reward is 1, by a source."""
    with store.writer(stream, durability="process", source_id=source_id) as writer:
        for number, steps in enumerate(lengths):
            t = np.arange(steps + 1)
            observations = np.stack([0 * t + 2, 0 * t + number, t, t, t], axis=1)
            writer.append_episode(observations, np.zeros((steps, 2)), np.ones(steps), terminated=True, truncated=False)


def ids(packed: NDArray[np.float32]) -> list[tuple[int, ...]]:
    return [tuple(line) for line in packed[:, :3].astype(int).tolist()]


def check_counts(counts: Counter[tuple[int, ...]], shares: dict[tuple[int, ...], float]) -> None:
    """Chi-square of draws against their expected shares: mean n - 1, variance 2 (n - 1)."""
    assert set(counts) == set(shares)
    total, whole = sum(counts.values()), sum(shares.values())
    expected = np.array([total * share / whole for share in shares.values()])
    seen = np.array([counts[key] for key in shares])
    freedom = len(expected) - 1
    assert abs(float(((seen - expected) ** 2 / expected).sum()) - freedom) < 5 * np.sqrt(2 * freedom)


def draw(sampler: TransitionSampler, batches: int = 200) -> Counter[tuple[int, ...]]:
    return Counter(key for _ in range(batches) for key in ids(sampler.next().packed))


def everything(sampler: TransitionSampler | SequenceSampler) -> list[NDArray[Any]]:
    """Copies of all that a batch has."""
    batch = sampler.next()
    names = ("packed", "discounts", "rows", "weights", "mask")
    return [np.array(array) for name in names if (array := getattr(batch, name, None)) is not None]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_sampler_resumes_with_the_next_batch_although_the_store_has_grown(
    store: Store, options: dict[str, Any]
) -> None:
    original = store.sampler(48, rng=np.random.default_rng(3), **options)
    for k in range(7):
        batch = original.next()
        if isinstance(original, PrioritisedSampler):
            original.update_priorities(batch.rows, np.abs(np.sin(batch.rows + k)))  # type: ignore[union-attr, operator]
        if k == 3:
            grow(store, "c", [40], source_id=7)
            original.reader.refresh()
    state = json.loads(json.dumps(original.state_dict()))
    saved = original.priorities() if isinstance(original, PrioritisedSampler) else None
    expected = [everything(original) for _ in range(12)]
    grow(store, "a", [300, 70])
    grow(store, "0", [100])
    resumed = Store.open(store.path).sampler(48, rng=np.random.default_rng(99), **options)
    resumed.next()
    resumed.load_state_dict(state)
    if isinstance(resumed, PrioritisedSampler):
        assert saved is not None
        resumed.load_priorities(saved)
    for batch in expected:
        for one, other in zip(everything(resumed), batch, strict=True):
            np.testing.assert_array_equal(one, other)
    for sampler in (original, resumed):
        sampler.reader.refresh()
    for _ in range(12):
        for one, other in zip(everything(resumed), everything(original), strict=True):
            np.testing.assert_array_equal(one, other)
    with pytest.raises(SamplerStateError, match="keys"):
        resumed.load_state_dict({**state, "more": 1})
    broken = {key: value for key, value in state.items() if key != "selection"}
    with pytest.raises(SamplerStateError, match="keys"):
        resumed.load_state_dict(broken)
    with pytest.raises(SamplerStateError, match="the selection"):
        resumed.load_state_dict({**state, "kind": "Other"})


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_sampler_draws_rows_appended_after_it_was_opened(store: Store, options: dict[str, Any]) -> None:
    if "stream_weights" in options:
        options = {"stream_weights": {**options["stream_weights"], "later": 2.0}}
    sampler = store.sampler(48, rng=np.random.default_rng(3), **options)
    sampler.next()
    grow(store, "later", [40], source_id=7)
    assert sampler.reader.refresh()
    seen: set[tuple[int, ...]] = set()
    for _ in range(80):
        packed = sampler.next().packed
        seen |= set(ids(packed if packed.ndim == 2 else packed[:, options.get("burn_in", 0)]))
    assert {key for key in seen if key[0] == 2 and key[2] >= 30}


def test_a_window_of_recent_rows_is_uniform_over_the_end_of_every_stream(store: Store) -> None:
    sampler = store.sampler(500, rng=np.random.default_rng(0), recent=40)
    # The last 40 candidates: of a, all of one episode; of b, 29 steps, a final row, and 10 steps more and a final row.
    expected = {(0, 6, t): 1.0 for t in range(161, 200)} | {(2, 1, t): 1.0 for t in range(29)}
    expected |= {(2, 0, t): 1.0 for t in range(13) if t >= 3}
    counts = draw(sampler)
    assert set(counts) - set(expected) <= {(0, 6, 160), (2, 0, 2)}  # the edges
    check_counts(Counter({key: counts[key] for key in expected}), expected)


def test_stream_weights_are_shares_whatever_sizes_and_rejections(store: Store) -> None:
    weights = {"a": 1.0, "b": 3.0, "not there yet": 5.0}
    counts = draw(store.sampler(500, rng=np.random.default_rng(0), stream_weights=weights))
    steps_a = [key for key in counts if key[0] == 0]
    steps_b = [key for key in counts if key[0] != 0]
    assert len(steps_a) == 356 and len(steps_b) == 17 * 12 + 42
    shares = {key: 1 / len(steps_a) for key in steps_a} | {key: 3 / len(steps_b) for key in steps_b}
    check_counts(counts, shares)


def test_source_weights_are_shares_also_within_one_stream(store: Store) -> None:
    counts = draw(store.sampler(500, rng=np.random.default_rng(0), source_weights={7: 0.5, 0: 0.5}))
    by_seven = [key for key in counts if key[0] == 2]
    others = [key for key in counts if key[0] != 2]
    assert len(by_seven) == 42 and len(others) == 356 + 17 * 12
    shares = {key: 1 / len(by_seven) for key in by_seven} | {key: 1 / len(others) for key in others}
    check_counts(counts, shares)
    assert set(draw(store.sampler(500, rng=np.random.default_rng(0), source_weights={7: 1.0}))) == set(by_seven)


def test_steps_are_weighted_by_the_return_of_their_episode(store: Store) -> None:
    table = episode_table(store.reader())
    whole = table.terminated | table.truncated
    z = (table.returns[whole] - table.returns[whole].min()) / np.ptp(table.returns[whole])
    counts = draw(store.sampler(500, rng=np.random.default_rng(0), return_temperature=0.4), 400)
    steps: dict[tuple[int, ...], float] = {}
    names = {"a": 0, "b": 1}
    number: Counter[str] = Counter()
    for e, stream in enumerate(table.stream):
        tag, episode = names[stream], number[stream]
        if stream == "b" and episode >= 12:
            tag, episode = 2, episode - 12
        number[stream] += 1
        if whole[e]:
            weight = float(np.exp(z[int(whole[:e].sum())] / 0.4))
            steps |= {(tag, episode, t): weight for t in range(int(table.length[e]))}
    check_counts(counts, steps)
    level = draw(store.sampler(500, rng=np.random.default_rng(0), return_temperature=1e6))
    check_counts(level, dict.fromkeys(steps, 1.0))


def test_episodes_followed_as_they_grow_are_those_found_at_once(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s.zarr", formula.spec(), chunk_rows=5)
    reader = store.reader()
    followed = EpisodeIndex(reader)
    with store.writer("a", durability="process") as writer:
        for head in formula.append_forever(writer):
            reader.refresh()
            lines = list(followed.lines(reader.index))
            if head > 200:
                break
    table = episode_table(reader)
    for name in ("start", "length", "returns", "terminated", "truncated", "interrupted"):
        joined = np.concatenate([each[name] for _, each in lines])
        np.testing.assert_array_equal(joined, getattr(table, name))
    assert table.length.sum() == reader.num_steps


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 65, 1000, 4097])
def test_the_permutation_function_is_a_permutation_for_every_key(size: int) -> None:
    rng = np.random.default_rng(size)
    for _ in range(5):
        keys = rng.integers(0, 1 << 63, ROUNDS, np.uint64)
        assert sorted(permute(np.arange(size), size, keys).tolist()) == list(range(size))


def test_orders_of_different_keys_put_every_row_everywhere() -> None:
    rng, size, places = np.random.default_rng(0), 30, Counter[tuple[int, ...]]()
    for _ in range(4000):
        order = permute(np.arange(size), size, rng.integers(0, 1 << 63, ROUNDS, np.uint64))
        places.update(enumerate(order.tolist()))
    check_counts(places, {(a, b): 1.0 for a in range(size) for b in range(size)})


@pytest.mark.parametrize("length", [None, 4])
def test_an_epoch_has_every_step_exactly_once(store: Store, length: int | None) -> None:
    steps = store.num_steps
    options: dict[str, Any] = {"epochs": True} | ({} if length is None else {"length": length})
    sampler = store.sampler(steps // 2, rng=np.random.default_rng(0), **options)
    assert steps % 2 == 0
    orders = []
    for _ in range(3):
        order: list[tuple[int, ...]] = []
        for _ in range(2):
            packed = sampler.next().packed
            order += ids(packed if length is None else packed[:, 0])
        assert len(set(order)) == len(order) == steps
        orders.append(order)
    assert orders[0] != orders[1]


def test_rows_that_come_during_an_epoch_are_drawn_in_the_next_one(store: Store) -> None:
    steps = store.num_steps
    sampler = store.sampler(1, rng=np.random.default_rng(0), epochs=True)
    seen = Counter(ids(sampler.next().packed)[0] for _ in range(100))
    grow(store, "0", [50])  # before the others in the order of candidates
    fill(store, "a", [7], tag=5)
    sampler.reader.refresh()
    seen.update(ids(sampler.next().packed)[0] for _ in range(steps - 100))
    assert len(seen) == steps and set(seen.values()) == {1}
    after = Counter(ids(sampler.next().packed)[0] for _ in range(steps + 57))
    assert {(5, 0, t) for t in range(7)} < set(after)
    assert sum(after.values()) == steps + 57 == store.num_steps


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": True, "recent": 5}, "pass one of them"),
        ({"alpha": 0.6, "return_temperature": 1.0}, "pass one of them"),
        ({"stream_weights": {"a": 1.0}, "source_weights": {0: 1.0}}, "exclude each other"),
        ({"stream_weights": {"a": -1.0}}, "at least 0"),
        ({"source_weights": {}}, "not all 0"),
        ({"recent": 0}, "at least 1 row"),
        ({"return_temperature": 0.0}, "above 0"),
        ({"top_fraction": 0.0}, "it must lie in"),
        ({"beta": 0.5}, "pass alpha too"),
        ({"alpha": 1.5}, r"\[0, 1\]"),
        ({"burn_in": 3}, "belongs to sequences"),
        ({"length": 3, "gamma": 0.9}, "sequences"),
        ({"length": 3, "alpha": 0.6}, "sequences"),
        ({"length": 0}, "at least 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(store: Store, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        store.sampler(8, rng=np.random.default_rng(0), **options)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_an_empty_store_is_an_error_for_every_sampler(tmp_path: Path, options: dict[str, Any]) -> None:
    store = Store.create(tmp_path / "s.zarr", formula.spec(), chunk_rows=formula.CHUNK_ROWS)
    sampler = store.sampler(8, rng=np.random.default_rng(0), **options)
    with pytest.raises(EmptyReplayError):
        sampler.next()
    writer = store.writer("a", durability="process")
    for _ in range(3):  # first steps only: none can be sampled
        writer.append(np.zeros(5), np.zeros(2), 1.0, first=True, terminated=False, truncated=False,
                      next_observation=None)  # fmt: skip
    writer.close()
    sampler.reader.refresh()
    with pytest.raises(EmptyReplayError):
        sampler.next()


MEMORY = """
import sys, numpy as np
from replay import Store
sampler = Store.open(sys.argv[1]).sampler(256, rng=np.random.default_rng(0), **eval(sys.argv[2]))
for _ in range(300):
    sampler.next()
status = dict(line.split(":") for line in open("/proc/self/status"))
print(int(status["RssAnon"].split()[0]))
"""


def test_memory_of_a_sampling_process_does_not_depend_on_the_size_of_the_data(tmp_path: Path) -> None:
    def make(name: str, rows: int) -> Path:
        store = Store.create(tmp_path / name, formula.spec(observation=17, action=6))
        with store.writer("a", durability="process") as writer:
            for _ in range(rows // 1000):
                writer.append_episode(np.ones((1000, 17)), np.ones((999, 6)), np.ones(999), terminated=False,
                                      truncated=True)  # fmt: skip
        return store.path

    def anonymous_kib(path: Path, options: str) -> int:
        command = [sys.executable, "-c", MEMORY, str(path), options]
        return int(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)

    small, large = make("small", 20_000), make("large", 600_000)  # 2.5 MB and 77 MB of rows
    for options in ("{}", "{'epochs': True}", "{'recent': 10**6}", "{'length': 8}", "{'n_step': 3, 'gamma': 0.9}"):
        assert anonymous_kib(large, options) - anonymous_kib(small, options) < 4096, options
