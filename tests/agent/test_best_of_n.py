"""`slipway export --best-of-n`: the choice in the graph, compared with the network; what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.algorithms import config_class
from agent.export_request import request_export
from agent.exporting import export_run
from agent.run_directory import RunDirectory
from agent.setup_run import set_up
from export.bundle import write_bundle
from export.candidates import Candidates
from export.errors import ContractError, ExportError, ParityError
from export.onnx_writer import export_policy
from export.parity import check_parity, make_cases
from export.quantize import dynamic_int8, weight_fp16
from export.runner import PolicyRunner
from export.safeguards import Flag
from export.template import Template
from export.tolerances import candidate_cases, tolerances
from export.verify import verify
from tests.agent.test_lockstep import HOPPER, config_of, live, make_data
from tests.export.candidates import BEST_OF_5, by_hand, contract_of, make_policy
from tests.integration.command import refusal

OTHERS = [pytest.param(name, marks=pytest.mark.full) for name in ("cal_ql", "td3_bc", "one_step")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("best-of-n")
    make_data(place / "data.zarr", HOPPER)
    return place


def pretrained(place: Path, name: str, **changes: Any) -> RunDirectory:
    """A run of some updates, made at the first call."""
    run = RunDirectory(place / "-".join([name, *map(str, changes)]))
    if not run.path.exists():
        algorithm = replace(config_class(name)(), hidden=(16, 16), batch_size=16, **changes)
        set_up(run, replace(config_of(place, run.path.name), algorithm=algorithm, online_steps=0))
        for folder in (run.logs, run.policies, run.checkpoints):
            folder.mkdir(exist_ok=True)
        assert live(run)
    return run


@pytest.mark.parametrize("name", ["iql", *OTHERS])
def test_an_export_that_chooses_agrees_with_the_network_and_is_run_like_any_other(place: Path, name: str) -> None:
    run, bundle = pretrained(place, name), place / f"{name}.policy"
    outcome = export_run(request_export(run.path, bundle, best_of_n=5, seed=3))
    parity = outcome["parity"]
    assert outcome["policy"].endswith("-best-of-5")
    assert set(outcome["variants"]) == {"float32"}
    assert outcome["variants"]["float32"]["evaluation"] is None
    assert parity["share_of_tolerance"] <= 1.0
    assert parity["observations"] >= 10_000
    assert parity["near_ties"] < 0.1 * parity["observations"]  # a squashed policy saturates far from its data
    assert verify(bundle)["golden"]["share_of_tolerance"] <= 1.0
    runner = PolicyRunner(bundle)
    assert runner.contract.candidates == Candidates(count=5, seed=3)
    assert not runner.stochastic
    observations = np.random.default_rng(0).standard_normal((200, runner.observation_size), dtype=np.float32)
    action, raw, q = runner.infer_candidates(observations)
    mean = np.tanh(raw)  # Hopper's bounds are ±1
    first = q.argmax(axis=1) == 0  # the mean itself
    np.testing.assert_allclose(action[first], mean[first], atol=1e-4)
    assert (np.abs(action - mean)[~first] > 1e-3).any(axis=1).mean() > 0.5
    assert 0 < first.sum() < len(first)
    assert runner.step(observations[0])[1] == Flag.OK
    assert "Of 5 candidates" in (bundle / "MODEL_CARD.md").read_text()


@pytest.mark.full
def test_the_same_seed_gives_the_same_bytes(place: Path) -> None:
    run = pretrained(place, "iql")
    once, again = (
        export_run(request_export(run.path, place / f"{name}.policy", best_of_n=3)) for name in ("once", "again")
    )
    first, second = ((Path(each["bundle"]) / "policy.onnx").read_bytes() for each in (once, again))
    assert first == second


@pytest.mark.parametrize(
    ("name", "changes", "flags", "words"),
    [
        ("bc", {}, ("--best-of-n", 5), "--best-of-n chooses by Q, but bc learns no Q"),
        ("iql", {"anti_exploration": "rnd"}, ("--best-of-n", 5), "but algorithm.anti_exploration takes a bonus off Q"),
        ("iql", {}, ("--best-of-n", 5, "--quantize", "int8"), "--best-of-n and --quantize int8 exclude each other"),
        ("iql", {}, ("--best-of-n", 1), "--best-of-n is 1 but must be 0 or lie in 2 to 256"),
        ("iql", {}, ("--best-of-n", 257), "--best-of-n is 257 but must be 0 or lie in 2 to 256"),
        ("iql", {}, ("--best-of-n", -1), "--best-of-n is -1 but must be 0 or lie in 2 to 256"),
    ],
)
def test_a_choice_that_cannot_be_exported_is_refused_in_one_line(
    place: Path, name: str, changes: dict[str, Any], flags: tuple[Any, ...], words: str
) -> None:
    run = pretrained(place, name, **changes)
    assert words in refusal("export", run.path, "--out", "never.policy", *flags, cwd=place)
    assert not (place / "never.policy").exists()


# --- the gate -------------------------------------------------------------------------------------------------------


class Gated:
    """A small policy of a given noise, its graph, and its definition in NumPy as the gate's reference."""

    def __init__(self) -> None:
        self.policy = make_policy(replace(BEST_OF_5, seed=1))
        self.contract = contract_of(self.policy)
        self.model = export_policy(self.policy, log_std=None, contract=self.contract)

    def reference(self, observations: np.ndarray) -> tuple[np.ndarray, ...]:
        eps = np.tile(self.policy.noise.numpy(), (len(observations), 1))
        action, q, _ = by_hand(self.policy, self.contract, observations.astype(np.float64), eps)
        raw = PolicyRunner(self.model).infer(observations)[1]
        log_std = np.broadcast_to(self.policy.actor.clamped_log_std().detach().numpy(), raw.shape)
        return action.astype(np.float32), raw, log_std, q.astype(np.float32)


