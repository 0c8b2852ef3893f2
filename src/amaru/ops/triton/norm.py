"""RMS norms, with a gate in front or without, over all columns or over groups of them.

Bytes of an element in bf16: x (and z) in, one out: 4 (6); backward 6 (10). FLOPs: a dozen, so memory is the limit: 4096 columns take 1.9 us
a thousand tokens at 4.3 TB/s. A group of a token lies in the registers of one program, so nothing is read twice. Gradients of the
weight are summed over the tokens of a program, and then over programs, whose number follows from the shape: the same bits every time.
"""

import triton
import triton.language as tl

from amaru.ops.triton.common import sigmoid


@triton.jit
def forward(x, z, weight, y, x_stride, z_stride, eps, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Grid (tokens, groups of WIDTH columns); z None: no gate."""
    t, i = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    column, known = tl.program_id(1) * WIDTH + i, i < WIDTH
    u = tl.load(x + t * x_stride + column, known, 0.0).to(tl.float32)
    if z is not None:
        gate = tl.load(z + t * z_stride + column, known, 0.0).to(tl.float32)
        u *= gate * sigmoid(gate)
    gain = tl.load(weight + column, known, 0.0).to(tl.float32)
    out = u * tl.rsqrt(tl.sum(u * u) / WIDTH + eps) * gain
    tl.store(y + t * WIDTH * tl.num_programs(1) + column, out.to(y.dtype.element_ty), known)


@triton.jit
def backward(
    x, z, weight, g, dx, dz, dweight, tokens, x_stride, z_stride, eps, WIDTH: tl.constexpr, BLOCK: tl.constexpr
):
    """Grid (parts, groups): each part takes every parts-th token; dweight [parts, columns] is to be summed."""
    part, parts, i = tl.program_id(0), tl.num_programs(0), tl.arange(0, BLOCK)
    column, known = tl.program_id(1) * WIDTH + i, i < WIDTH
    columns = WIDTH * tl.num_programs(1)
    gain = tl.load(weight + column, known, 0.0).to(tl.float32)
    by_gain = tl.zeros([BLOCK], tl.float32)
    for index in range(part, tokens, parts):
        t = tl.cast(index, tl.int64)
        seen = tl.load(x + t * x_stride + column, known, 0.0).to(tl.float32)
        u = seen
        if z is not None:
            gate = tl.load(z + t * z_stride + column, known, 0.0).to(tl.float32)
            s = sigmoid(gate)
            u *= gate * s
        grad = tl.load(g + t * columns + column, known, 0.0).to(tl.float32)
        scale = tl.rsqrt(tl.sum(u * u) / WIDTH + eps)
        normed = u * scale
        by_gain += grad * normed
        du = scale * (grad * gain - normed * (tl.sum(grad * gain * normed) / WIDTH))
        if z is not None:
            dgate = du * seen * s * (1.0 + gate * (1.0 - s))
            tl.store(dz + t * columns + column, dgate.to(dz.dtype.element_ty), known)
            du *= gate * s
        tl.store(dx + t * columns + column, du.to(dx.dtype.element_ty), known)
    tl.store(dweight + part.to(tl.int64) * columns + column, by_gain, known)
