"""Executors: compiled runs repeat bit for bit, a missing compiler costs one line, `auto` never keeps what is slower."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from agent.executors.choose import Timing, choose, compare, key_of, read_timings, write_timings
from agent.executors.compiled import Compiled
from agent.executors.eager import Steppable, eager
from agent.networks.trunks import GeneratorDropout
from agent.transitions import Transitions
from tests.agent.learners import digest, learn, make_algorithm, make_learner, random_transitions

ROOT = Path(__file__).parents[2]


def not_expected(message: str) -> None:
    pytest.fail(message)


def compiled_digest(updates: int) -> str:
    algorithm = make_learner(dropout=0.1)
    algorithm.executor = Compiled(not_expected)
    learn(algorithm, np.random.default_rng(0), updates)
    return digest(algorithm)


def in_another_process(program: str, **environment: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env={**os.environ, **environment},
        capture_output=True, text=True, check=True, timeout=180,
    ).stdout.strip()  # fmt: skip


def test_a_thousand_compiled_updates_in_two_processes_end_with_the_same_bits() -> None:
    program = "import tests.agent.test_executors as t; print(t.compiled_digest(1000))"
    assert in_another_process(program, PYTHONHASHSEED="12345") == compiled_digest(1000)


def test_without_a_compiler_the_update_runs_eagerly_after_one_line(tmp_path: Path) -> None:
    program = """
import numpy as np
from agent.executors.compiled import Compiled
from tests.agent.learners import digest, learn, make_learner
ours, plain = make_learner(), make_learner()
ours.executor = Compiled(print)
for algorithm in (ours, plain):
    learn(algorithm, np.random.default_rng(0), 5)
print(digest(ours) == digest(plain))
"""
    # No compiler on the path and none compiled before: the fault itself.
    out = in_another_process(
        program, PATH=str(tmp_path), CXX=str(tmp_path / "no-such-compiler"),
        TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "cache"),
    )  # fmt: skip
    lines = out.splitlines()
    assert len(lines) == 2, out
    assert "cannot be compiled here" in lines[0]
    assert "runs eagerly: install a C++ compiler" in lines[0]
    assert lines[1] == "True"


def test_whoever_waits_is_told_while_a_compiler_works_also_for_a_later_part_of_the_update() -> None:
    entered = []

    @contextmanager
    def working() -> Iterator[None]:
        entered.append(len(compiled._checked))
        yield

    # The learner of test_extraction.py, whose graphs are compiled once for both.
    algorithm = make_learner(offline_steps=4, extraction="after")
    compiled = Compiled(not_expected, working)
    algorithm.executor = compiled
    learn(algorithm, np.random.default_rng(0), 4)
    assert entered == [0, 1]  # the values' graph, then the policy's


def doubled(x: torch.Tensor) -> torch.Tensor:
    return 2.0 * x


def tripled(x: torch.Tensor) -> torch.Tensor:
    return 3.0 * x


class Scale(nn.Module):
    """A layer with a number."""

    def __init__(self) -> None:
        super().__init__()
        self.by = 0.5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.by * x


class Settings:
    """An update that reads one of each kind of thing that a learner's may."""

    part = "all"

    def __init__(self) -> None:
        self.factor, self.function, self.table = 1.5, doubled, {"shift": 0.25}
        self.penalty: torch.Tensor | None = None
        self.dropout = GeneratorDropout(0.5, torch.Generator().manual_seed(0))
        self.dropout.draw((32,), torch.zeros(()))
        self.layers = nn.Sequential(Scale())

    def step(self, batch: Transitions) -> dict[str, torch.Tensor]:
        q = self.layers(self.dropout(self.function(self.factor * batch.reward) + self.table["shift"]))
        return {"q": q if self.penalty is None else q - self.penalty}


@pytest.mark.parametrize(
    "change",
    [
        lambda settings: setattr(settings, "factor", 2.5),
        lambda settings: setattr(settings, "function", tripled),
        lambda settings: settings.table.update(shift=-1.0),
        lambda settings: setattr(settings, "penalty", torch.ones(32)),
        lambda settings: settings.dropout.eval(),
        lambda settings: setattr(settings.layers[0], "by", 2.0),
    ],
    ids=["number", "function", "table", "tensor for none", "training flag", "a layer's number"],
)
def test_a_compiled_update_notices_what_has_changed_since(change: Callable[[Settings], object]) -> None:
    settings, compiled = Settings(), Compiled(not_expected)
    batch = random_transitions(np.random.default_rng(0))
    before = compiled(settings, batch)["q"]
    torch.testing.assert_close(before, eager(settings, batch)["q"])
    change(settings)
    after = compiled(settings, batch)["q"]
    torch.testing.assert_close(after, eager(settings, batch)["q"])
    assert not torch.equal(before, after)


class Untraceable(Settings):
    """What it does depends on the numbers of the batch, which no graph of the whole update can hold."""

    def step(self, batch: Transitions) -> dict[str, torch.Tensor]:
        return {"q": batch.reward if batch.reward.sum() > 0 else -batch.reward}


