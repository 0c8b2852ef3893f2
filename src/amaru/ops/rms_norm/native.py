"""The norm compiled for the CPU: one pass each way, nothing kept but the inputs (native/rms_norm.cpp)."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from amaru.ops.native import call, kernel, short

SERVED = (torch.bfloat16, torch.float32)


def refuses(x: Tensor, weight: Tensor, *, eps: float) -> str | None:
    if not x.is_cpu or x.dtype not in SERVED or weight.dtype not in SERVED:
        return f"serves float32 and bfloat16 on the CPU, got {short(x.dtype)} and {short(weight.dtype)} on {x.device.type}"
    return None


def rms_norm(x: Tensor, weight: Tensor, *, eps: float) -> Tensor:
    if x.dim() != 2 or x.stride(1) != 1:
        return rms_norm(x.reshape(-1, x.shape[-1]).contiguous(), weight, eps=eps).view(x.shape)
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return _Norm.apply(x, weight.float(), eps)  # type: ignore[no-any-return]
    return _forward(x, weight, eps)


def _forward(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    tokens, width = x.shape
    y = x.new_empty(tokens, width)
    kernel("rms_norm", "iiiiifpppi")(
        x.dtype is torch.bfloat16,
        weight.dtype is torch.bfloat16,
        tokens,
        width,
        x.stride(0),
        eps,
        x.data_ptr(),
        weight.contiguous().data_ptr(),
        y.data_ptr(),
        torch.get_num_threads(),
    )
    return y


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, weight.contiguous())
        ctx.eps = eps
        return _forward(x, weight, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        dx, dweight = torch.empty(x.shape, dtype=x.dtype), torch.empty_like(weight)
        description = int(x.dtype == torch.bfloat16), *x.shape, x.stride(0), float(ctx.eps)
        call("rms_norm_backward", *description, x, weight, grad.contiguous(), dx, dweight, torch.get_num_threads())
        return dx, dweight, None
