"""The scan of Mamba-2 in one launch each way: a program owns a head of a sequence and carries its state through the chunks.

Counted for a token of Nemotron-H 8B (128 heads x 64, 8 groups, state 128), bf16, chunks of 64:

    bytes   x and y 2 x 16 kB, B and C 4 kB, dt 0.5 kB: 37 kB, and 8.6 us a thousand tokens at 4.3 TB/s. B and C are read once for
            each head, sixteen times: from the L2, which holds the tokens that all heads are at.
    FLOPs   of a head 2 (64 128 + 64 64 + 128 64 + 64 128) = 57 k, of 128 heads 7.3 M: 9.3 us a thousand tokens at 790 TFLOP/s.

Both limits are a hundredth of what the projections beside it take (0.22 GFLOP a token). What counts is the chain of chunks: 128 programs
for 132 multiprocessors, each a chunk at a time. The known form in five launches (sums, states of chunks, their chain, C Bᵀ, outputs) has
more to do at once, but writes the state of every chunk (4.2 MB each) and C Bᵀ and reads them again: 131 kB a token more.

Backward (../ssd/README.md has the formulas) is four launches. Two chains leave behind the states before all chunks (as `forward`, without
outputs) and the gradients of the states after them, in the dtype of x: 2 x 16 kB for each head of a chunk, written once and read twice.
From these every chunk is computed by itself: gradients of x, dt, A and D for each head, and those of B and C for each group, whose heads a
program takes one after the other: the bits of a sum do not depend on who came first, and no head writes a part of it.
"""

import triton
import triton.language as tl


@triton.jit
def multiplied(a, b, ROUNDED: tl.constexpr, MULTIPLIED: tl.constexpr):
    """a b, operands rounded, summed in fp32."""
    return tl.dot(a.to(ROUNDED).to(MULTIPLIED), b.to(ROUNDED).to(MULTIPLIED), input_precision="ieee")


@triton.jit
def summed(step, a):
    """The sums of dt A from the start of the chunk up to and including each token, as two fp32 numbers, and of all.

    They reach -1e5 where neighbours differ by 1e-3, so their differences need more digits than fp32 has.
    """
    each = (step * a).to(tl.float64)
    s = tl.cumsum(each, 0)
    high = s.to(tl.float32)
    low = (s - high.to(tl.float64)).to(tl.float32)
    end = tl.sum(each, 0)
    return high, low, (end - s).to(tl.float32), end.to(tl.float32)


@triton.jit
def decays(high, low, CHUNK: tl.constexpr):
    """[to, from]: exp of the sum between two tokens of a chunk, 0 for later ones."""
    l = tl.arange(0, CHUNK)
    between = (high[:, None] - high[None, :]) + (low[:, None] - low[None, :])
    return tl.where(l[:, None] >= l[None, :], tl.exp(tl.minimum(between, 0.0)), 0.0)


