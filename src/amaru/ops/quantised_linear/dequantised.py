"""The weight made whole again, then the product as everywhere: for many rows of x, and where the processor lacks the instructions."""

import torch
from torch import Tensor

from amaru.ops.linear import linear
from amaru.ops.native import kernel, lacks
from amaru.ops.quantised_linear.codes import KINDS, ZERO, group_of, unpack


def quantised_linear(x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None = None) -> Tensor:
    return linear(x, dequantise(codes, scales, x.shape[-1], x.dtype), bias)


def dequantise(codes: Tensor, scales: Tensor, cols: int, dtype: torch.dtype) -> Tensor:
    """[rows, cols] in `dtype`, each rounded once."""
    if dtype is not torch.bfloat16 or not codes.is_cpu or lacks() is not None:
        return _by_torch(codes, scales, cols).to(dtype)
    y = torch.empty(len(codes), cols, dtype=dtype)
    sizes = KINDS[codes.dtype], group_of(codes, scales), len(codes), cols
    kernel("dequantise", "iiiipppi")(*sizes, codes.data_ptr(), scales.data_ptr(), y.data_ptr(), torch.get_num_threads())
    return y


def _by_torch(codes: Tensor, scales: Tensor, cols: int) -> Tensor:
    if codes.dtype is not torch.uint8:
        return codes.float() * scales[:, None]
    return (unpack(codes, cols).float() - ZERO) * scales.float().repeat_interleave(group_of(codes, scales), dim=1)[:, :cols]
