"""The product compiled for the CPU: the weight is read once and in order, whatever the number of threads (native/linear.cpp)."""

import functools

import torch
from torch import Tensor

from amaru.ops.exactness import is_exact
from amaru.ops.native import kernel, lacks, short


@functools.cache
def most_rows() -> int:
    """Rows of x up to which this is faster than torch; fewer where torch has matrix tiles to multiply with."""
    return kernel("linear_most_tokens", "", returns=True)()


def refuses(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> str | None:
    dtype = x.dtype
    if not x.is_cpu or (dtype is not torch.bfloat16 and dtype is not torch.float32):
        return f"serves float32 and bfloat16 on the CPU, got {short(dtype)} on {x.device.type}"
    if weight.dtype is not dtype or not weight.is_contiguous() or x.shape[-1] != weight.shape[-1]:
        return "needs a contiguous weight that fits x in dtype and width"
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return "records no gradients"
    if x.dim() != 2 and not is_exact():
        return f"needs x [T, cols], got {list(x.shape)}"
    if not is_exact() and lacks() is None and x.shape[0] > most_rows():
        return f"serves up to {most_rows()} rows of x, got {x.shape[0]}"
    return None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if x.dim() != 2:
        return linear(x.reshape(-1, x.shape[-1]), weight, bias).view(*x.shape[:-1], len(weight))
    rows, cols = weight.shape
    if x.stride(1) != 1:
        x = x.contiguous()
    y = x.new_empty(x.shape[0], rows)
    kernel("linear_rows", "iiiiippppi")(
        x.dtype is torch.bfloat16,
        x.shape[0],
        rows,
        cols,
        x.stride(0),
        x.data_ptr(),
        weight.data_ptr(),
        None if bias is None else bias.contiguous().data_ptr(),
        y.data_ptr(),
        torch.get_num_threads(),
    )
    return y
