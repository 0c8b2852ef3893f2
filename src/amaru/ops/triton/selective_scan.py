"""The selective scan of Mamba-1 in one launch forward and two backward: a program owns some channels of a sequence.

Counted for a token of Hymba 1.5B (3,200 channels, state 16), bf16: x and y 12.8 kB, dt 12.8 kB: 26 kB, 6 us a thousand tokens at 4.3 TB/s.
FLOPs: every number of the state has a decay of its own, so there are no products of matrices: an exponential and some six FLOPs for each,
doubled by scanning a chunk at once: 0.6 MFLOP a token, 9 us a thousand tokens at 67 TFLOP/s of plain fp32. What counts is the chain of
chunks: 200 programs, each a chunk of 16 tokens at a time, in which the recurrence is a scan of pairs (decay, addition), 4 steps deep
instead of 16. Token after token, every step would wait for memory. The backward pass starts from the states before all chunks, which a
first launch leaves behind; gradients of B and C are written for each block of channels, and summed afterwards in order.
"""

import triton
import triton.language as tl


@triton.jit
def then(decay, addition, later_decay, later_addition):
    """One stretch of the recurrence h -> decay h + addition, and another one behind it."""
    return decay * later_decay, later_decay * addition + later_addition


@triton.jit
def inputs(x, dt, A, B, t, live, c, n, a, x_stride, B_stride, INNER: tl.constexpr, STATE: tl.constexpr):
    """Of tokens that are alive: x and dt [tokens, channels], B [tokens, state], decays and additions [tokens, channels, state]."""
    wide = live[:, None] & (c < INNER)[None, :]
    seen = tl.load(x + t[:, None] * x_stride + c[None, :], wide, 0.0).to(tl.float32)
    step = tl.load(dt + t[:, None] * INNER + c[None, :], wide, 0.0)
    b = tl.load(B + t[:, None] * B_stride + n[None, :], live[:, None] & (n < STATE)[None, :], 0.0).to(tl.float32)
    return seen, step, b, tl.exp(step[:, :, None] * a[None, :, :]), (step * seen)[:, :, None] * b[:, None, :]


