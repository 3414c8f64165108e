"""Rewrites of a compiled update's graph, for processors: they keep results out of memory and numbers out of loops.

An update of small networks streams megabytes of activations, gradients and moments through a core's caches: a result
that is written to fresh memory takes several times as long as one that is not. No rule changes what is computed but for
the order in which numbers are added.
"""

from __future__ import annotations

from typing import Any

import torch
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
from torch.fx import Graph, Node

ATEN, PRIMS = torch.ops.aten, torch.ops.prims


class Rewrite(CustomGraphPass):
    """All rules, after the compiler's own; changes the graph in place."""

    def __call__(self, graph: Graph) -> None:
        add_biases_afterwards(graph)
        multiply_narrow_matrices(graph)
        mask_by_rounded_activations(graph)
        compute_scalars_once(graph)

    def uuid(self) -> bytes:
        """What stands for these rules in the key of torch's cache of compiled graphs."""
        return get_hash_for_files((__file__,))


def add_biases_afterwards(graph: Graph) -> None:
    """x·W + b as a product, and a sum that joins the activation after it: `addmm` first fills its result with b."""
    for node in graph.find_nodes(op="call_function", target=ATEN.addmm.default):
        if not node.kwargs:  # with beta or alpha
            bias, left, right = node.args
            with graph.inserting_before(node):
                replace(node, call(graph, ATEN.add.Tensor, call(graph, ATEN.mm.default, left, right), bias))


def multiply_narrow_matrices(graph: Graph) -> None:
    """Products with a vector, as in a layer with one output, as element-wise products that join what is around them.

    The gradient, [B, 1]·[1, width], then goes through the activation's mask without being stored; activations that
    nothing else needs, [B, width]·[width, 1], are summed up without being stored.
    """
    for node in graph.find_nodes(op="call_function", target=ATEN.mm.default):
        left, right = node.args
        if left.meta["val"].dtype != torch.float32:
            continue
        with graph.inserting_before(node):
            if left.meta["val"].shape[1] == 1:
                replace(node, call(graph, ATEN.mul.Tensor, left, right))
            elif right.meta["val"].shape[1] == 1:
                row = call(graph, ATEN.permute.default, right, [1, 0])
                replace(node, call(graph, ATEN.sum.dim_IntList, call(graph, ATEN.mul.Tensor, left, row), [1], True))


def mask_by_rounded_activations(graph: Graph) -> None:
    """The gradient's mask relu(x) ≤ 0 from relu(x) in bfloat16 where a product needs that: then float32 is not kept.

    Rounding takes no positive number above 2⁻¹³⁴ to zero.
    """
    for rounded in graph.find_nodes(op="call_function", target=PRIMS.convert_element_type.default):
        activation, dtype = rounded.args
        if dtype == torch.bfloat16 and activation.target is ATEN.relu.default:
            for user in list(activation.users):
                if user.target is ATEN.le.Scalar and rounded < user:
                    user.replace_input_with(activation, rounded)


def compute_scalars_once(graph: Graph) -> None:
    """Numbers that whole tensors are combined with, as Adam's corrections, as results of their own.

    The compiler would compute them within the loops over the tensors, once for every vector of elements, since it
    cannot tell that what the loops write is not what the numbers are made of: two powers for every 16 parameters.
    """
    for node in list(graph.nodes):
        if is_scalar(node) and any(not is_scalar(user) and "val" in user.meta for user in node.users):
            with graph.inserting_after(node):
                stored = call(graph, ATEN.as_strided.default, node, [], [])  # which the compiler never inlines
            node.replace_all_uses_with(stored, delete_user_cb=lambda user, stored=stored: user is not stored)


def is_scalar(node: Node) -> bool:
    """Whether `node` computes a single number, and not a constant."""
    value = node.meta.get("val")
    computed = node.op == "call_function" and node.target is not ATEN.full.default
    return computed and isinstance(value, torch.Tensor) and value.dim() == 0


def call(graph: Graph, operation: Any, *arguments: Any) -> Node:
    """A new node, with the shape and type that the compiler expects of each."""
    node = graph.call_function(operation, arguments)
    values = (argument.meta["val"] if isinstance(argument, Node) else argument for argument in arguments)
    node.meta["val"] = operation(*values)
    return node


def replace(node: Node, by: Node) -> None:
    """Let `by` stand wherever `node` is read."""
    node.replace_all_uses_with(by)
    node.graph.erase_node(node)
