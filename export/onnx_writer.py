"""Actor -> ONNX: with graph_cache the only file of this package that imports torch.

The network alone goes through torch's exporter; the normaliser in front of it and the squashing, noise, scaling and
clamping behind it are written out node by node, so that every constant keeps the name by which `template` patches it:

    observation -> (o - mean) * inv_std -> clip ±c -> network -> raw
    raw -> tanh -> [+ exp(log_std) * eps] -> clip ±1 -> * scale + shift -> clamp(low, high) -> action

Where the contract's noise is squashed, the network also gives log_std and the noise enters before tanh:

    raw + exp(log_std) * eps -> tanh -> * scale + shift -> clamp(low, high) -> action

A policy with candidates makes its choice in the network, which takes the noise and the critics in (export.candidates):

    normalized observation, eps -> network -> unit, raw, q;  unit -> * scale + shift -> clamp(low, high) -> action

A recurrent network also takes the state `h_in` and gives `h_out`, which pass through as they are.

The exporter's optimiser stays off: it merges equal constants and folds weights into others, after which a weight can
no longer be replaced. onnxruntime does the same folding when it opens the file.

Shape legend: B batch, O observation entries, A action entries, H entries of the state, K candidates, E noise entries.
"""

from __future__ import annotations

import copy
import logging
import warnings
from pathlib import Path

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from export import graph_cache, wire
from export.contract import Contract, contract_metadata
from export.contract_parts import NOISE, SQUASHED_NOISE
from export.errors import ContractError, ExportError
from export.template import Template