@triton.jit
def forward(
    x, dt, A, B, C, D, initial, bounds, y, final, kept, x_stride, B_stride, C_stride,
    HEADS: tl.constexpr, CHANNELS: tl.constexpr, GROUPS: tl.constexpr, STATE: tl.constexpr, CHUNK: tl.constexpr,
    CHANNEL_BLOCK: tl.constexpr, STATE_BLOCK: tl.constexpr, ROUNDED: tl.constexpr, MULTIPLIED: tl.constexpr,
):  # fmt: skip
    """Grid (heads * blocks of channels, sequences). What is None is not read or written; `kept` are the states before every chunk."""
    BLOCKS: tl.constexpr = (CHANNELS + CHANNEL_BLOCK - 1) // CHANNEL_BLOCK
    head = tl.program_id(0) // BLOCKS
    sequence = tl.program_id(1).to(tl.int64)
    first, stop = tl.load(bounds + sequence), tl.load(bounds + sequence + 1)
    l, n = tl.arange(0, CHUNK), tl.arange(0, STATE_BLOCK)
    p = tl.program_id(0) % BLOCKS * CHANNEL_BLOCK + tl.arange(0, CHANNEL_BLOCK)
    row = head // (HEADS // GROUPS) * STATE + n
    inside = (p < CHANNELS)[:, None] & (n < STATE)[None, :]
    here = p[:, None] * STATE + n[None, :]  # within a head: numbers of 64 bits for whole tiles would fill the registers
    a = tl.load(A + head)
    h = tl.zeros([CHANNEL_BLOCK, STATE_BLOCK], tl.float32)
    if initial is not None:
        h = tl.load(initial + (sequence * HEADS + head) * (CHANNELS * STATE) + here, inside, 0.0)
    chunk = first // CHUNK + sequence  # no two sequences meet, whatever their lengths
    for start in range(first, stop, CHUNK):
        live = l < stop - start
        step = tl.load(dt + start * HEADS + head + l * HEADS, live, 0.0)
        wide, deep = live[:, None] & (p < CHANNELS)[None, :], live[:, None] & (n < STATE)[None, :]
        seen = tl.load(x + start * x_stride + head * CHANNELS + (l[:, None] * x_stride + p[None, :]), wide, 0.0)
        b = tl.load(B + start * B_stride + (l[:, None] * B_stride + row[None, :]), deep, 0.0)
        if kept is not None:
            tl.store(kept + (chunk * HEADS + head) * (CHANNELS * STATE) + here, h.to(kept.dtype.element_ty), inside)
            chunk += 1
        high, low, until_end, end = summed(step, a)
        u = seen.to(tl.float32) * step[:, None]
        if y is not None:
            c = tl.load(C + start * C_stride + (l[:, None] * C_stride + row[None, :]), deep, 0.0)
            scores = multiplied(c, tl.trans(b), ROUNDED, MULTIPLIED) * decays(high, low, CHUNK)
            out = multiplied(c, tl.trans(h), ROUNDED, MULTIPLIED) * tl.exp(high)[:, None]
            out += multiplied(scores, u, ROUNDED, MULTIPLIED) + tl.load(D + head) * seen.to(tl.float32)
            to = y + (start * HEADS + head) * CHANNELS + (l[:, None] * (HEADS * CHANNELS) + p[None, :])
            tl.store(to, out.to(y.dtype.element_ty), wide)
        added = multiplied(tl.trans(u * tl.exp(until_end)[:, None]), b, ROUNDED, MULTIPLIED)
        h = tl.exp(end) * h + added
    if final is not None:
        tl.store(final + (sequence * HEADS + head) * (CHANNELS * STATE) + here, h, inside)


@triton.jit
def chain(
    dt, A, C, bounds, dy, dfinal, kept, dinitial, C_stride,
    HEADS: tl.constexpr, CHANNELS: tl.constexpr, GROUPS: tl.constexpr, STATE: tl.constexpr, CHUNK: tl.constexpr,
    CHANNEL_BLOCK: tl.constexpr, STATE_BLOCK: tl.constexpr, ROUNDED: tl.constexpr, MULTIPLIED: tl.constexpr,
):  # fmt: skip
    """The grid of `forward`: the gradient of the state behind every chunk goes to `kept`, that of the initial state to `dinitial`."""
    BLOCKS: tl.constexpr = (CHANNELS + CHANNEL_BLOCK - 1) // CHANNEL_BLOCK
    head = tl.program_id(0) // BLOCKS
    sequence = tl.program_id(1).to(tl.int64)
    first, stop = tl.load(bounds + sequence), tl.load(bounds + sequence + 1)
    l, n = tl.arange(0, CHUNK), tl.arange(0, STATE_BLOCK)
    p = tl.program_id(0) % BLOCKS * CHANNEL_BLOCK + tl.arange(0, CHANNEL_BLOCK)
    row = head // (HEADS // GROUPS) * STATE + n
    inside = (p < CHANNELS)[:, None] & (n < STATE)[None, :]
    here = p[:, None] * STATE + n[None, :]
    a = tl.load(A + head)
    dh = tl.zeros([CHANNEL_BLOCK, STATE_BLOCK], tl.float32)
    if dfinal is not None:
        dh = tl.load(dfinal + (sequence * HEADS + head) * (CHANNELS * STATE) + here, inside, 0.0)
    chunks = tl.cdiv(stop - first, CHUNK)
    for back in range(chunks):
        index = chunks - 1 - back
        start = first + index * CHUNK
        live = l < stop - start
        chunk = first // CHUNK + sequence + index
        tl.store(kept + (chunk * HEADS + head) * (CHANNELS * STATE) + here, dh.to(kept.dtype.element_ty), inside)
        step = tl.load(dt + start * HEADS + head + l * HEADS, live, 0.0)
        wide, deep = live[:, None] & (p < CHANNELS)[None, :], live[:, None] & (n < STATE)[None, :]
        g = tl.load(dy + (start * HEADS + head) * CHANNELS + (l[:, None] * (HEADS * CHANNELS) + p[None, :]), wide, 0.0)
        c = tl.load(C + start * C_stride + (l[:, None] * C_stride + row[None, :]), deep, 0.0)
        high, _, _, end = summed(step, a)
        weighted = g.to(tl.float32) * tl.exp(high)[:, None]
        dh = tl.exp(end) * dh + multiplied(tl.trans(weighted), c, ROUNDED, MULTIPLIED)
    if dinitial is not None:
        tl.store(dinitial + (sequence * HEADS + head) * (CHANNELS * STATE) + here, dh, inside)


