"""Weights of 8 bits on a CUDA GPU: nothing but codes and scales is read for few rows of x (triton/quantised_linear.py)."""

import torch
from torch import Tensor

from amaru.ops.exactness import unless_exact
from amaru.ops.linear import linear
from amaru.ops.native import short
from amaru.ops.triton import kernels, launch, operands, power_of_two, refusal

MOST_ROWS = 64  # of x; for more the weight is made whole first
WEIGHT_ROWS, COLUMNS = 32, 128  # of a program, and at once
LEAST = 16  # what products of blocks ask for
BLOCK = 1024


def refuses(x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None = None) -> str | None:
    if codes.element_size() != 1 or codes.dtype is torch.uint8:
        return f"reads int8 and float8_e4m3fn, got {short(codes.dtype)}"
    if x.dim() != 2 or not codes.is_contiguous():
        return f"needs x [T, cols] and contiguous codes, got {list(x.shape)}"
    if torch.is_grad_enabled() and x.requires_grad:
        return "records no gradients"
    return refusal(x) or unless_exact()


def quantised_linear(x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None = None) -> Tensor:
    rows, cols = codes.shape
    if len(x) > MOST_ROWS:
        return linear(x, _whole(x, codes, scales), bias)
    x = x if x.stride(1) == 1 else x.contiguous()
    y = x.new_empty(len(x), rows)
    sizes = {"ROWS": rows, "COLS": cols, "TOKEN_BLOCK": power_of_two(len(x), LEAST), "ROW_BLOCK": WEIGHT_ROWS, "COLUMN_BLOCK": COLUMNS}
    given = x, codes, scales, bias, y, len(x), x.stride(0)
    launch(kernels("quantised_linear").few_rows, [-(-rows // WEIGHT_ROWS)], *given, **sizes, **operands(x.dtype), num_stages=4)
    return y


def _whole(x: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
    rows, cols = codes.shape
    y = x.new_empty(rows, cols)
    launch(kernels("quantised_linear").dequantise, (rows, -(-cols // BLOCK)), codes, scales, y, COLS=cols, BLOCK=BLOCK)
    return y
