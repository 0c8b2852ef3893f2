"""The rotation on a CUDA GPU: one pass each way, backward turning back (triton/pointwise.py)."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from amaru.ops.native import short
from amaru.ops.triton import kernels, launch, power_of_two, refusal


def refuses(x: Tensor, cos: Tensor, sin: Tensor) -> str | None:
    if cos.dtype is not torch.float32:
        return f"needs angles in float32, got {short(cos.dtype)}"
    return refusal(x, cos, sin)


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return _Rotary.apply(x, cos, sin)  # type: ignore[no-any-return]


class _Rotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        cos, sin = cos.contiguous(), sin.contiguous()
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin, 1.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turned(grad, cos, sin, -1.0), None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    x = x if x.stride(2) == 1 else x.contiguous()
    (tokens, heads, channels), half = x.shape, cos.shape[1]
    y = x.new_empty(x.shape)
    sizes = {"HEADS": heads, "CHANNELS": channels, "HALF": half, "HEAD_BLOCK": power_of_two(heads)}
    sizes |= {"HALF_BLOCK": power_of_two(half), "REST_BLOCK": power_of_two(channels - 2 * half, 1)}
    launch(kernels("pointwise").rotary, (tokens,), x, cos, sin, y, x.stride(0), x.stride(1), sign, **sizes)
    return y
