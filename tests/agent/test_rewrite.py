"""Rewrites of a compiled update's graph: the gradients stay what they are, and fewer results are stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.utils import run_and_get_code
from torch.func import functional_call
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

from agent.executors.rewrite import ATEN, PRIMS, Rewrite
from agent.networks import MLP
from agent.networks.products import AFFINE

ROWS, INPUTS, WIDTH = 24, 5, 16


def calls(module: GraphModule, target: Any) -> list[Node]:
    return list(module.graph.find_nodes(op="call_function", target=target))


def traced(function: Callable[..., Any], *arguments: Tensor) -> GraphModule:
    """The graph that the compiler's rules have been applied to when it asks for ours."""
    module = make_fx(function, decomposition_table=select_decomp_table(), tracing_mode="fake")(*arguments)
    for node in calls(module, ATEN.alias.default):  # the compiler has removed them by then
        node.replace_all_uses_with(node.args[0])
        module.graph.erase_node(node)
    return module


def rewritten(module: GraphModule) -> GraphModule:
    Rewrite()(module.graph)
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()
    return module


def gradients(precision: str) -> tuple[Callable[..., Any], list[Tensor]]:
    """A function to the loss and gradients of a network with one output, and its arguments."""
    generator = torch.Generator().manual_seed(0)
    network = MLP(INPUTS, (WIDTH, WIDTH), 1, generator=generator)
    names = [name for name, _ in network.named_parameters()]

    def function(x: Tensor, *values: Tensor) -> Any:
        parameters = dict(zip(names, values, strict=True))
        loss = functional_call(network, parameters, (x, AFFINE[precision])).square().mean()
        return loss, *torch.autograd.grad(loss, values)

    x = torch.randn(ROWS, INPUTS, generator=generator)
    return function, [x, *(torch.randn(p.shape, generator=generator).requires_grad_() for p in network.parameters())]


def narrow(module: GraphModule) -> list[Node]:
    """Products in float32 that have a vector on either side."""
    products = [(node, *(argument.meta["val"] for argument in node.args)) for node in calls(module, ATEN.mm.default)]
    return [
        node for node, left, right in products
        if left.dtype == torch.float32 and (left.shape[1] == 1 or right.shape[1] == 1)
    ]  # fmt: skip


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("bf16", 1e-2)])
def test_loss_and_gradients_are_the_same(precision: str, tolerance: float) -> None:
    function, arguments = gradients(precision)
    module = rewritten(traced(function, *arguments))
    for ours, plain in zip(module(*arguments), function(*arguments), strict=True):
        assert (ours - plain).norm() <= tolerance * plain.norm()


@pytest.mark.parametrize("precision", AFFINE)
def test_no_bias_is_copied_before_a_product(precision: str) -> None:
    function, arguments = gradients(precision)
    assert calls(module := traced(function, *arguments), ATEN.addmm.default)
    assert not calls(rewritten(module), ATEN.addmm.default)


def test_a_scaled_sum_is_left_as_it_is() -> None:
    bias, left, right = torch.randn(4), torch.randn(3, 2), torch.randn(2, 4)
    module = rewritten(traced(lambda *three: torch.addmm(*three, beta=0.5), bias, left, right))
    torch.testing.assert_close(module(bias, left, right), 0.5 * bias + left @ right)


@pytest.mark.parametrize("precision", AFFINE)
def test_no_product_with_a_vector_is_stored_for_its_own_sake(precision: str) -> None:
    function, arguments = gradients(precision)
    module = traced(function, *arguments)
    assert narrow(module) or calls(module, ATEN.addmm.default)
    assert not narrow(rewritten(module))


def test_an_activation_that_a_product_takes_rounded_has_no_other_reader() -> None:
    def readers(module: GraphModule) -> list[int]:
        activations = [node.args[0] for node in calls(module, PRIMS.convert_element_type.default)]
        return [len(a.users) for a in activations if isinstance(a, Node) and a.target is ATEN.relu.default]

    function, arguments = gradients("bf16")
    assert readers(module := traced(function, *arguments)) == [2]  # the product, and the gradient's mask
    assert readers(rewritten(module)) == [1]


def test_the_mask_of_a_rounded_activation_is_that_of_the_activation() -> None:
    """Also for the smallest numbers that float32 gives without leaving its normal range."""
    tiny = torch.finfo(torch.float32).tiny
    x = torch.tensor([-1.0, -tiny, 0.0, tiny, 1e-30, 1.0]).reshape(-1, 1).requires_grad_()

    def function(x: Tensor) -> Tensor:
        return torch.autograd.grad((torch.relu(x).bfloat16() @ torch.ones(1, 2).bfloat16()).sum(), x)[0]

    assert torch.equal(rewritten(traced(function, x))(x), function(x))
    assert function(x).flatten().tolist() == [0.0, 0.0, 0.0, 2.0, 2.0, 2.0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own
def test_a_number_that_tensors_are_combined_with_is_computed_once() -> None:
    """Adam's correction for three parameters: one power in the compiler's code, not one in the loop of each."""

    def corrected(step: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        correction = 1.0 - torch.pow(0.9, step)
        return tuple(p / correction for p in parameters)

    arguments = [torch.tensor(3.0), *(torch.arange(1.0, size) for size in (33, 49, 65))]

    def powers(**options: Any) -> int:
        compiled = torch.compile(corrected, options={"fx_graph_cache": False, **options})
        results, code = run_and_get_code(compiled, *arguments)
        torch.testing.assert_close(results, corrected(*arguments))
        return "".join(code).count("std::pow")

    assert powers() == 3
    assert powers(post_grad_custom_post_pass=Rewrite()) == 1
