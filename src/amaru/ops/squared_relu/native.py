"""The activation compiled for the CPU: one pass each way, nothing kept but the input (native/squared_relu.cpp)."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from amaru.ops.native import call, kernel, short

SERVED = (torch.bfloat16, torch.float32)


def refuses(x: Tensor) -> str | None:
    if not x.is_cpu or x.dtype not in SERVED:
        return f"serves float32 and bfloat16 on the CPU, got {short(x.dtype)} on {x.device.type}"
    return None


def squared_relu(x: Tensor) -> Tensor:
    if torch.is_grad_enabled() and x.requires_grad:
        return _SquaredReLU.apply(x)  # type: ignore[no-any-return]
    return _forward(x.contiguous())


def _forward(x: Tensor) -> Tensor:
    y = torch.empty_like(x)
    kernel("squared_relu", "iippi")(x.dtype is torch.bfloat16, x.numel(), x.data_ptr(), y.data_ptr(), torch.get_num_threads())
    return y


class _SquaredReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x)
        return _forward(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        dx = torch.empty_like(x)
        call("squared_relu_backward", int(x.dtype == torch.bfloat16), x.numel(), x, grad.contiguous(), dx, torch.get_num_threads())
        return dx
