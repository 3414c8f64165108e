"""A contract says the same thing to everybody, or it is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from export.contract import Contract, contract_from_metadata
from export.contract import contract_metadata as metadata_of
from export.contract_parts import ActionSpec, Control, Normalizer, ObservationTerm
from export.errors import ContractError
from export.matching import check_expected
from tests.export.policies import make_contract


def test_a_contract_survives_json_with_every_digit() -> None:
    contract = make_contract()
    again = Contract.from_json(contract.to_json())
    assert again == contract
    assert again.to_json() == contract.to_json()
    assert again.normalizer.mean == contract.normalizer.mean


def test_json_is_canonical() -> None:
    text = make_contract().to_json().decode()
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))


def test_any_difference_changes_the_digest() -> None:
    mean = make_contract().normalizer.mean
    nudged = (np.nextafter(mean[0], np.inf), *mean[1:])
    others = [
        make_contract(policy_version=8),
        make_contract(normalizer=Normalizer(mean=nudged, std=make_contract().normalizer.std, count=1000)),
    ]
    assert len({contract.digest() for contract in [make_contract(), *others]}) == 3


def test_keys_of_a_newer_minor_version_are_ignored() -> None:
    plain = make_contract().to_dict() | {"later": 1}
    plain["control"]["jitter_ms"] = 2.0
    assert Contract.from_dict(plain) == make_contract()


@pytest.mark.parametrize("key", ["schema", "observation", "action", "control", "normalizer", "policy_id"])
def test_a_missing_key_is_refused_and_named(key: str) -> None:
    plain = make_contract().to_dict()
    del plain[key]
    with pytest.raises(ContractError, match=key):
        Contract.from_dict(plain)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b"null",
        make_contract().to_json().replace(b"policy/1", b"policy/2"),
        make_contract().to_json().replace(b'"step":1234', b'"step":1234,"step":1235'),
        make_contract().to_json().replace(b'"clip":10.0', b'"clip":NaN'),
        make_contract().to_json().replace(b'"offset":8', b'"offset":7'),
        make_contract().to_json().replace(b'"length":9', b'"length":"9"'),
        make_contract().to_json().replace(b'"recurrent":null', b'"recurrent":{}'),
    ],
    ids=lambda text: repr(text[:12]),
)
def test_text_that_is_no_contract_is_refused_in_one_line(text: bytes) -> None:
    with pytest.raises(ContractError) as error:
        Contract.from_json(text, where="x/policy.onnx")
    assert str(error.value).startswith("x/policy.onnx: ")
    assert "\n" not in str(error.value)


def test_contradictions_are_refused_when_built() -> None:
    term = ObservationTerm(name="a", offset=0, length=2)
    ok: dict[str, Any] = {
        "policy_id": "p",
        "observation": (term,),
        "normalizer": Normalizer.identity(2),
        "action": ActionSpec(low=(-1.0,), high=(1.0,)),
    }
    Contract(**ok)
    bad: list[dict[str, Any]] = [
        {"policy_id": ""},
        {"observation": ()},
        {"observation": (term, term)},
        {"normalizer": Normalizer.identity(3)},
        {"action": ActionSpec(low=(-1.0,), high=(1.0,), rate_limit=(1.0,))},
        {"schema": "slipway.policy/2"},
        {"env": {}},
        {"env": {"id": None, "max_episode_steps": 10}},
    ]
    for change in bad:
        with pytest.raises(ContractError):
            Contract(**(ok | change))
    for build in (
        lambda: ActionSpec(low=(1.0,), high=(1.0,)),
        lambda: ActionSpec(low=(-np.inf,), high=(1.0,)),
        lambda: ActionSpec(low=(-1.0, -1.0), high=(1.0, 1.0), names=("a", "a")),
        lambda: ActionSpec(low=(-1.0,), high=(1.0,), rate_limit=(0.0,)),
        lambda: Normalizer(mean=(0.0,), std=(np.nan,)),
        lambda: Normalizer(mean=(0.0,), std=(-1.0,)),
        lambda: Normalizer(mean=(0.0,), std=(1.0,), eps=0.0),
        lambda: Normalizer(mean=(0.0,), std=(1.0,), clip=0.0),
        lambda: Control(hz=0.0),
        lambda: Control(on_fault="pray"),
        lambda: ObservationTerm(name="a", offset=0, length=2, valid_min=(0.0,)),
    ):
        with pytest.raises(ContractError):
            build()


def test_metadata_that_disagrees_with_its_checksum_is_refused() -> None:
    metadata = metadata_of(make_contract())
    assert contract_from_metadata(metadata, where="m") == make_contract()
    for key in metadata:
        with pytest.raises(ContractError, match="carries no slipway contract"):
            contract_from_metadata({k: v for k, v in metadata.items() if k != key}, where="m")
    swapped = metadata | {k: v for k, v in metadata_of(make_contract(seed=1)).items() if k.endswith("sha256")}
    with pytest.raises(ContractError, match="checksum"):
        contract_from_metadata(swapped, where="m")


def test_constants_are_those_of_the_equations() -> None:
    contract = make_contract()
    constants = contract.constants()
    std = np.maximum(contract.normalizer.std, contract.normalizer.eps)
    np.testing.assert_array_equal(constants["normalizer.inv_std"], (1.0 / std).astype(np.float32))
    low, high = np.asarray(contract.action.low), np.asarray(contract.action.high)
    np.testing.assert_array_equal(constants["action.scale"], ((high - low) / 2).astype(np.float32))
    np.testing.assert_array_equal(constants["action.shift"], ((high + low) / 2).astype(np.float32))
    assert {value.dtype for value in constants.values()} == {np.dtype(np.float32)}
    assert "normalizer.clip_low" not in make_contract(clip=None).constants()


def test_expectations_agree_in_float32_and_name_what_differs() -> None:
    actual = make_contract().to_dict()
    low32 = [float(np.float32(value)) for value in actual["action"]["low"]]
    check_expected(actual, {"action": {"low": low32}, "env": {"id": "Test-v0"}}, where="p")
    check_expected(actual, {"action": {"low": np.asarray(low32)}}, where="p")
    names = actual["action"]["names"]
    for expected, named in (
        ({"action": {"names": [names[1], names[0], *names[2:]]}}, r"action\.names\[0\]"),
        ({"action": {"low": low32[:-1]}}, r"action\.low has 6 entries, 5 are expected"),
        ({"observation": actual["observation"][::-1]}, r"observation\[0\]"),
        ({"env": {"id": "Other-v0"}}, r"env\.id is 'Test-v0'"),
        ({"robot": {"colour": "red"}}, r"robot\.colour is expected .* its keys are model, revision"),
        ({"obsrvation": [{"name": "qpos"}]}, "no policy's contract has such a key; did you mean observation"),
        ({"action": {"lows": low32}}, r"action\.lows is .* did you mean action\.low\?"),
        ({"recurrent": {"size": 4}}, r"contract has no recurrent\.size, .* exported for this robot"),
        ({"candidates": {"count": 4}}, "contract has no candidates, .* exported for this robot"),
        ({"env": {"kwargs": {"wind": 1}}}, r"contract has no env\.kwargs\.wind"),
        ({"layout_fingerprint": "abc"}, "layout_fingerprint"),
    ):
        with pytest.raises(ContractError, match=named):
            check_expected(actual, expected, where="p")
