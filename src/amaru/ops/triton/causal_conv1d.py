"""The causal convolution, a tile of tokens and rows at a time.

Bytes of an element: 2 in and 2 out in bf16; of 10,240 rows (Nemotron-H 8B) 41 kB a token, 9.5 us a thousand tokens at 4.3 TB/s. FLOPs: 2
for each tap and some for silu, 3 per byte, so memory is the limit. Neighbouring taps find their inputs in the first-level cache. Backward
computes what comes before silu again, for the four tokens that see an input: 16 loads from that cache for each input, against writing
the gradient there and reading it back: 6 bytes instead of 10.
"""

import triton
import triton.language as tl

from amaru.ops.triton.common import sigmoid, silu


@triton.jit
def tile(blocks, bounds, TOKEN_BLOCK: tl.constexpr, ROW_BLOCK: tl.constexpr):
    """The sequence of a program, where it begins and ends, and the program's tokens and rows."""
    piece = blocks + 3 * tl.program_id(0)
    sequence = tl.load(piece)
    t = tl.load(piece + 1) + tl.arange(0, TOKEN_BLOCK)
    row = tl.program_id(1) * ROW_BLOCK + tl.arange(0, ROW_BLOCK)
    return sequence, tl.load(bounds + sequence), tl.load(piece + 2), t, row


@triton.jit
def inputs(x, initial, sequence, first, t, lag, row, known, stride, ROWS: tl.constexpr, TAPS: tl.constexpr):
    """[tokens, rows] `lag` tokens earlier; before the sequence's first token from its state, or zero."""
    behind = (t - lag - first)[:, None]
    seen = tl.load(x + (t - lag)[:, None] * stride + row[None, :], known & (behind >= 0), 0.0).to(tl.float32)
    if initial is not None:
        held = initial + (sequence * ROWS + row[None, :]) * (TAPS - 1) + TAPS - 1 + behind
        seen += tl.load(held, known & (behind < 0), 0.0).to(tl.float32)
    return seen


@triton.jit
def summed(x, weight, bias, initial, sequence, first, t, row, known, stride, ROWS: tl.constexpr, TAPS: tl.constexpr):
    """What comes before silu."""
    total = tl.load(bias + row, row < ROWS, 0.0).to(tl.float32)[None, :] + tl.zeros([t.shape[0], row.shape[0]], tl.float32)
    for lag in tl.static_range(TAPS):
        tap = tl.load(weight + row * TAPS + TAPS - 1 - lag, row < ROWS, 0.0).to(tl.float32)
        total += inputs(x, initial, sequence, first, t, lag, row, known, stride, ROWS, TAPS) * tap[None, :]
    return total


@triton.jit
def forward(
    x, weight, bias, initial, blocks, bounds, y, stride,
    ROWS: tl.constexpr, TAPS: tl.constexpr, SILU: tl.constexpr, TOKEN_BLOCK: tl.constexpr, ROW_BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid (pieces of sequences, blocks of rows)."""
    sequence, first, stop, t, row = tile(blocks, bounds, TOKEN_BLOCK, ROW_BLOCK)  # type: ignore[misc]
    known = (t < stop)[:, None] & (row < ROWS)[None, :]
    total = summed(x, weight, bias, initial, sequence, first, t, row, known, stride, ROWS, TAPS)
    out = silu(total) if SILU else total
    tl.store(y + t[:, None] * ROWS + row[None, :], out.to(y.dtype.element_ty), known)


@triton.jit
def states(
    x, initial, bounds, final, stride, ROWS: tl.constexpr, TAPS: tl.constexpr, ROW_BLOCK: tl.constexpr, LAG_BLOCK: tl.constexpr
):
    """Grid (sequences, blocks of rows): the newest TAPS - 1 inputs of each sequence."""
    sequence = tl.program_id(0).to(tl.int64)
    first, stop = tl.load(bounds + sequence), tl.load(bounds + sequence + 1)
    row, lag = tl.program_id(1) * ROW_BLOCK + tl.arange(0, ROW_BLOCK), tl.arange(0, LAG_BLOCK)
    known = (lag < TAPS - 1)[:, None] & (row < ROWS)[None, :]
    newest = inputs(x, initial, sequence, first, stop + lag, TAPS - 1, row, known, stride, ROWS, TAPS)
    to = final + (sequence * ROWS + row[None, :]) * (TAPS - 1) + lag[:, None]
    tl.store(to, newest.to(final.dtype.element_ty), known)


@triton.jit
def backward(
    x, weight, bias, blocks, bounds, dy, dx, dweight, dbias, stride,
    ROWS: tl.constexpr, TAPS: tl.constexpr, SILU: tl.constexpr, TOKEN_BLOCK: tl.constexpr, ROW_BLOCK: tl.constexpr,
):  # fmt: skip
    """The same grid, sequences that begin from zero; dweight [pieces, rows, taps] and dbias [pieces, rows] are parts of sums."""
    sequence, first, stop, t, row = tile(blocks, bounds, TOKEN_BLOCK, ROW_BLOCK)  # type: ignore[misc]
    known = (t < stop)[:, None] & (row < ROWS)[None, :]
    end = tl.load(bounds + sequence + 1)
    by_input = tl.zeros([TOKEN_BLOCK, ROW_BLOCK], tl.float32)
    for lag in tl.static_range(TAPS):
        later = t + lag
        there = (later < end)[:, None] & (row < ROWS)[None, :]
        g = tl.load(dy + later[:, None] * ROWS + row[None, :], there, 0.0).to(tl.float32)
        if SILU:
            total = summed(x, weight, bias, None, sequence, first, later, row, there, stride, ROWS, TAPS)
            s = sigmoid(total)
            g *= s * (1.0 + total * (1.0 - s))
        tap = tl.load(weight + row * TAPS + TAPS - 1 - lag, row < ROWS, 0.0).to(tl.float32)
        by_input += g * tap[None, :]
        if lag == 0:
            g = tl.where(known, g, 0.0)
            part = tl.program_id(0).to(tl.int64) * ROWS + row
            tl.store(dbias + part, tl.sum(g, 0), row < ROWS)
            for k in tl.static_range(TAPS):
                by_tap = tl.sum(g * inputs(x, None, sequence, first, t, k, row, known, stride, ROWS, TAPS), 0)
                tl.store(dweight + part * TAPS + TAPS - 1 - k, by_tap, row < ROWS)
    tl.store(dx + t[:, None] * ROWS + row[None, :], by_input.to(dx.dtype.element_ty), known)
