"""The spec of a store and its fingerprint."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from replay import StoreSpec
from replay.errors import SchemaError

TERMS = [
    {"name": "achieved_goal", "offset": 0, "length": 2, "dtype": "float64"},
    {"name": "observation", "offset": 2, "length": 4, "dtype": "float32"},
]


def make(**changes: object) -> StoreSpec:
    arguments = {"terms": TERMS, "low": [-1.0, -2.0], "high": [1.0, 2.0], "info": ("success",), **changes}
    return StoreSpec.from_terms(**arguments)  # type: ignore[arg-type]


def test_json_round_trip_is_equal() -> None:
    spec = make(env={"id": "X-v0", "kwargs": {"a": 1}, "max_episode_steps": 5}, source={"kind": "minari"})
    assert StoreSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_fields_tile_the_row_and_padding_is_a_multiple_of_8() -> None:
    spec = make()
    assert spec.row_width == 24 and spec.row_width % 8 == 0
    covered = [column for field in spec.fields.values() for column in range(field.start, field.stop)]
    assert covered == list(range(6 + 2 + 1 + 7 + 1))
    assert len(spec.columns) == spec.row_width
    assert spec.columns[spec.offsets["success"]] == "success"


def test_fingerprint_depends_on_layout_and_bounds_only() -> None:
    spec = make()
    assert make(env={"id": "Y"}, source={"kind": "z"}, info=(), action_dtype="float64") .layout_fingerprint \
        == spec.layout_fingerprint  # fmt: skip
    other_dtype = [{**TERMS[0], "dtype": "float32"}, TERMS[1]]
    assert make(terms=other_dtype).layout_fingerprint == spec.layout_fingerprint
    assert make(high=[1.0, 2.5]).layout_fingerprint != spec.layout_fingerprint
    renamed = [{**TERMS[0], "name": "desired_goal"}, TERMS[1]]
    assert make(terms=renamed).layout_fingerprint != spec.layout_fingerprint


def test_bounds_from_float64_and_float32_sources_agree() -> None:
    low64, low32 = [-0.4, -0.1], np.array([-0.4, -0.1], np.float32)
    assert make(low=low64).layout_fingerprint == make(low=low32).layout_fingerprint


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"terms": []}, "no observation term"),
        ({"terms": [{**TERMS[0], "offset": 1}]}, "offset 1"),
        ({"terms": [{"name": "x"}]}, "need name, offset"),
        ({"terms": [TERMS[0], {**TERMS[1], "name": "achieved_goal"}]}, "not unique"),
        ({"low": [-1.0]}, "lengths 1 and 2"),
        ({"high": [1.0, math.inf]}, "dimension 1"),
        ({"low": [2.0, -2.0]}, "dimension 0"),
        ({"info": ("reward",)}, "info columns"),
        ({"info": ("a", "a")}, "info columns"),
    ],
)
def test_senseless_specs_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(SchemaError, match=said) as caught:
        make(**changes)
    assert "\n" not in str(caught.value)
