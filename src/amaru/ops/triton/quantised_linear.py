"""Weights of 8 bits: few rows of x times codes as they are, and codes made bf16 for many.

Few rows: a code is a byte to read and 2 FLOPs for each row of x; at 64 rows 128 FLOPs a byte, under the 184 (790 TFLOP/s over 4.3 TB/s)
from which products count, so memory is the limit: half the time of bf16 weights. Many rows: a weight made bf16 first is 3 bytes moved and
2 read again; beside a product of 8,192 rows (16,384 FLOPs a weight, 21 ps) that is 1.2 ps, and the product runs at torch's full rate.
"""

import triton
import triton.language as tl


@triton.jit
def few_rows(
    x, codes, scales, bias, y, tokens, stride,
    ROWS: tl.constexpr, COLS: tl.constexpr, TOKEN_BLOCK: tl.constexpr, ROW_BLOCK: tl.constexpr, COLUMN_BLOCK: tl.constexpr,
    ROUNDED: tl.constexpr, MULTIPLIED: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of the weight's rows): every code is read once."""
    t, column = tl.arange(0, TOKEN_BLOCK), tl.arange(0, COLUMN_BLOCK)
    row = tl.program_id(0) * ROW_BLOCK + tl.arange(0, ROW_BLOCK)
    held = codes + row.to(tl.int64)[:, None] * COLS
    acc = tl.zeros([TOKEN_BLOCK, ROW_BLOCK], tl.float32)
    for start in range(0, COLS, COLUMN_BLOCK):
        inside = start + column < COLS
        seen = tl.load(x + t[:, None] * stride + (start + column)[None, :], (t < tokens)[:, None] & inside[None, :], 0.0)
        w = tl.load(held + (start + column)[None, :], (row < ROWS)[:, None] & inside[None, :], 0.0)
        w = w.to(tl.float32).to(ROUNDED).to(MULTIPLIED)
        acc += tl.dot(seen.to(ROUNDED).to(MULTIPLIED), tl.trans(w), input_precision="ieee")
    acc *= tl.load(scales + row, row < ROWS, 0.0)[None, :]
    if bias is not None:
        acc += tl.load(bias + row, row < ROWS, 0.0).to(tl.float32)[None, :]
    tl.store(y + t[:, None] * ROWS + row[None, :], acc.to(y.dtype.element_ty), (t < tokens)[:, None] & (row < ROWS)[None, :])


@triton.jit
def dequantise(codes, scales, y, COLS: tl.constexpr, BLOCK: tl.constexpr):
    """Grid (rows, blocks of columns)."""
    row, column = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(codes + row * COLS + column, column < COLS, 0.0).to(tl.float32) * tl.load(scales + row)
    tl.store(y + row * COLS + column, value.to(y.dtype.element_ty), column < COLS)