@triton.jit
def forward(
    x, dt, A, B, C, D, initial, bounds, y, final, kept, x_stride, B_stride, C_stride,
    INNER: tl.constexpr, STATE: tl.constexpr, CHUNK: tl.constexpr, CHANNEL_BLOCK: tl.constexpr, STATE_BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of channels, sequences). What is None is not read or written; `kept` are the states before every chunk."""
    sequence = tl.program_id(1).to(tl.int64)
    first, stop = tl.load(bounds + sequence), tl.load(bounds + sequence + 1)
    l, n = tl.arange(0, CHUNK), tl.arange(0, STATE_BLOCK)
    c = tl.program_id(0) * CHANNEL_BLOCK + tl.arange(0, CHANNEL_BLOCK)
    inside = (c < INNER)[:, None] & (n < STATE)[None, :]
    here = c[:, None] * STATE + n[None, :]
    a = tl.load(A + here, inside, 0.0)
    h = tl.zeros([CHANNEL_BLOCK, STATE_BLOCK], tl.float32)
    if initial is not None:
        h = tl.load(initial + sequence * INNER * STATE + here, inside, 0.0)
    chunk = first // CHUNK + sequence  # no two sequences meet, whatever their lengths
    for start in range(first, stop, CHUNK):
        t = start + l
        live = t < stop
        seen, _, _, decay, added = inputs(x, dt, A, B, t, live, c, n, a, x_stride, B_stride, INNER, STATE)  # type: ignore[misc]
        if kept is not None:
            tl.store(kept + chunk * INNER * STATE + here, h, inside)
            chunk += 1
        decay, added = tl.associative_scan((decay, added), 0, then)
        states = decay * h[None, :, :] + added
        if y is not None:
            weights = tl.load(C + t[:, None] * C_stride + n[None, :], live[:, None] & (n < STATE)[None, :], 0.0).to(tl.float32)
            out = tl.sum(states * weights[:, None, :], 2) + tl.load(D + c, c < INNER, 0.0)[None, :] * seen
            tl.store(y + t[:, None] * INNER + c[None, :], out.to(y.dtype.element_ty), live[:, None] & (c < INNER)[None, :])
        h = tl.sum(tl.where((l == CHUNK - 1)[:, None, None], states, 0.0), 0)  # tokens behind the end change nothing
    if final is not None:
        tl.store(final + sequence * INNER * STATE + here, h, inside)


@triton.jit
def backward(
    x, dt, A, B, C, D, bounds, kept, dy, dfinal, dx, ddt, dA, dB, dC, dD, dinitial, tokens, x_stride, B_stride, C_stride,
    INNER: tl.constexpr, STATE: tl.constexpr, CHUNK: tl.constexpr, CHANNEL_BLOCK: tl.constexpr, STATE_BLOCK: tl.constexpr,
):  # fmt: skip
    """The same grid; dA [sequences, inner, state], dD [sequences, inner], dB and dC [blocks, T, state] are parts of sums."""
    sequence = tl.program_id(1).to(tl.int64)
    first, stop = tl.load(bounds + sequence), tl.load(bounds + sequence + 1)
    l, n = tl.arange(0, CHUNK), tl.arange(0, STATE_BLOCK)
    c = tl.program_id(0) * CHANNEL_BLOCK + tl.arange(0, CHANNEL_BLOCK)
    inside = (c < INNER)[:, None] & (n < STATE)[None, :]
    here = c[:, None] * STATE + n[None, :]
    a, skip = tl.load(A + here, inside, 0.0), tl.load(D + c, c < INNER, 0.0)
    dh = tl.zeros([CHANNEL_BLOCK, STATE_BLOCK], tl.float32)
    if dfinal is not None:
        dh = tl.load(dfinal + sequence * INNER * STATE + here, inside, 0.0)
    by_A, by_D = tl.zeros([CHANNEL_BLOCK, STATE_BLOCK], tl.float32), tl.zeros([CHANNEL_BLOCK], tl.float32)
    chunks = tl.cdiv(stop - first, CHUNK)
    for back in range(chunks):
        index = chunks - 1 - back
        t = first + index * CHUNK + l
        live = t < stop
        wide, deep = live[:, None] & (c < INNER)[None, :], live[:, None] & (n < STATE)[None, :]
        h = tl.load(kept + (first // CHUNK + sequence + index) * INNER * STATE + here, inside, 0.0)
        seen, step, b, decay, added = inputs(x, dt, A, B, t, live, c, n, a, x_stride, B_stride, INNER, STATE)  # type: ignore[misc]
        _, _, _, sooner, less = inputs(x, dt, A, B, t - 1, live & (l > 0), c, n, a, x_stride, B_stride, INNER, STATE)  # type: ignore[misc]
        sooner, less = tl.associative_scan((sooner, less), 0, then)
        before = sooner * h[None, :, :] + less  # the state before each token: divided out of the one behind it, it would be lost
        g = tl.load(dy + t[:, None] * INNER + c[None, :], wide, 0.0).to(tl.float32)
        weights = tl.load(C + t[:, None] * C_stride + n[None, :], deep, 0.0).to(tl.float32)
        following = (t + 1 < stop) & (l < CHUNK - 1)
        later = tl.load(dt + (t + 1)[:, None] * INNER + c[None, :], following[:, None] & (c < INNER)[None, :], 0.0)
        by_state = g[:, :, None] * weights[:, None, :] + tl.where((l == CHUNK - 1)[:, None, None], dh[None, :, :], 0.0)
        _, by_state = tl.associative_scan((tl.exp(later[:, :, None] * a[None, :, :]), by_state), 0, then, reverse=True)

        by_input = tl.sum(by_state * b[:, None, :], 2)
        by_decay = by_state * before * decay
        partial = (tl.program_id(0).to(tl.int64) * tokens + t[:, None]) * STATE + n[None, :]
        tl.store(dB + partial, tl.sum(by_state * (step * seen)[:, :, None], 1), deep)
        tl.store(dC + partial, tl.sum(g[:, :, None] * (decay * before + added), 1), deep)
        tl.store(ddt + t[:, None] * INNER + c[None, :], tl.sum(by_decay * a[None, :, :], 2) + by_input * seen, wide)
        tl.store(dx + t[:, None] * INNER + c[None, :], (by_input * step + g * skip[None, :]).to(dx.dtype.element_ty), wide)
        by_A += tl.sum(by_decay * step[:, :, None], 0)
        by_D += tl.sum(g * seen, 0)
        dh = tl.sum(tl.where((l == 0)[:, None, None], by_state * decay, 0.0), 0)
    tl.store(dA + sequence * INNER * STATE + here, by_A, inside)
    tl.store(dD + sequence * INNER + c, by_D, c < INNER)
    if dinitial is not None:
        tl.store(dinitial + sequence * INNER * STATE + here, dh, inside)
