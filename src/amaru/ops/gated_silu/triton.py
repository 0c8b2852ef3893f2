"""The gate on a CUDA GPU: one pass each way (triton/pointwise.py)."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from amaru.ops.native import short
from amaru.ops.triton import kernels, launch, refusal

BLOCK = 1024  # elements of a program


def refuses(gate: Tensor, up: Tensor) -> str | None:
    if gate.dtype is not up.dtype or gate.shape != up.shape:
        return f"serves one shape and dtype, got {list(gate.shape)} {short(gate.dtype)} and {list(up.shape)} {short(up.dtype)}"
    return refusal(gate, up)


def gated_silu(gate: Tensor, up: Tensor) -> Tensor:
    return _GatedSiLU.apply(gate, up)  # type: ignore[no-any-return]


class _GatedSiLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        ctx.save_for_backward(gate, up)
        y = torch.empty_like(gate)
        launch(kernels("pointwise").gated_silu, _grid(gate), gate, up, y, gate.numel(), BLOCK=BLOCK)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        dgate, dup = torch.empty_like(gate), torch.empty_like(up)
        given = gate, up, grad.contiguous(), dgate, dup
        launch(kernels("pointwise").gated_silu_backward, _grid(gate), *given, gate.numel(), BLOCK=BLOCK)
        return dgate, dup


def _grid(gate: Tensor) -> tuple[int]:
    return (-(-gate.numel() // BLOCK),)
