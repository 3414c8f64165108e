"""A graph that is recalled gives the bytes of a full export, and is recalled for the very same computation only."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from agent.networks import MLP
from export import graph_cache
from export.contract import Contract
from export.errors import ExportError
from export.graph_cache import digest_of, operations
from export.onnx_writer import export_policy
from tests.export.candidates import BEST_OF_5, EITHER, contract_of, make_policy
from tests.export.policies import ACT, OBS, make_contract, make_network
from tests.export.recurrent import make_recurrent_contract, make_recurrent_network
from tests.export.test_squashed_noise import Squashed, squashed_contract

Policy = tuple[torch.nn.Module, torch.Tensor | None, Contract]


def noisy(seed: int) -> Policy:
    return make_network(seed), torch.linspace(-2.0, 0.1 * seed, ACT), make_contract(seed=seed, stochastic=True)


def choosing(candidates: Any) -> Callable[[int], Policy]:
    def made(seed: int) -> Policy:
        policy = make_policy(candidates, seed)
        return policy, None, contract_of(policy)

    return made


def dense(seed: int) -> Policy:
    generator = torch.Generator().manual_seed(seed)
    return MLP(OBS, (24, 24), ACT, generator=generator, dense=True), None, make_contract(seed=seed)


KINDS: dict[str, Callable[[int], Policy]] = {
    "layer norm": lambda seed: (make_network(seed, layer_norm=True), None, make_contract(seed=seed)),
    "dense": dense,
    "noise": noisy,
    "squashed noise": lambda seed: (Squashed(seed), None, squashed_contract(seed)),
    "recurrent": lambda seed: (make_recurrent_network(seed), None, make_recurrent_contract(seed=seed)),
    "best of five, its own noise": choosing(replace(BEST_OF_5, seed=1)),
    "expansion": choosing(EITHER),
}


def exported(policy: Policy, cache: Path | None = None) -> bytes:
    network, log_std, contract = policy
    return export_policy(network, log_std=log_std, contract=contract, cache=cache)


@pytest.fixture
def unconverted(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Called, it takes torch's exporter away."""

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("converted although it was kept")

    return lambda: monkeypatch.setattr(torch.onnx, "export", refuse)


# Each kind is two full exports.
OFTEN = ("noise", "recurrent", "best of five, its own noise")


@pytest.mark.parametrize("kind", [pytest.param(k, marks=[] if k in OFTEN else pytest.mark.full) for k in KINDS])
def test_a_recalled_graph_with_other_weights_gives_the_bytes_of_a_full_export(
    kind: str, tmp_path: Path, unconverted: Callable[[], None]
) -> None:
    make = KINDS[kind]
    first, second = exported(make(1), tmp_path), exported(make(2))
    assert first != second
    (kept,) = tmp_path.iterdir()
    unconverted()
    assert exported(make(2), tmp_path) == second
    assert exported(make(1), tmp_path) == first
    assert list(tmp_path.iterdir()) == [kept]


class Odd(torch.nn.Module):
    """A layer and one thing more that a graph could miss."""

    def __init__(self, then: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(OBS, ACT)
        self.then = then

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.then(self.layer(x))


def two_layers(*, tied: bool) -> torch.nn.Module:
    """Two layers of one shape, or one twice: the same weights' names and shapes."""
    first, second = torch.nn.Linear(OBS, OBS), torch.nn.Linear(OBS, OBS)
    return torch.nn.Sequential(first, first if tied else second, torch.nn.Linear(OBS, ACT))


DIFFERENT: dict[str, tuple[torch.nn.Module, torch.nn.Module]] = {
    "activation": (Odd(torch.relu), Odd(torch.tanh)),
    "a number": (Odd(lambda x: torch.clamp(x, -1.0, 1.0)), Odd(lambda x: torch.clamp(x, -1.0, 2.0))),
    "epsilon of a norm": (
        Odd(torch.nn.LayerNorm(ACT, eps=1e-5)), Odd(torch.nn.LayerNorm(ACT, eps=1e-3)),
    ),
    "a constant of the code": (
        Odd(lambda x: x + torch.arange(ACT)), Odd(lambda x: x + torch.arange(ACT).flip(0)),
    ),
    "a constant of another type": (
        Odd(lambda x: x + torch.tensor(1.0, dtype=torch.bfloat16)),
        Odd(lambda x: x + torch.tensor(2.0, dtype=torch.bfloat16)),
    ),
    "order of operands": (Odd(lambda x: x - torch.relu(x)), Odd(lambda x: torch.relu(x) - x)),
    "which of two layers": (two_layers(tied=False), two_layers(tied=True)),
    "a size or the batch's": (
        Odd(lambda x: x / x.shape[0]), Odd(lambda x: x / 2),
    ),
    "beside tensors' operations": (
        Odd(lambda x: x + float(x.detach().numpy().sum())), Odd(lambda x: x + 0.0),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", DIFFERENT)
def test_another_computation_has_another_digest(what: str) -> None:
    one, other = (digest_of(net, {"normalized": OBS}, {"raw": ACT}, opset=18) for net in DIFFERENT[what])
    assert one != other


def test_libraries_and_format_count(monkeypatch: pytest.MonkeyPatch) -> None:
    def digest(opset: int = 18) -> str:
        return digest_of(make_network(), {"normalized": OBS}, {"raw": ACT}, opset=opset)

    before = digest()
    assert digest() == before == digest_of(make_network(7), {"normalized": OBS}, {"raw": ACT}, opset=18)
    assert digest(opset=19) != before
    for name in graph_cache.CONVERTERS:
        with monkeypatch.context() as patch:
            patch.setattr(graph_cache, "version", lambda asked, name=name: "9.9" if asked == name else "1.0")
            newer = digest()
            patch.setattr(graph_cache, "version", lambda asked: "1.0")
            assert digest() != newer


def test_operations_are_the_same_words_in_every_process() -> None:
    code = """
from export.graph_cache import operations
from tests.export.policies import OBS, make_network
print(operations(make_network(layer_norm=True).eval(), {"normalized": OBS}))
"""
    said = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120,
            cwd=Path(__file__).parents[2], env=os.environ | {"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert said[0] == said[1] == operations(make_network(layer_norm=True).eval(), {"normalized": OBS}) + "\n"


def test_a_damaged_file_is_converted_anew_and_mended(model: bytes, tmp_path: Path) -> None:
    policy = make_network(), None, make_contract()
    assert exported(policy, tmp_path) == model
    (kept,) = tmp_path.iterdir()
    whole = kept.read_bytes()
    for damaged in (b"", whole[:-1], whole[:40] + bytes([whole[40] ^ 1]) + whole[41:]):
        kept.write_bytes(damaged)
        assert exported(policy, tmp_path) == model
        assert kept.read_bytes() == whole


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(model: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    assert exported((make_network(), None, make_contract()), tmp_path / "file" / "graphs") == model


def test_what_has_no_onnx_form_is_refused_with_a_cache_too(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ExportError, match="has no ONNX form"):
            exported((Odd(lambda x: x if x.sum() > 0 else -x), None, make_contract()), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_recalled_graph_needs_no_exporter_and_no_compiler(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from export.onnx_writer import export_policy
from tests.export.policies import make_contract, make_network
export_policy(make_network(), log_std=None, contract=make_contract(), cache=Path(sys.argv[1]))
print([name for name in ("torch._dynamo", "onnxscript", "sympy") if name in sys.modules])
"""
    for expected in (["torch._dynamo", "onnxscript", "sympy"], []):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True, timeout=120,
            cwd=Path(__file__).parents[2],
        )  # fmt: skip
        assert done.stdout.strip() == str(expected)
