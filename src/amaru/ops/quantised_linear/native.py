"""Codes multiplied as they are: nothing but codes and scales is read (native/quantised_linear.cpp)."""

import torch
from torch import Tensor

from amaru.ops.exactness import is_exact
from amaru.ops.native import kernel, lacks, short
from amaru.ops.quantised_linear.codes import KINDS, Kind, group_of

MOST_ROWS = 32  # of x; for more it is faster to make the weight bfloat16 first
WIDEST = 32768  # columns whose products fit a 32-bit sum
NEEDED = {Kind.INT4: "AVX-512 VNNI", Kind.INT8: "AVX-512 VNNI", Kind.FP8: "AVX-512 VBMI and BF16"}


def lacks_instructions(kind: Kind | None = None) -> str | None:
    """For one kind of codes, or for any."""
    reason = lacks()
    for each in Kind if kind is None else (kind,):
        if reason is None and not kernel("quantised_linear_serves", "i", returns=True)(each):
            reason = f"needs a CPU with {NEEDED[each]}"
    return reason


def refuses(x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None = None) -> str | None:
    if not x.is_cpu or x.dtype is not torch.bfloat16:
        return f"serves bfloat16 on the CPU, got {short(x.dtype)} on {x.device.type}"
    if x.dim() != 2 or x.shape[1] > WIDEST:
        return f"needs x [T, cols] of up to {WIDEST} columns, got {list(x.shape)}"
    if torch.is_grad_enabled() and x.requires_grad:
        return "records no gradients"
    if x.shape[0] > MOST_ROWS and not is_exact():
        return f"serves up to {MOST_ROWS} rows of x, got {x.shape[0]}"
    return None


def quantised_linear(x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None = None) -> Tensor:
    if x.stride(1) != 1:
        x = x.contiguous()
    y = x.new_empty(x.shape[0], codes.shape[0])
    kernel("quantised_linear", "iiiiiipppppi")(
        KINDS[codes.dtype],
        group_of(codes, scales),
        x.shape[0],
        codes.shape[0],
        x.shape[1],
        x.stride(0),
        x.data_ptr(),
        codes.data_ptr(),
        scales.data_ptr(),
        None if bias is None else bias.contiguous().data_ptr(),
        y.data_ptr(),
        torch.get_num_threads(),
    )
    return y
