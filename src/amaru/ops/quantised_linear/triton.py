"""Weights of 8 and 4 bits on a CUDA GPU: only codes and scales are read for few rows of x (triton/quantised_linear.py)."""

import torch
from torch import Tensor

from amaru.ops.exactness import unless_exact
from amaru.ops.linear import linear
from amaru.ops.quantised_linear.codes import group_of
from amaru.ops.triton import kernels, launch, operands, power_of_two, refusal

MOST_ROWS = 64  # of x; for more the weight is made whole first
WEIGHT_ROWS, COLUMNS = 32, 128  # of a program, and at once
LEAST = 16  # what products of blocks ask for
BLOCK = 1024  # codes, or pairs of them, that a program makes whole


def refuses(x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None = None) -> str | None:
    if x.dim() != 2 or not (codes.is_contiguous() and scales.is_contiguous()):
        return f"needs x [T, cols], contiguous codes and scales, got {list(x.shape)}"
    if torch.is_grad_enabled() and x.requires_grad:
        return "records no gradients"
    return refusal(x) or unless_exact()


def quantised_linear(x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None = None) -> Tensor:
    if len(x) > MOST_ROWS:
        return linear(x, _whole(x, codes, scales), bias)
    x, rows = x if x.stride(1) == 1 else x.contiguous(), len(codes)
    y = x.new_empty(len(x), rows)
    kernel = kernels("quantised_linear").few_rows_of_4_bits if _of_4_bits(codes) else kernels("quantised_linear").few_rows
    sizes = {"ROWS": rows, "TOKEN_BLOCK": power_of_two(len(x), LEAST), "ROW_BLOCK": WEIGHT_ROWS, "COLUMN_BLOCK": COLUMNS}
    given = x, codes, scales, bias, y, len(x), x.stride(0)
    launch(kernel, [-(-rows // WEIGHT_ROWS)], *given, **sizes, **_widths(x, codes, scales), **operands(x.dtype), num_stages=4)
    return y


def _whole(x: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
    rows, held = codes.shape
    y = x.new_empty(rows, x.shape[1])
    kernel = kernels("quantised_linear").dequantise_4_bits if _of_4_bits(codes) else kernels("quantised_linear").dequantise
    launch(kernel, (rows, -(-held // BLOCK)), codes, scales, y, **_widths(x, codes, scales), BLOCK=BLOCK)
    return y


def _of_4_bits(codes: Tensor) -> bool:
    return codes.dtype is torch.uint8


def _widths(x: Tensor, codes: Tensor, scales: Tensor) -> dict[str, int]:
    """Of a row of the weight."""
    return {"COLS": x.shape[1], **({"BYTES": codes.shape[1], "GROUP": group_of(codes, scales)} if _of_4_bits(codes) else {})}