@triton.jit
def by_inputs(
    x, dt, A, B, C, D, blocks, bounds, states, dstates, dy, dx, ddt, dA, dD, x_stride, B_stride, C_stride,
    HEADS: tl.constexpr, CHANNELS: tl.constexpr, GROUPS: tl.constexpr, STATE: tl.constexpr, CHUNK: tl.constexpr,
    CHANNEL_BLOCK: tl.constexpr, STATE_BLOCK: tl.constexpr, ROUNDED: tl.constexpr, MULTIPLIED: tl.constexpr,
):  # fmt: skip
    """Grid (heads, chunks), all channels in one block: dx, ddt, and parts of dA and dD [chunks, heads]."""
    head, piece = tl.program_id(0), tl.program_id(1).to(tl.int64)
    start, stop, chunk = place(blocks, bounds, piece, CHUNK)  # type: ignore[misc]
    l, n, p = tl.arange(0, CHUNK), tl.arange(0, STATE_BLOCK), tl.arange(0, CHANNEL_BLOCK)
    row = head // (HEADS // GROUPS) * STATE + n
    live = l < stop - start
    wide, deep = live[:, None] & (p < CHANNELS)[None, :], live[:, None] & (n < STATE)[None, :]
    inside = (p < CHANNELS)[:, None] & (n < STATE)[None, :] & (start < stop)  # of no tokens nothing was kept
    here = (chunk * HEADS + head) * (CHANNELS * STATE) + (p[:, None] * STATE + n[None, :])
    a, step = tl.load(A + head), tl.load(dt + start * HEADS + head + l * HEADS, live, 0.0)
    inner = l[:, None] * (HEADS * CHANNELS) + p[None, :]
    outer = (start * HEADS + head) * CHANNELS
    g = tl.load(dy + outer + inner, wide, 0.0)
    seen = tl.load(x + start * x_stride + head * CHANNELS + (l[:, None] * x_stride + p[None, :]), wide, 0.0).to(tl.float32)
    b = tl.load(B + start * B_stride + (l[:, None] * B_stride + row[None, :]), deep, 0.0)
    c = tl.load(C + start * C_stride + (l[:, None] * C_stride + row[None, :]), deep, 0.0)
    high, low, until_end, end = summed(step, a)
    u = seen * step[:, None]

    # What passes over the step into a token is summed part by part: shortcuts subtract large numbers.
    scores = multiplied(c, tl.trans(b), ROUNDED, MULTIPLIED) * decays(high, low, CHUNK)
    by_scores = multiplied(g, tl.trans(u), ROUNDED, MULTIPLIED)  # later ones meet a score of 0
    passing = passed_within(by_scores * scores, CHUNK, MULTIPLIED)
    du = multiplied(tl.trans(scores), g, ROUNDED, MULTIPLIED)
    h, dh = tl.load(states + here, inside, 0.0), tl.load(dstates + here, inside, 0.0)
    passing += tl.exp(end) * tl.sum(dh.to(tl.float32) * h.to(tl.float32))
    onwards = multiplied(b, tl.trans(dh), ROUNDED, MULTIPLIED) * tl.exp(until_end)[:, None]
    passing += until_now(tl.sum(onwards * u, 1), CHUNK)
    before = multiplied(c, tl.trans(h), ROUNDED, MULTIPLIED) * tl.exp(high)[:, None]
    passing += from_now_on(tl.sum(before * g.to(tl.float32), 1), CHUNK)

    du += onwards
    tl.store(ddt + start * HEADS + head + l * HEADS, tl.sum(du * seen, 1) + a * passing, live)
    by_x = du * step[:, None] + tl.load(D + head) * g.to(tl.float32)
    tl.store(dx + outer + inner, by_x.to(dx.dtype.element_ty), wide)
    tl.store(dA + piece * HEADS + head, tl.sum(tl.where(live, step * passing, 0.0)))
    tl.store(dD + piece * HEADS + head, tl.sum(g.to(tl.float32) * seen))


