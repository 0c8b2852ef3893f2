"""The step of Mamba-2 in two launches: states, then what needs all heads of a group.

Bytes of a token at the shape of Nemotron-H 8B (128 heads x 64, 8 groups, state 128, bf16, states in fp32): the state is read and written
once, 2 x 4.19 MB; everything else (projection, convolution states and weights, y between the launches in fp32) is 0.2 MB. FLOPs: 6 for each
number of the state, 6.3 M: 0.75 per byte, so a copy's speed is the limit: 2.0 us a token at 4.3 TB/s, where many tokens come together.

A program of `heads` owns some channels of one head and its state. It convolves the B and C of its group for itself: sixteen heads read the
same few kB from the L2, instead of a launch of its own. So the convolution's states may change only when all have read them: in `norm`.
"""

import triton
import triton.language as tl

from amaru.ops.triton.common import silu, softplus


@triton.jit
def convolved(projected, conv, weight, bias, row, known, t, first, slot, fresh, stride, ROWS: tl.constexpr, TAPS: tl.constexpr):
    """silu of the convolution of these rows at token t; what lies before the first token of the call is in the state."""
    total = tl.load(bias + row, known, 0.0).to(tl.float32)
    for lag in tl.static_range(TAPS):  # type: ignore[misc]
        behind = t - first - lag
        new = tl.load(projected + (t - lag) * stride + row, known & (behind >= 0), 0.0).to(tl.float32)
        before = conv + (slot * ROWS + row) * (TAPS - 1) + (TAPS - 1) + behind
        old = tl.load(before, known & (behind < 0) & (fresh == 0), 0.0).to(tl.float32)
        total += (new + old) * tl.load(weight + row * TAPS + (TAPS - 1 - lag), known, 0.0).to(tl.float32)
    return silu(total)


