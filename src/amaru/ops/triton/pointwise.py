"""Activations and rotations: every number is read once and written once.

Bytes of an element in bf16: 4 for relu², 6 for a gate, and 3 launches of torch's become one (their backward: 6 and 10 bytes). Where many
tokens are activated, memory's speed is the limit; where few are, the launch.
"""

import triton
import triton.language as tl

from amaru.ops.triton.common import sigmoid


@triton.jit
def squared_relu(x, y, count, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    positive = tl.maximum(tl.load(x + i, i < count, 0.0).to(tl.float32), 0.0)
    tl.store(y + i, (positive * positive).to(y.dtype.element_ty), i < count)


@triton.jit
def squared_relu_backward(x, g, dx, count, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    positive = tl.maximum(tl.load(x + i, i < count, 0.0).to(tl.float32), 0.0)
    grad = 2.0 * positive * tl.load(g + i, i < count, 0.0).to(tl.float32)
    tl.store(dx + i, grad.to(dx.dtype.element_ty), i < count)


@triton.jit
def gated_silu(gate, up, y, count, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    opened = tl.load(gate + i, i < count, 0.0).to(tl.float32)
    value = opened * sigmoid(opened) * tl.load(up + i, i < count, 0.0).to(tl.float32)
    tl.store(y + i, value.to(y.dtype.element_ty), i < count)


@triton.jit
def gated_silu_backward(gate, up, g, dgate, dup, count, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    opened, value = tl.load(gate + i, i < count, 0.0).to(tl.float32), tl.load(up + i, i < count, 0.0).to(tl.float32)
    grad, s = tl.load(g + i, i < count, 0.0).to(tl.float32), sigmoid(opened)
    tl.store(dup + i, (grad * opened * s).to(dup.dtype.element_ty), i < count)
    tl.store(dgate + i, (grad * value * s * (1.0 + opened * (1.0 - s))).to(dgate.dtype.element_ty), i < count)


@triton.jit
def rotary(
    x, cos, sin, y, token_stride, head_stride, sign,
    HEADS: tl.constexpr, CHANNELS: tl.constexpr, HALF: tl.constexpr, HEAD_BLOCK: tl.constexpr, HALF_BLOCK: tl.constexpr,
    REST_BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid (tokens): all heads of a token; `sign` -1 turns back."""
    t = tl.program_id(0).to(tl.int64)
    head, i = tl.arange(0, HEAD_BLOCK)[:, None], tl.arange(0, HALF_BLOCK)[None, :]
    known = (head < HEADS) & (i < HALF)
    c = tl.load(cos + t * HALF + i, i < HALF, 0.0)
    s = tl.load(sin + t * HALF + i, i < HALF, 0.0) * sign
    source, to = x + t * token_stride + head * head_stride, y + (t * HEADS + head) * CHANNELS
    first, second = tl.load(source + i, known, 0.0).to(tl.float32), tl.load(source + HALF + i, known, 0.0).to(tl.float32)
    tl.store(to + i, (first * c - second * s).to(y.dtype.element_ty), known)
    tl.store(to + HALF + i, (second * c + first * s).to(y.dtype.element_ty), known)
    if CHANNELS > 2 * HALF:
        rest = 2 * HALF + tl.arange(0, REST_BLOCK)[None, :]
        behind = (head < HEADS) & (rest < CHANNELS)
        tl.store(to + rest, tl.load(source + rest, behind, 0.0), behind)
