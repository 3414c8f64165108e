"""Patching a template gives the bytes of a full export, fast, and refuses what does not fit."""

from __future__ import annotations

import time

import numpy as np
import onnx
import pytest
import torch

from export import wire
from export.contract import contract_metadata
from export.errors import ContractError, ExportError, IntegrityError
from export.onnx_writer import export_policy
from export.template import Template
from tests.export.policies import ACT, OBS, make_contract, make_network, weights_of


@pytest.mark.parametrize(
    ("layer_norm", "stochastic", "clips"),
    [(False, False, (5.0, 7.0)), (True, True, (None, None)), (False, True, (5.0, 5.0))],
)
def test_a_patched_template_equals_a_full_export(
    layer_norm: bool, stochastic: bool, clips: tuple[float | None, float | None]
) -> None:
    old = make_contract(seed=1, stochastic=stochastic, clip=clips[0])
    new = make_contract(seed=2, stochastic=stochastic, clip=clips[1], policy_id="a much longer name " * 20)
    std_1, std_2 = (torch.full((ACT,), value) if stochastic else None for value in (0.0, -1.0))
    first = export_policy(make_network(1, layer_norm=layer_norm), log_std=std_1, contract=old)
    second_network = make_network(2, layer_norm=layer_norm)
    full = export_policy(second_network, log_std=std_2, contract=new)

    template = Template.from_bytes(first)
    weights = weights_of(second_network, std_2)
    assert set(template.weight_names) == set(weights)
    assert template.patch(weights, new) == full
    # And back again, from the patched bytes.
    assert Template.from_bytes(full).patch(weights_of(make_network(1, layer_norm=layer_norm), std_1), old) == first


def test_patching_takes_at_most_5_ms_at_two_layers_of_256() -> None:
    network = make_network(width=256)
    template = Template.from_bytes(export_policy(network, log_std=None, contract=make_contract()))
    weights, contract = weights_of(network), make_contract(seed=1)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        template.patch(weights, contract)
        times.append(time.perf_counter() - start)
    assert np.median(times) < 5e-3


def test_weights_may_be_views_of_another_type_or_order(model: bytes) -> None:
    template, contract = Template.from_bytes(model), make_contract()
    weights = weights_of(make_network())
    expected = template.patch(weights, contract)
    fortran = {name: np.asfortranarray(value.astype(np.float64)) for name, value in weights.items()}
    assert template.patch(fortran, contract) == expected
    assert template.patch(weights | {"network.unused": np.zeros(3)}, contract) == expected


def test_weights_that_do_not_fit_are_refused(model: bytes) -> None:
    template, contract = Template.from_bytes(model), make_contract()
    weights = weights_of(make_network())
    with pytest.raises(ExportError, match=r"lack network\.0\.bias"):
        template.patch({name: value for name, value in weights.items() if name != "network.0.bias"}, contract)
    with pytest.raises(ExportError, match=r"network\.0\.weight has shape"):
        template.patch(weights | {"network.0.weight": weights["network.0.weight"].T}, contract)
    for bad in (np.nan, np.inf):
        poisoned = weights["network.3.weight"].copy()
        poisoned[0, 0] = bad
        with pytest.raises(ExportError, match=r"network\.3\.weight holds NaN or infinity"):
            template.patch(weights | {"network.3.weight": poisoned}, contract)


def test_a_contract_for_another_graph_is_refused(model: bytes) -> None:
    template, weights = Template.from_bytes(model), weights_of(make_network())
    for other in (make_contract(clip=None), make_contract(stochastic=True)):
        with pytest.raises(ContractError, match="another graph"):
            template.patch(weights, other)


def test_a_truncated_model_is_refused(model: bytes) -> None:
    rng = np.random.default_rng(0)
    for length in [0, 1, len(model) - 1, *rng.integers(len(model), size=200)]:
        with pytest.raises(ExportError):
            Template.from_bytes(model[:length])


def test_random_bytes_are_refused_with_an_export_error(model: bytes) -> None:
    """Whatever stands in the file, reading it either works or raises ExportError: no other exception escapes."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        broken = bytearray(model)
        for at in rng.integers(len(model), size=4):
            broken[at] = rng.integers(256)
        try:
            Template.from_bytes(bytes(broken))
        except ExportError as error:
            assert "\n" not in str(error)


def test_a_graph_that_contradicts_its_contract_is_refused(model: bytes) -> None:
    """The right checksum on the wrong contract: normaliser and bounds in the graph give it away."""
    proto = onnx.load_from_string(model)
    del proto.metadata_props[:]
    forged = proto.SerializeToString() + wire.encode_entries(contract_metadata(make_contract(seed=9)))
    with pytest.raises(ContractError, match=r"normalizer\.mean in the graph"):
        Template.from_bytes(forged)


def test_duplicate_or_misplaced_metadata_is_refused(model: bytes) -> None:
    entries = wire.encode_entries(contract_metadata(make_contract()))
    with pytest.raises(IntegrityError, match="twice"):
        Template.from_bytes(model + entries)
    with pytest.raises(IntegrityError, match="not the end"):
        Template.from_bytes(entries + model[: -len(entries)])


def test_weights_in_another_file_are_refused(model: bytes) -> None:
    proto = onnx.load_from_string(model)
    tensor = proto.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    with pytest.raises(IntegrityError, match="another file"):
        Template.from_bytes(proto.SerializeToString())


def test_a_template_reads_the_weights_it_holds(model: bytes) -> None:
    template, weights = Template.from_bytes(model), weights_of(make_network())
    for name in template.weight_names:
        np.testing.assert_array_equal(template.weight(name), weights[name])
    assert template.weight("network.0.weight").shape == (32, OBS)