@triton.jit
def heads(
    projected, conv, ssm, slots, fresh, bounds, conv_weight, conv_bias, dt_bias, A_log, D, y, stride, low, high,
    HEADS: tl.constexpr, CHANNELS: tl.constexpr, GROUPS: tl.constexpr, STATE: tl.constexpr, TAPS: tl.constexpr, ONE_EACH: tl.constexpr,
    CHANNEL_BLOCK: tl.constexpr, STATE_BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid (heads * blocks of channels, sequences): y [T, inner] in fp32, and the states."""
    INNER: tl.constexpr = HEADS * CHANNELS
    ROWS: tl.constexpr = INNER + 2 * GROUPS * STATE
    BLOCKS: tl.constexpr = (CHANNELS + CHANNEL_BLOCK - 1) // CHANNEL_BLOCK
    head = tl.program_id(0) // BLOCKS
    p = tl.program_id(0) % BLOCKS * CHANNEL_BLOCK + tl.arange(0, CHANNEL_BLOCK)
    n = tl.arange(0, STATE_BLOCK)
    sequence = tl.program_id(1).to(tl.int64)
    first = sequence if ONE_EACH else tl.load(bounds + sequence)
    stop = sequence + 1 if ONE_EACH else tl.load(bounds + sequence + 1)
    slot, begins = tl.load(slots + sequence), tl.load(fresh + sequence).to(tl.int32)

    held = ssm + ((slot * HEADS + head) * CHANNELS + p[:, None]) * STATE + n[None, :]
    inside = (p < CHANNELS)[:, None] & (n < STATE)[None, :]
    h = tl.load(held, inside & (begins == 0), 0.0).to(tl.float32)
    x_row = head * CHANNELS + p
    B_row = INNER + head // (HEADS // GROUPS) * STATE + n
    xBC = projected + INNER
    a = -tl.exp(tl.load(A_log + head).to(tl.float32))
    bias, skip = tl.load(dt_bias + head).to(tl.float32), tl.load(D + head).to(tl.float32)
    for t in range(first, stop):
        x = convolved(xBC, conv, conv_weight, conv_bias, x_row, p < CHANNELS, t, first, slot, begins, stride, ROWS, TAPS)
        B = convolved(xBC, conv, conv_weight, conv_bias, B_row, n < STATE, t, first, slot, begins, stride, ROWS, TAPS)
        C_row = B_row + GROUPS * STATE
        C = convolved(xBC, conv, conv_weight, conv_bias, C_row, n < STATE, t, first, slot, begins, stride, ROWS, TAPS)
        dt = softplus(tl.load(projected + t * stride + INNER + ROWS + head).to(tl.float32) + bias)
        dt = tl.minimum(tl.maximum(dt, low), high)
        h = tl.exp(dt * a) * h + (dt * x)[:, None] * B[None, :]
        tl.store(y + t * INNER + x_row, tl.sum(h * C[None, :], 1) + skip * x, p < CHANNELS)
    tl.store(held, h.to(ssm.dtype.element_ty), inside)


@triton.jit
def norm(
    projected, conv, slots, fresh, bounds, y, norm_weight, out, stride, eps,
    HEADS: tl.constexpr, CHANNELS: tl.constexpr, GROUPS: tl.constexpr, STATE: tl.constexpr, TAPS: tl.constexpr, ONE_EACH: tl.constexpr,
    WIDTH_BLOCK: tl.constexpr, STATE_BLOCK: tl.constexpr, LAG_BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid (groups, sequences): gate and norm of each token, then the convolution's states of the group's rows."""
    INNER: tl.constexpr = HEADS * CHANNELS
    ROWS: tl.constexpr = INNER + 2 * GROUPS * STATE
    WIDTH: tl.constexpr = INNER // GROUPS
    group, sequence = tl.program_id(0), tl.program_id(1).to(tl.int64)
    first = sequence if ONE_EACH else tl.load(bounds + sequence)
    stop = sequence + 1 if ONE_EACH else tl.load(bounds + sequence + 1)
    i = tl.arange(0, WIDTH_BLOCK)
    column, known = group * WIDTH + i, i < WIDTH
    weight = tl.load(norm_weight + column, known, 0.0).to(tl.float32)
    for t in range(first, stop):
        z = tl.load(projected + t * stride + column, known, 0.0).to(tl.float32)
        u = tl.load(y + t * INNER + column, known, 0.0) * silu(z)
        normed = u * tl.rsqrt(tl.sum(u * u) / WIDTH + eps) * weight
        tl.store(out + t * INNER + column, normed.to(out.dtype.element_ty), known)

    slot, begins = tl.load(slots + sequence), tl.load(fresh + sequence).to(tl.int32)
    n = tl.arange(0, STATE_BLOCK)
    B_row = INNER + group * STATE + n
    xBC = projected + INNER
    shifted(xBC, conv, column, known, first, stop, slot, begins, stride, ROWS, TAPS, LAG_BLOCK)
    shifted(xBC, conv, B_row, n < STATE, first, stop, slot, begins, stride, ROWS, TAPS, LAG_BLOCK)
    shifted(xBC, conv, B_row + GROUPS * STATE, n < STATE, first, stop, slot, begins, stride, ROWS, TAPS, LAG_BLOCK)


@triton.jit
def shifted(
    projected, conv, row, known, first, stop, slot, fresh, stride, ROWS: tl.constexpr, TAPS: tl.constexpr, LAG_BLOCK: tl.constexpr
):
    """The state of these rows becomes the newest TAPS - 1 inputs."""
    lag = tl.arange(0, LAG_BLOCK)
    behind = stop - first - (TAPS - 1) + lag[None, :]
    inside = known[:, None] & (lag < TAPS - 1)[None, :]
    held = conv + (slot * ROWS + row[:, None]) * (TAPS - 1)
    new = tl.load(projected + (first + behind) * stride + row[:, None], inside & (behind >= 0), 0.0)
    old = tl.load(held + TAPS - 1 + behind, inside & (behind < 0) & (fresh == 0), 0.0)
    value = tl.where(behind >= 0, new.to(tl.float32), old.to(tl.float32))
    tl.debug_barrier()  # all threads have read what some now write
    tl.store(held + lag[None, :], value.to(conv.dtype.element_ty), inside)
