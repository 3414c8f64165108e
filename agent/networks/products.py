"""The affine map of a layer, in float32 throughout or with its matrix product in bfloat16."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Affine = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x [..., B, in], weight [..., in, out], bias [..., 1 or nothing, out]) → [..., B, out], float32."""


def affine_float32(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x·W + b of stacked networks in the precision of its arguments."""
    # bmm + add is faster on CPUs than baddbmm, which copies the broadcast bias first.
    return torch.bmm(x, weight) + bias


def affine_bf16(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x·W with operands and result rounded to bfloat16, accumulated in float32; b is added in float32.

    The casts are explicit because oneDNN takes torch's `set_float32_matmul_precision("medium")` as a hint only, which
    it does not follow on CPUs with AVX512-bf16 but without AMX.
    """
    return torch.matmul(x.bfloat16(), weight.bfloat16()).float() + bias


def affine_joined(x: Tensor, inputs: Tensor, weight: Tensor, bias: Tensor, affine: Affine) -> Tensor:
    """[x, inputs]·W + b, of which `affine` makes x's part alone: rounding a network's inputs costs accuracy."""
    width = x.shape[-1]
    return affine(x, weight[..., :width, :], bias) + torch.matmul(inputs, weight[..., width:, :])


AFFINE: dict[str, Affine] = {"float32": affine_float32, "bf16": affine_bf16}
"""By the name of the precision. Networks use it between hidden layers; see `MLP.forward`."""