class _Named(torch.nn.Module):
    """Gives the network's initializers their prefix `network.`."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, normalized: torch.Tensor) -> torch.Tensor:
        raw: torch.Tensor = self.network(normalized)
        return raw


class _NamedRecurrent(_Named):
    """The same for a network with a hidden state."""

    def forward(  # type: ignore[override]
        self, normalized: torch.Tensor, h_in: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        raw, h_out = self.network(normalized, h_in)
        return raw, h_out


class _NamedSquashed(_Named):
    """The same for a network that also gives the log deviation of its noise."""

    def forward(self, normalized: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        raw, log_std = self.network(normalized)
        return raw, log_std


class _NamedCandidates(_Named):
    """The same for one that chooses; the noise is an argument unless the network has its own."""

    def forward(  # type: ignore[override]
        self, normalized: torch.Tensor, eps: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        unit, raw, q = self.network(normalized) if eps is None else self.network(normalized, eps)
        return unit, raw, q


def export_policy(
    network: torch.nn.Module, *, log_std: torch.Tensor | None, contract: Contract, cache: Path | None = None
) -> bytes:
    """ONNX bytes of a policy; equal inputs give equal bytes, whatever the folder, with a `cache` and without.

    `network` maps the normalised observation [B, O] float32 to the pre-squash mean [B, A]; it is copied, moved to the
    CPU and put in evaluation mode. Where `contract.recurrent` is set it maps (normalised observation [B, O], h_in
    [B, H]) to (mean [B, A], h_out [B, H]), with no state of its own. `log_std` [A] adds the input `eps` [B, A] and must
    be given exactly when `contract.stochastic.eps`; unless `contract.stochastic.squashed`, where the network maps to
    (mean [B, A], log_std [B, A]) instead. With `contract.candidates` it maps (normalised observation, eps [B, E]), or
    where they have a seed the observation alone, to (action within ±1 [B, A], mean [B, A], q [B, K]). `cache` is a
    folder of graphs converted before (`export.graph_cache`): seconds less for a network like an earlier one. Raises
    ExportError when the network has other sizes or cannot be expressed in ONNX.
    """
    stochastic = contract.stochastic
    if stochastic.form not in (NOISE, SQUASHED_NOISE):
        raise ContractError(f"contract stochastic.form {stochastic.form!r} is no noise that can be exported")
    added = stochastic.eps and not stochastic.squashed and contract.candidates is None
    if (log_std is not None) != added:
        raise ContractError(
            "contract stochastic.eps must be true exactly when log_std is given, or the form that of squashed noise: "
            "correct the contract"
        )
    if stochastic.squashed and contract.recurrent is not None:
        raise ContractError("contract: a recurrent policy cannot have squashed noise; leave the noise or the state out")
    if log_std is not None and tuple(log_std.shape) != (contract.action_size,):
        raise ExportError(f"log_std has shape {tuple(log_std.shape)}, the action {contract.action_size} entries")
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise ExportError(f"weight {name} is {tensor.dtype}: a policy is float32; export `network.float()`")
    recurrent = contract.recurrent
    wrapper = _NamedSquashed if stochastic.squashed else _Named if recurrent is None else _NamedRecurrent
    if contract.candidates is not None:
        wrapper = _NamedCandidates
    graph = _export_network(wrapper(copy.deepcopy(network).cpu().eval()), contract, cache)
    if log_std is not None:
        graph.initializer.append(numpy_helper.from_array(log_std.detach().cpu().float().numpy(), "log_std"))
    for name, value in contract.constants().items():
        graph.initializer.append(numpy_helper.from_array(value, name))

    whole = helper.make_graph(
        [*_before(contract), *graph.node, *_after(contract)],
        "slipway_policy",
        [_value("observation", contract.observation_size)]
        + ([] if recurrent is None else [_value("h_in", recurrent.size)])
        + ([_value("eps", contract.noise_size)] if stochastic.eps else []),
        [_value("action", contract.action_size), _value("raw", contract.action_size)]
        + ([] if recurrent is None else [_value("h_out", recurrent.size)])
        + ([] if contract.candidates is None else [_value("q", contract.candidates.count)]),
        initializer=list(graph.initializer),
    )
    model = helper.make_model(
        whole,
        producer_name="slipway",
        producer_version=f"torch {torch.__version__}",
        ir_version=contract.onnx.ir,
        opset_imports=[helper.make_opsetid("", contract.onnx.opset)],
    )
    onnx.checker.check_model(model)
    body: bytes = model.SerializeToString(deterministic=True)
    data = body + wire.encode_entries(contract_metadata(contract))
    Template.from_bytes(data)  # an export that cannot be patched and read back is refused here, not on the device
    return data


def _before(contract: Contract) -> list[onnx.NodeProto]:
    node = helper.make_node
    clip = contract.normalizer.clip is not None
    nodes = [
        node("Sub", ["observation", "normalizer.mean"], ["policy/centred"]),
        node("Mul", ["policy/centred", "normalizer.inv_std"], ["policy/scaled" if clip else "policy/normalized"]),
    ]
    if clip:
        limits = ["normalizer.clip_low", "normalizer.clip_high"]
        nodes.append(node("Clip", ["policy/scaled", *limits], ["policy/normalized"]))
    return nodes


def _after(contract: Contract) -> list[onnx.NodeProto]:
    node = helper.make_node
    squashed = "policy/squashed"
    nodes: list[onnx.NodeProto] = []
    if contract.candidates is not None:
        squashed = "policy/unit"
    elif contract.stochastic.squashed:
        nodes = [
            node("Exp", ["log_std"], ["policy/std"]),
            node("Mul", ["policy/std", "eps"], ["policy/noise"]),
            node("Add", ["raw", "policy/noise"], ["policy/noisy"]),
            node("Tanh", ["policy/noisy"], [squashed]),
        ]
    else:
        nodes = [node("Tanh", ["raw"], [squashed])]
    if contract.candidates is None and contract.stochastic.eps and not contract.stochastic.squashed:
        one = [
            node("Constant", [], [name], value=helper.make_tensor(name, TensorProto.FLOAT, [], [value]))
            for name, value in (("policy/-1", -1.0), ("policy/+1", 1.0))
        ]
        nodes += [
            node("Exp", ["log_std"], ["policy/std"]),
            node("Mul", ["policy/std", "eps"], ["policy/noise"]),
            node("Add", ["policy/squashed", "policy/noise"], ["policy/noisy"]),
            *one,
            node("Clip", ["policy/noisy", "policy/-1", "policy/+1"], ["policy/unit"]),
        ]
        squashed = "policy/unit"
    # Behind tanh all lies within ±1, so that clamp would change nothing.
    return [
        *nodes,
        node("Mul", [squashed, "action.scale"], ["policy/spread"]),
        node("Add", ["policy/spread", "action.shift"], ["policy/shifted"]),
        node("Max", ["policy/shifted", "action.low"], ["policy/floored"]),
        node("Min", ["policy/floored", "action.high"], ["action"]),
    ]


def _value(name: str, size: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])


def _export_network(named: _Named, contract: Contract, cache: Path | None) -> onnx.GraphProto:
    sizes = {"normalized": contract.observation_size}
    outputs = {"raw": contract.action_size}
    if contract.candidates is not None:
        outputs = {"policy/unit": contract.action_size, **outputs, "q": contract.candidates.count}
        if contract.stochastic.eps:
            sizes["eps"] = contract.noise_size
    elif contract.stochastic.squashed:
        outputs["log_std"] = contract.action_size
    if contract.recurrent is not None:
        sizes["h_in"] = outputs["h_out"] = contract.recurrent.size
    examples = tuple(torch.zeros(2, size) for size in sizes.values())
    _check_outputs(named, examples, outputs)
    if cache is None:
        return _convert(named, sizes, outputs, opset=contract.onnx.opset)
    weights = named.state_dict()
    digest = graph_cache.digest_of(named, sizes, outputs, opset=contract.onnx.opset)
    graph = graph_cache.recall(cache, digest, weights)
    if graph is None:
        graph = _convert(named, sizes, outputs, opset=contract.onnx.opset)
        graph_cache.keep(cache, digest, graph, weights)
    return graph


def _convert(named: _Named, sizes: dict[str, int], outputs: dict[str, int], *, opset: int) -> onnx.GraphProto:
    """The network by torch's exporter. Raises ExportError."""
    examples = tuple(torch.zeros(2, size) for size in sizes.values())
    chatter = logging.getLogger("torch.onnx")
    level = chatter.level
    chatter.setLevel(logging.ERROR)  # "torchvision is not installed", once for every export
    try:
        with warnings.catch_warnings():
            # The exporter's own deprecation and axis-name notes; nothing in them is for our caller.
            for category in (DeprecationWarning, FutureWarning, UserWarning):
                warnings.simplefilter("ignore", category)
            program = torch.onnx.export(
                named,
                examples,
                dynamo=True,
                external_data=False,
                opset_version=opset,
                optimize=False,
                verbose=False,
                input_names=["policy/normalized", *list(sizes)[1:]],
                output_names=list(outputs),
                dynamic_shapes={name: {0: torch.export.Dim("batch")} for name in sizes},
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise ExportError(f"network has no ONNX form ({error}): use operations that torch.onnx exports") from error
    finally:
        chatter.setLevel(level)
    if program is None:
        raise ExportError("torch.onnx.export returned nothing: install a torch that has the dynamo exporter (>= 2.8)")
    graph: onnx.GraphProto = program.model_proto.graph
    for item in graph.node:
        # Source paths and stack traces of the exporting machine: they would make bytes differ per checkout.
        del item.metadata_props[:]
        item.ClearField("doc_string")
    return graph


def _check_outputs(named: _Named, examples: tuple[torch.Tensor, ...], outputs: dict[str, int]) -> None:
    """The network must take what the contract says and give `outputs`: [2, size] each."""
    size = examples[0].shape[1]
    second = "noise" if isinstance(named, _NamedCandidates) else "state"
    state = f" and a [2, {examples[1].shape[1]}] {second}" if len(examples) > 1 else ""
    with torch.no_grad():
        try:
            given = named(*examples)
        except (RuntimeError, ValueError, TypeError) as error:
            raise ExportError(
                f"network refuses a [2, {size}] observation{state} ({error}): contract and network differ"
            ) from error
    for (name, entries), value in zip(outputs.items(), given if len(outputs) > 1 else (given,), strict=True):
        if not isinstance(value, torch.Tensor) or tuple(value.shape) != (2, entries):
            shape = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
            raise ExportError(
                f"network gives {shape} for a batch of 2, the contract [2, {entries}]"
                + (f" as {name}" if len(outputs) > 1 else "")
            )