@pytest.fixture(scope="module")
def gated() -> Gated:
    return Gated()


@pytest.mark.parametrize(("output", "entry", "words"), [(0, 2, "action run"), (3, 4, "q run as one batch")])
def test_the_gate_notices_a_wrong_choice_and_a_wrong_value(gated: Gated, output: int, entry: int, words: str) -> None:
    def wrong(observations: np.ndarray) -> tuple[np.ndarray, ...]:
        outputs = [each.copy() for each in gated.reference(observations)]
        outputs[output][:, entry] += 0.01
        return tuple(outputs)

    cases = make_cases(gated.model, gated.reference, np.random.default_rng(0))
    assert check_parity({"float32": gated.model}, cases)["float32"]["share_of_tolerance"] <= 1.0
    with pytest.raises(ParityError, match=words):
        check_parity({"float32": gated.model}, make_cases(gated.model, wrong, np.random.default_rng(0)))


def test_only_where_candidates_are_alike_but_for_rounding_any_of_them_will_do(gated: Gated) -> None:
    observations = np.random.default_rng(0).standard_normal((50, len(gated.contract.normalizer.mean)), dtype=np.float32)
    names = ("action", "raw", "log_std", "q")
    outputs = dict(zip(names, gated.reference(observations), strict=True))
    template, allowed = Template.from_bytes(gated.model), tolerances(outputs, gated.contract)
    clear = candidate_cases(template, outputs, allowed)
    assert not clear["near_ties"].any()
    assert clear["action_tolerance"].max() < 1e-3
    best = outputs["q"].argmax(axis=1)
    outputs["q"][7, (best[7] + 1) % 5] = np.nextafter(outputs["q"][7, best[7]], np.float32(-np.inf))
    tied = candidate_cases(template, outputs, allowed)
    assert np.flatnonzero(tied["near_ties"]).tolist() == [7]
    assert tied["action_tolerance"][7].max() > 0.01
    np.testing.assert_array_equal(np.delete(tied["action_tolerance"], 7, 0), np.delete(clear["action_tolerance"], 7, 0))


def test_what_rounds_values_or_leaves_the_noise_outside_is_no_bundle(gated: Gated, tmp_path: Path) -> None:
    for reduce in (dynamic_int8, weight_fp16):
        with pytest.raises(ExportError, match="chooses between candidates has no smaller variants"):
            reduce(gated.model)
    policy = make_policy(BEST_OF_5)
    model = export_policy(policy, log_std=None, contract=contract_of(policy))
    with pytest.raises(ContractError, match="candidates have no seed"):
        write_bundle(tmp_path / "a.policy", model, reference=gated.reference, rng=np.random.default_rng(0))
    assert not (tmp_path / "a.policy").exists()
