"""How the norms' kernels are started, with a gate and without (norm.py)."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from amaru.ops.triton.library import kernels, launch, power_of_two

PARTS = 256  # programs of the backward pass for each group
WIDEST = 32768  # columns of a group, which lie in the registers of one program


def norm(x: Tensor, z: Tensor | None, weight: Tensor, groups: int, eps: float) -> Tensor:
    """x [T, columns], normed in each of `groups` parts after silu(z) multiplied it."""
    return _Norm.apply(x, z, weight, groups, eps)  # type: ignore[no-any-return]


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, z: Tensor | None, weight: Tensor, groups: int, eps: float) -> Tensor:
        x, z = _rows(x), None if z is None else _rows(z)
        weight = weight.contiguous()
        y = x.new_empty(x.shape)
        ctx.save_for_backward(x, z, weight)
        ctx.groups, ctx.eps = groups, eps
        launch(kernels("norm").forward, (len(x), groups), x, z, weight, y, *_strides(x, z), eps, **_shape(x, groups))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, z, weight = ctx.saved_tensors
        parts = max(1, min(PARTS, len(x)))
        dx, dz = x.new_empty(x.shape), None if z is None else z.new_empty(z.shape)
        dweight = weight.new_empty(parts, len(weight), dtype=torch.float32)
        given = x, z, weight, grad.contiguous(), dx, dz, dweight, len(x), *_strides(x, z), ctx.eps
        launch(kernels("norm").backward, (parts, ctx.groups), *given, **_shape(x, ctx.groups))
        return dx, dz, dweight.sum(0).to(weight.dtype), None, None


def _rows(x: Tensor) -> Tensor:
    return x if x.stride(1) == 1 else x.contiguous()


def _strides(x: Tensor, z: Tensor | None) -> tuple[int, int]:
    return x.stride(0), 0 if z is None else z.stride(0)


def _shape(x: Tensor, groups: int) -> dict[str, Any]:
    width = x.shape[1] // groups
    block = power_of_two(width)
    return {"WIDTH": width, "BLOCK": block, "num_warps": min(16, max(1, block // 512))}
