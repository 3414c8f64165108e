"""Policies that choose between candidates by Q, in the graph: the choice, its noise, its patching, its refusals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from agent.networks import CandidatePolicy
from export.candidates import EXPANSION, Candidates, draw_noise
from export.contract import Contract
from export.contract_parts import Recurrent
from export.errors import ContractError, ExportError
from export.onnx_writer import export_policy
from export.parity_observations import parity_observations
from export.runner import PolicyRunner
from export.safeguards import Flag
from export.template import Template
from tests.export.candidates import BEST_OF_5, EITHER, by_hand, contract_of, make_policy
from tests.export.policies import ACT, OBS, make_contract


class Exported:
    """A policy, its contract and what runs its graph."""

    def __init__(self, candidates: Candidates, seed: int = 0) -> None:
        self.policy: CandidatePolicy = make_policy(candidates, seed)
        self.contract: Contract = contract_of(self.policy)
        self.model = export_policy(self.policy, log_std=None, contract=self.contract)
        self.runner = PolicyRunner(self.model)


@pytest.fixture(scope="module", params=[BEST_OF_5, EITHER], ids=["best", "expansion"])
def exported(request: pytest.FixtureRequest) -> Exported:
    return Exported(request.param)


def test_the_graph_chooses_as_the_equations_do(exported: Exported) -> None:
    rng = np.random.default_rng(0)
    observations, _ = parity_observations(exported.contract, rng, count=2000)
    eps = draw_noise(exported.contract, rng, len(observations))
    wanted, q, margin = by_hand(exported.policy, exported.contract, observations, eps)
    given = exported.runner.infer_candidates(observations, eps)[2]
    np.testing.assert_allclose(given, q, rtol=1e-4, atol=1e-4)
    clear = margin > 1e-3  # elsewhere float32 may see another one ahead
    assert clear.mean() > 0.8
    np.testing.assert_allclose(exported.runner.act(observations, eps)[clear], wanted[clear], rtol=1e-4, atol=1e-4)
    if exported.policy.candidates == EITHER:
        still = eps.copy()
        still[:, :ACT] = 0.0
        others = exported.runner.act(observations, still) - exported.runner.act(observations)
        assert 0.1 < (np.abs(others) > 1e-3).any(axis=1).mean() < 0.9, "both policies act"


def test_one_observation_through_the_bound_buffers_is_chosen_for_as_in_a_batch(exported: Exported) -> None:
    rng = np.random.default_rng(1)
    observations = rng.standard_normal((50, OBS), dtype=np.float32)
    eps = draw_noise(exported.contract, rng, 50)
    together = exported.runner.act(observations, eps)
    with pytest.raises(ExportError, match=rf"\[{exported.contract.noise_size}\] is needed"):
        exported.runner.act(observations[0], np.zeros(ACT, np.float32))
    alone = [exported.runner.act(row, noise) for row, noise in zip(observations, eps, strict=True)]
    np.testing.assert_allclose(alone, together, rtol=1e-5, atol=1e-5)


def test_without_noise_it_acts_by_the_actors_mean(exported: Exported) -> None:
    observations = np.random.default_rng(2).standard_normal((200, OBS), dtype=np.float32)
    mean, raw = exported.runner.infer(observations)
    contract = exported.contract
    low, high = np.asarray(contract.action.low), np.asarray(contract.action.high)
    np.testing.assert_allclose(mean, np.tanh(raw) * (high - low) / 2 + (high + low) / 2, atol=1e-5)
    exported.runner.act(observations[0], draw_noise(contract, np.random.default_rng(3), 1)[0])
    exported.runner.reset()
    # The guarded step forgets the noise of the run before.
    action, flags = exported.runner.step(observations[1])
    assert flags == Flag.OK
    np.testing.assert_allclose(action, mean[1], atol=1e-6)


def test_patching_gives_the_bytes_of_a_new_export_and_refuses_another_choice(exported: Exported) -> None:
    newer = Exported(exported.policy.candidates, seed=7)
    template = Template.from_bytes(exported.model)
    assert template.patch(newer.policy.exported_weights(), newer.contract) == newer.model
    other = replace(newer.contract, candidates=replace(BEST_OF_5, count=6))
    with pytest.raises(ContractError, match="another graph"):
        template.patch(newer.policy.exported_weights(), other)
    weights = {name: w for name, w in newer.policy.exported_weights().items() if "critic" not in name}
    with pytest.raises(ExportError, match=r"weights lack network\.critic"):
        template.patch(weights, newer.contract)


def test_the_contract_says_what_chooses_and_reads_back(exported: Exported) -> None:
    assert PolicyRunner(exported.model).contract == exported.contract
    assert Contract.from_json(exported.contract.to_json()) == exported.contract
    assert b"candidates" not in make_contract().to_json()


def test_noise_repeats_with_its_generator_and_is_of_its_kind() -> None:
    either, best, plain = (
        replace(make_contract(stochastic=True), candidates=candidates) for candidates in (EITHER, BEST_OF_5, None)
    )
    for contract, size in ((either, ACT + 1), (best, 5 * ACT), (plain, ACT)):
        noise = draw_noise(contract, np.random.default_rng(4), 500, spread=2.0)
        assert noise.shape == (500, size)
        assert noise.dtype == np.float32
        np.testing.assert_array_equal(noise, draw_noise(contract, np.random.default_rng(4), 500, spread=2.0))
        assert 1.8 < noise[:, :ACT].std() < 2.2
    u = draw_noise(either, np.random.default_rng(4), 500, spread=2.0)[:, -1]
    assert 0.0 <= u.min() < 0.02 < 0.98 < u.max() < 1.0


def test_candidates_of_the_graph_itself_are_the_mean_and_the_seeds() -> None:
    ours = Exported(Candidates(count=8, seed=1))
    runner = ours.runner
    assert not runner.stochastic
    observations = np.random.default_rng(5).standard_normal((300, OBS), dtype=np.float32)
    action = runner.act(observations)
    np.testing.assert_array_equal(action, PolicyRunner(ours.model).act(observations))
    assert not np.array_equal(ours.policy.noise, make_policy(Candidates(count=8, seed=2)).noise)
    q = runner.infer_candidates(observations)[2]
    eps = np.tile(ours.policy.noise.numpy(), (300, 1))
    wanted, q_by_hand, margin = by_hand(ours.policy, ours.contract, observations, eps)
    np.testing.assert_allclose(q, q_by_hand, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(action[margin > 1e-3], wanted[margin > 1e-3], rtol=1e-4, atol=1e-4)
    assert not ours.policy.noise.numpy()[:ACT].any(), "the mean is among them"
    assert (q.max(axis=1) > q[:, 0] + 1e-3).mean() > 0.5, "another one is often better"
    with pytest.raises(ExportError, match="deterministic"):
        runner.act(observations[0], np.zeros(ACT, np.float32))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"count": 0}, "from 1 to 256"), ({"count": 257}, "from 1 to 256"), ({"count": True}, "from 1 to 256"),
        ({"count": 5, "choice": "worst"}, "best or expansion"), ({"count": 5, "temperature": 1.0}, "nothing else"),
        ({"count": 2, "choice": EXPANSION}, "temperature"),
        ({"count": 3, "choice": EXPANSION, "temperature": 1.0}, "expansion has 2"),
        ({"count": 2, "choice": EXPANSION, "temperature": 0.0}, "positive"),
        ({"count": 2, "choice": EXPANSION, "temperature": float("nan")}, "positive"),
        ({"count": 5, "seed": -1}, "0 or more"),
        ({"count": 2, "choice": EXPANSION, "temperature": 1.0, "seed": 1}, "none to an expansion"),
    ],
)  # fmt: skip
def test_candidates_that_cannot_be_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ContractError, match=words):
        Candidates(**values)


def test_contracts_that_contradict_their_candidates_are_refused() -> None:
    with pytest.raises(ContractError, match="recurrent"):
        make_contract(stochastic=True, candidates=BEST_OF_5, recurrent=Recurrent(size=1, initial=(0.0,)))
    with pytest.raises(ContractError, match="no seed"):
        make_contract(candidates=BEST_OF_5)
