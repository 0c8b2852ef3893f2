"""The activation on a CUDA GPU: one pass each way (triton/pointwise.py)."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from amaru.ops.triton import kernels, launch, refusal

BLOCK = 1024  # elements of a program


def refuses(x: Tensor) -> str | None:
    return refusal(x)


def squared_relu(x: Tensor) -> Tensor:
    return _SquaredReLU.apply(x)  # type: ignore[no-any-return]


class _SquaredReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x)
        y = torch.empty_like(x)
        launch(kernels("pointwise").squared_relu, [-(-x.numel() // BLOCK)], x, y, x.numel(), BLOCK=BLOCK)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        dx = torch.empty_like(x)
        launch(kernels("pointwise").squared_relu_backward, [-(-x.numel() // BLOCK)], x, grad.contiguous(), dx, x.numel(), BLOCK=BLOCK)
        return dx