def test_an_update_that_cannot_be_traced_runs_eagerly_after_one_line() -> None:
    said: list[str] = []
    compiled, batch = Compiled(said.append), random_transitions(np.random.default_rng(0))
    for _ in range(2):
        torch.testing.assert_close(compiled(Untraceable(), batch)["q"], eager(Untraceable(), batch)["q"])
    assert len(said) == 1 and "\n" not in said[0]
    assert "cannot be compiled here" in said[0] and said[0].endswith("runs eagerly")  # no compiler would mend it


def test_choosing_changes_nothing_of_the_learner(tmp_path: Path) -> None:
    algorithm = make_learner(dropout=0.1)
    learn(algorithm, np.random.default_rng(0), 3)
    before = digest(algorithm)
    choice = choose(algorithm, "auto", updates=100_000_000, say=not_expected, cache=tmp_path / "cache.json")
    assert digest(algorithm) == before
    timing = read_timings(tmp_path / "cache.json")[key_of(algorithm)]
    assert timing.compiled is not None
    # Whatever was measured here, the choice follows it.
    assert choice.name == ("compiled" if timing.worth_compiling(100_000_000) else "eager")
    algorithm.executor = choice.executor
    algorithm.update(random_transitions(np.random.default_rng(1)))


def test_a_short_run_does_not_wait_for_a_compiler(tmp_path: Path) -> None:
    choice = choose(make_learner(), "auto", updates=1_000, say=not_expected, cache=tmp_path / "cache.json")
    assert choice.name == "eager"
    assert "too few" in choice.reason
    assert not (tmp_path / "cache.json").exists()


@pytest.mark.parametrize(
    ("compiled", "updates"),
    [(0.011, 10**9), (0.010, 10**9), (0.0099, 10**9), (0.006, 1000), (None, 10**9)],
    ids=["slower", "as fast", "faster by noise", "too few updates", "not compilable"],
)
def test_auto_stays_eager_unless_compiling_ends_the_run_sooner(
    compiled: float | None, updates: int, tmp_path: Path
) -> None:
    algorithm, cache = make_learner(), tmp_path / "cache.json"
    write_timings(cache, {key_of(algorithm): Timing(eager=0.010, compiled=compiled, compile=20.0)})
    assert choose(algorithm, "auto", updates=updates, say=not_expected, cache=cache).name == "eager"


def test_auto_takes_cached_measurements_that_favour_compiling(tmp_path: Path) -> None:
    algorithm, cache = make_learner(), tmp_path / "cache.json"
    write_timings(cache, {key_of(algorithm): Timing(eager=0.010, compiled=0.006, compile=20.0)})
    assert choose(algorithm, "auto", updates=100_000, say=not_expected, cache=cache).name == "compiled"


@pytest.mark.parametrize(("compiled", "name"), [(0.009, "compiled"), (0.0099, "eager"), (0.011, "eager")])
def test_what_was_compiled_to_be_measured_is_used_if_it_is_faster_whatever_it_cost(
    compiled: float, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = Timing(eager=0.010, compiled=compiled, compile=1e9)
    monkeypatch.setattr("agent.executors.choose.compare", lambda *_: measured)
    algorithm, cache = make_learner(), tmp_path / "cache.json"
    assert choose(algorithm, "auto", updates=10**8, say=not_expected, cache=cache).name == name
    # A run to come would have to compile again.
    assert choose(algorithm, "auto", updates=10**8, say=not_expected, cache=cache).name == "eager"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"a": 3}', b'{"a": {"eager": 1}}'])
def test_a_damaged_cache_is_an_empty_one(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "cache.json").write_bytes(content)
    assert read_timings(tmp_path / "cache.json") == {}


def test_measurements_hold_for_their_shapes_precision_and_threads_only() -> None:
    keys = {key_of(make_learner()), key_of(make_learner(critics=3)), key_of(make_learner(hidden=(16, 17)))}
    torch.set_num_threads(2)
    keys.add(key_of(make_learner()))
    torch.set_num_threads(1)
    assert len(keys) == 4


class Noting(Compiled):
    """Runs eagerly, and notes which parts of the update it was given."""

    def __init__(self) -> None:
        super().__init__(not_expected)
        self.parts: list[str] = []

    def __call__(self, algorithm: Steppable, batch: Transitions) -> dict[str, torch.Tensor]:
        self.parts.append(algorithm.part)
        return eager(algorithm, batch)


@pytest.mark.parametrize("delay", [2, 3])
def test_both_executors_are_timed_on_the_same_parts_of_the_update(delay: int, monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm, noting, eagerly = make_algorithm("td3_bc", policy_delay=delay), Noting(), Noting()
    monkeypatch.setattr("agent.executors.choose.eager", eagerly)
    compare(algorithm, noting)
    assert eagerly.parts == noting.parts[2:]  # the first two only compile
    assert {"critics", "all"} == set(eagerly.parts)