@triton.jit
def by_groups(
    x, dt, A, B, C, blocks, bounds, states, dstates, dy, dB, dC, x_stride, B_stride, C_stride,
    HEADS: tl.constexpr, CHANNELS: tl.constexpr, GROUPS: tl.constexpr, STATE: tl.constexpr, CHUNK: tl.constexpr,
    CHANNEL_BLOCK: tl.constexpr, STATE_BLOCK: tl.constexpr, ROUNDED: tl.constexpr, MULTIPLIED: tl.constexpr,
):  # fmt: skip
    """Grid (groups, chunks): dB and dC, summed over the heads of a group one after the other."""
    group, piece = tl.program_id(0), tl.program_id(1).to(tl.int64)
    start, stop, chunk = place(blocks, bounds, piece, CHUNK)  # type: ignore[misc]
    l, n, p = tl.arange(0, CHUNK), tl.arange(0, STATE_BLOCK), tl.arange(0, CHANNEL_BLOCK)
    row = group * STATE + n
    live = l < stop - start
    wide, deep = live[:, None] & (p < CHANNELS)[None, :], live[:, None] & (n < STATE)[None, :]
    inside = (p < CHANNELS)[:, None] & (n < STATE)[None, :] & (start < stop)
    b = tl.load(B + start * B_stride + (l[:, None] * B_stride + row[None, :]), deep, 0.0)
    c = tl.load(C + start * C_stride + (l[:, None] * C_stride + row[None, :]), deep, 0.0)
    db, dc = tl.zeros([CHUNK, STATE_BLOCK], tl.float32), tl.zeros([CHUNK, STATE_BLOCK], tl.float32)
    for each in range(HEADS // GROUPS):
        head = group * (HEADS // GROUPS) + each
        a, step = tl.load(A + head), tl.load(dt + start * HEADS + head + l * HEADS, live, 0.0)
        g = tl.load(dy + (start * HEADS + head) * CHANNELS + (l[:, None] * (HEADS * CHANNELS) + p[None, :]), wide, 0.0)
        seen = tl.load(x + start * x_stride + head * CHANNELS + (l[:, None] * x_stride + p[None, :]), wide, 0.0)
        here = (chunk * HEADS + head) * (CHANNELS * STATE) + (p[:, None] * STATE + n[None, :])
        high, low, until_end, _ = summed(step, a)
        u = seen.to(tl.float32) * step[:, None]
        by_products = multiplied(g, tl.trans(u), ROUNDED, MULTIPLIED) * decays(high, low, CHUNK)
        dc += multiplied(by_products, b, ROUNDED, MULTIPLIED)
        db += multiplied(tl.trans(by_products), c, ROUNDED, MULTIPLIED)
        since_start = g.to(tl.float32) * tl.exp(high)[:, None]
        dc += multiplied(since_start, tl.load(states + here, inside, 0.0), ROUNDED, MULTIPLIED)
        db += multiplied(u * tl.exp(until_end)[:, None], tl.load(dstates + here, inside, 0.0), ROUNDED, MULTIPLIED)
    to = start * (GROUPS * STATE) + (l[:, None] * (GROUPS * STATE) + row[None, :])
    tl.store(dB + to, db.to(dB.dtype.element_ty), deep)
    tl.store(dC + to, dc.to(dC.dtype.element_ty), deep)


@triton.jit
def place(blocks, bounds, piece, CHUNK: tl.constexpr):
    """Where a chunk begins and ends, and which of the kept states is its own."""
    sequence, start = tl.load(blocks + 3 * piece), tl.load(blocks + 3 * piece + 1)
    first = tl.load(bounds + sequence)
    return start, tl.load(blocks + 3 * piece + 2), first // CHUNK + sequence + (start - first) // CHUNK


@triton.jit
def passed_within(pairs, CHUNK: tl.constexpr, MULTIPLIED: tl.constexpr):
    """For each t of pairs [to, from] those from earlier than t to t or later, summed."""
    l = tl.arange(0, CHUNK)
    earlier = (l[:, None] < l[None, :]).to(tl.float32)  # [from, t]
    to = tl.dot(tl.where(l[:, None] > l[None, :], pairs, 0.0), earlier, input_precision=PRECISION(MULTIPLIED))
    return tl.sum(tl.where(l[:, None] >= l[None, :], to, 0.0), 0)


@triton.jit
def from_now_on(values, CHUNK: tl.constexpr):
    """The sums of a token's value and all later ones."""
    l = tl.arange(0, CHUNK)
    return tl.sum(tl.where(l[:, None] >= l[None, :], values[:, None], 0.0), 0)


@triton.jit
def until_now(values, CHUNK: tl.constexpr):
    """The sums of all values before a token's."""
    l = tl.arange(0, CHUNK)
    return tl.sum(tl.where(l[:, None] < l[None, :], values[:, None], 0.0), 0)


@triton.constexpr_function
def PRECISION(multiplied):
    """Of products of fp32 numbers: what rounds its operands to bf16 elsewhere may round these to tf32."""
    return "ieee" if multiplied == tl.float32 else "tf32"
