"""Weights of 8 and 4 bits: few rows of x times codes as they are, and codes made bf16 for many.

Few rows: a code of 8 bits is a byte to read and 2 FLOPs for each row of x; at 64 rows 128 FLOPs a byte, under the 184 (790 TFLOP/s over
4.3 TB/s) from which products count, so memory is the limit: half the time of bf16 weights. In 4 bits a byte is two codes, and a quarter
of the time is the floor, up to 46 rows. Many rows: a weight made bf16 first is 3 bytes moved and 2 read again; beside a product of 8,192
rows (16,384 FLOPs a weight, 21 ps) that is 1.2 ps, and the product runs at torch's full rate.
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
        acc += _product(seen, w.to(tl.float32), ROUNDED, MULTIPLIED)
    _store(acc * tl.load(scales + row, row < ROWS, 0.0)[None, :], bias, y, t, row, tokens, ROWS)


@triton.jit
def few_rows_of_4_bits(
    x, codes, scales, bias, y, tokens, stride,
    ROWS: tl.constexpr, COLS: tl.constexpr, BYTES: tl.constexpr, GROUP: tl.constexpr,
    TOKEN_BLOCK: tl.constexpr, ROW_BLOCK: tl.constexpr, COLUMN_BLOCK: tl.constexpr,
    ROUNDED: tl.constexpr, MULTIPLIED: tl.constexpr,
):  # fmt: skip
    """The same: BYTES in a row of the weight, and a scale for GROUP columns; the two codes of a byte are four columns apart."""
    t, byte = tl.arange(0, TOKEN_BLOCK), tl.arange(0, COLUMN_BLOCK // 2)
    row = tl.program_id(0) * ROW_BLOCK + tl.arange(0, ROW_BLOCK)
    held, scaled = codes + row.to(tl.int64)[:, None] * BYTES, scales + row[:, None] * (2 * BYTES // GROUP)
    acc = tl.zeros([TOKEN_BLOCK, ROW_BLOCK], tl.float32)
    for start in range(0, BYTES, COLUMN_BLOCK // 2):
        column = _column(start + byte)
        both = tl.load(held + (start + byte)[None, :], (row < ROWS)[:, None], 0)
        scale = tl.load(scaled + (column // GROUP)[None, :], (row < ROWS)[:, None], 0.0).to(tl.float32)
        for half in tl.static_range(2):
            place = column + 4 * half
            seen = tl.load(x + t[:, None] * stride + place[None, :], (t < tokens)[:, None] & (place < COLS)[None, :], 0.0)
            acc += _product(seen, _number(both, half) * scale, ROUNDED, MULTIPLIED)
    _store(acc, bias, y, t, row, tokens, ROWS)


@triton.jit
def dequantise(codes, scales, y, COLS: tl.constexpr, BLOCK: tl.constexpr):
    """Grid (rows, blocks of columns)."""
    row, column = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(codes + row * COLS + column, column < COLS, 0.0).to(tl.float32) * tl.load(scales + row)
    tl.store(y + row * COLS + column, value.to(y.dtype.element_ty), column < COLS)


@triton.jit
def dequantise_4_bits(codes, scales, y, COLS: tl.constexpr, BYTES: tl.constexpr, GROUP: tl.constexpr, BLOCK: tl.constexpr):
    """Grid (rows, blocks of bytes)."""
    row, byte = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    column = _column(byte)
    both = tl.load(codes + row * BYTES + byte, byte < BYTES, 0)
    scale = tl.load(scales + row * (2 * BYTES // GROUP) + column // GROUP, byte < BYTES, 0.0).to(tl.float32)
    for half in tl.static_range(2):
        place = column + 4 * half
        tl.store(y + row * COLS + place, (_number(both, half) * scale).to(y.dtype.element_ty), (byte < BYTES) & (place < COLS))


@triton.jit
def _column(byte):
    """Of the lower code of a byte: 256 bytes are sixteen lanes of 32 columns, four bytes of each in turn (quantised_linear/codes.py)."""
    return byte // 256 * 512 + byte % 64 // 4 * 32 + byte % 256 // 64 * 8 + byte % 4


@triton.jit
def _number(both, half):
    return ((both >> 4 * half) & 15).to(tl.float32) - 8.0


@triton.jit
def _product(seen, w, ROUNDED: tl.constexpr, MULTIPLIED: tl.constexpr):
    """seen [tokens, columns], w [rows, columns] in float32 -> [tokens, rows]."""
    return tl.dot(seen.to(ROUNDED).to(MULTIPLIED), tl.trans(w.to(ROUNDED).to(MULTIPLIED)), input_precision="ieee")


@triton.jit
def _store(acc, bias, y, t, row, tokens, ROWS: tl.constexpr):
    if bias is not None:
        acc += tl.load(bias + row, row < ROWS, 0.0).to(tl.float32)[None, :]
    tl.store(y + t[:, None] * ROWS + row[None, :], acc.to(y.dtype.element_ty), (t < tokens)[:, None] & (row < ROWS)[None, :])
