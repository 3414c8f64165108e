"""Smaller variants of an exported policy. Normaliser, bounds and squashing stay float32; only weights shrink.

* `wfp16`: weight matrices stored as float16 and cast to float32 in the graph (onnxruntime folds the cast when it opens
  the file): half the size, the same speed and memory.
* `int8`: weight matrices as int8, activations quantised while running: a quarter of the size, one observation at a
  time.

Static int8 and float16 arithmetic are not offered: they round the normaliser. Whether a variant is good enough is not
decided here but measured by the parity gate. Used where policies are made: needs the package `onnx`.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from export import wire
from export.contract import Contract, contract_metadata
from export.errors import ExportError
from export.template import Template

QUANTIZATIONS = ("int8",)


def weight_fp16(model: bytes) -> bytes:
    """ONNX bytes of the variant `wfp16` of a float32 policy. Values beyond float16 saturate, which the gate notices."""
    proto, contract = _graph_of(model)
    casts = []
    for tensor in proto.graph.initializer:
        # Vectors (biases, scales of a layer norm) are no size to save and would add as much error.
        if tensor.name.startswith("network.") and tensor.data_type == TensorProto.FLOAT and len(tensor.dims) >= 2:
            name, limit = tensor.name, np.finfo(np.float16).max
            halves = np.clip(numpy_helper.to_array(tensor), -limit, limit).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(halves, f"{name}.fp16"))
            casts.append(helper.make_node("Cast", [f"{name}.fp16"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    return _finish(proto, contract, "wfp16")


def dynamic_int8(model: bytes) -> bytes:
    """ONNX bytes of the variant `int8` of a float32 policy: onnxruntime's dynamic quantisation of its matrix products.

    Raises ExportError when there is no matrix product to quantise.
    """
    proto, contract = _graph_of(model)
    chatter = logging.getLogger()
    level = chatter.level
    chatter.setLevel(logging.ERROR)  # "consider to run pre-processing", on the root logger
    try:
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "int8.onnx"
            # Unsigned weights: products of unsigned and signed saturate on processors without VNNI.
            quantize_dynamic(
                proto, target, op_types_to_quantize=["MatMul"], weight_type=QuantType.QUInt8, per_channel=True
            )
            quantized = onnx.load(target)
    finally:
        chatter.setLevel(level)
    if not any(node.op_type == "MatMulInteger" for node in quantized.graph.node):
        raise ExportError("policy has no matrix product that int8 could replace: leave --quantize out")
    return _finish(quantized, contract, "int8")


def _graph_of(model: bytes) -> tuple[onnx.ModelProto, Contract]:
    contract = Template.from_bytes(model).contract
    if contract.recurrent is not None:
        # The gate measures one step from a given state; over a sequence a variant's error feeds back into its state,
        # and no error that the manifest could state would bound that.
        raise ExportError(
            "a recurrent policy has no smaller variants, their error would grow in its state: ship float32"
        )
    if contract.candidates is not None:
        # Rounded values choose another candidate here and there, which moves the action by any amount.
        raise ExportError("a policy that chooses between candidates has no smaller variants: ship float32")
    proto = onnx.load_from_string(model)
    del proto.metadata_props[:]
    return proto, contract


def _finish(proto: onnx.ModelProto, contract: Contract, variant: str) -> bytes:
    """Only the graph, then the contract: what a quantiser adds beside it differs from run to run or crashes others."""
    del proto.metadata_props[:]
    del proto.graph.value_info[:]
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.ClearField("doc_string")
    proto.producer_name, proto.ir_version = "slipway", contract.onnx.ir
    onnx.checker.check_model(proto)
    body: bytes = proto.SerializeToString(deterministic=True)
    data = body + wire.encode_entries(contract_metadata(contract, variant))
    Template.from_bytes(data)  # normaliser and bounds must have stayed what the contract says
    return data
