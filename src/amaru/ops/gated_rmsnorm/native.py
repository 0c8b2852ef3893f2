"""The gated norm compiled for the CPU: one pass over the tokens each way, nothing kept but the inputs (native/gated_rmsnorm.cpp)."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from amaru.ops.native import call, refusal, short, token_rows


def refuses(y: Tensor, z: Tensor, weight: Tensor, *, groups: int, eps: float) -> str | None:
    if y.dtype != z.dtype:
        return f"needs y and z of one dtype, got {short(y.dtype)} and {short(z.dtype)}"
    return refusal(y, z, weight)


def gated_rmsnorm(y: Tensor, z: Tensor, weight: Tensor, *, groups: int, eps: float) -> Tensor:
    return _Norm.apply(y, z, weight.float(), groups, eps)  # type: ignore[no-any-return]


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, z: Tensor, weight: Tensor, groups: int, eps: float) -> Tensor:
        y, z, weight = token_rows(y), token_rows(z), weight.contiguous()
        out = torch.empty(y.shape, dtype=y.dtype)
        description = int(y.dtype == torch.bfloat16), [*y.shape, groups, y.stride(0), z.stride(0)], float(eps)
        call("norm_forward", *description, y, z, weight, out, torch.get_num_threads())
        ctx.save_for_backward(y, z, weight)
        ctx.description = description
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        y, z, weight = ctx.saved_tensors
        dy, dz = torch.empty(2, *y.shape, dtype=y.dtype).unbind()
        dweight = torch.zeros_like(weight)
        call("norm_backward", *ctx.description, y, z, weight, grad.contiguous(), dy, dz, dweight, torch.get_num_threads())
        return dy, dz, dweight, None, None
