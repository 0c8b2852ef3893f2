"""Attention over pages: few queries by parts of the pages, many by blocks of queries; and writing into pages.

One query of Nemotron-H 8B (32 heads over 8 of keys and values, 128 channels, bf16): a place is 4 kB to read in a layer, and 16 kFLOP: 4
FLOPs a byte, so memory is the limit, 0.95 us for each thousand places at 4.3 TB/s. A program reads its part of the pages of a head once,
for all queries that share it; a second launch adds the parts up. Many queries: 64 places are read for 128 queries, which are 64 FLOPs a
byte of the L2 and far more of memory; the limit is 790 TFLOP/s, 4 heads channels (place / 2) FLOPs a query.

A page is a block of keys, wherever it lies: gathering pages first would write and read them once more.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def page_write(
    x, pool, pages, owners, positions, x_stride, width, PAGE: tl.constexpr, COLUMNS: tl.constexpr, COLUMN_BLOCK: tl.constexpr
):
    """Grid (tokens): one row each; `width` pages are named for every sequence."""
    t, column = tl.program_id(0).to(tl.int64), tl.arange(0, COLUMN_BLOCK)
    position = tl.load(positions + t)
    page = tl.load(pages + tl.load(owners + t) * width + position // PAGE)
    row = tl.load(x + t * x_stride + column, column < COLUMNS, 0)
    tl.store(pool + (page * PAGE + position % PAGE) * COLUMNS + column, row.to(pool.dtype.element_ty), column < COLUMNS)


@triton.jit
def seen_pages(first_place, last_place, window, sinks, PAGE: tl.constexpr):
    """How many pages the queries at these places see, how many of them hold sinks, and which one follows those."""
    count = last_place // PAGE + 1
    sink_pages = tl.minimum((sinks + PAGE - 1) // PAGE, count)
    nearest = tl.maximum(first_place - window, 0) // PAGE
    if window < 0:
        sink_pages, nearest = count * 0, count * 0
    nearest = tl.maximum(nearest, sink_pages)
    return sink_pages + count - nearest, sink_pages, nearest


@triton.jit
def rows_of(pool, scales, page, head, used, i, channel, PAGE: tl.constexpr, HEADS: tl.constexpr, CHANNELS: tl.constexpr):
    """[places, channels] of a head's page, with its scales where it is held in 8 bits; zeros behind the first `used` places."""
    first, row = page * PAGE * HEADS + head, i * HEADS
    known = (i < used)[:, None] & (channel < CHANNELS)[None, :]
    held = tl.load(pool + first * CHANNELS + (row[:, None] * CHANNELS + channel[None, :]), known, 0.0)
    if scales is not None:
        held = held.to(tl.float32) * tl.load(scales + first + row, i < used, 0.0).to(tl.float32)[:, None]
    return held


@triton.jit
def attended(
    q, q_place, last_place, most, total, acc, keys, values, key_scales, value_scales, page, index, head, scale, window, sinks,
    KV_HEADS: tl.constexpr, QK: tl.constexpr, V: tl.constexpr, PAGE: tl.constexpr, PLACE_BLOCK: tl.constexpr, QK_BLOCK: tl.constexpr,
    V_BLOCK: tl.constexpr, MASKED: tl.constexpr, ROUNDED: tl.constexpr, MULTIPLIED: tl.constexpr,
):  # fmt: skip
    """One page more: the largest score so far, the sum of exponentials and that of values, for each query."""
    i = tl.arange(0, PLACE_BLOCK)
    used = tl.minimum(last_place + 1 - index * PAGE, PAGE).to(tl.int32)
    k = rows_of(keys, key_scales, page, head, used, i, tl.arange(0, QK_BLOCK), PAGE, KV_HEADS, QK).to(ROUNDED).to(MULTIPLIED)
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * (scale * LOG2E)
    if MASKED:
        place = (index * PAGE + i)[None, :]
        behind = q_place[:, None] - place
        seen = (behind >= 0) & (i < PAGE)[None, :]
        if window >= 0:
            seen = seen & ((behind <= window) | (place < sinks))
        scores = tl.where(seen, scores, -float("inf"))
    larger = tl.maximum(most, tl.max(scores, 1))
    base = tl.where(larger == -float("inf"), 0.0, larger)  # nothing seen so far
    weights = tl.exp2(scores - base[:, None])
    shrink = tl.exp2(most - base)
    v = rows_of(values, value_scales, page, head, used, i, tl.arange(0, V_BLOCK), PAGE, KV_HEADS, V).to(ROUNDED).to(MULTIPLIED)
    added = tl.dot(weights.to(ROUNDED).to(MULTIPLIED), v, input_precision="ieee")
    return larger, total * shrink + tl.sum(weights, 1), acc * shrink[:, None] + added


@triton.jit
def few(
    q, keys, values, key_scales, value_scales, pages, lengths, most_of, total_of, acc_of, q_stride, width, scale, window, sinks,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, QK: tl.constexpr, V: tl.constexpr, PAGE: tl.constexpr, HEAD_BLOCK: tl.constexpr,
    PLACE_BLOCK: tl.constexpr, QK_BLOCK: tl.constexpr, V_BLOCK: tl.constexpr, ROUNDED: tl.constexpr, MULTIPLIED: tl.constexpr,
):  # fmt: skip
    """Grid (kv heads, sequences, parts), a query of each sequence: its parts [sequences, heads, parts (, v)] in fp32."""
    SHARED: tl.constexpr = HEADS // KV_HEADS
    head, sequence, part, parts = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2), tl.num_programs(2)
    place = tl.load(lengths + sequence) - 1
    count, sink_pages, nearest = seen_pages(place, place, window, sinks, PAGE)  # type: ignore[misc]
    each = tl.cdiv(count, parts)
    j, d, e = tl.arange(0, HEAD_BLOCK), tl.arange(0, QK_BLOCK), tl.arange(0, V_BLOCK)
    own = head * SHARED + j
    known = (j < SHARED)[:, None] & (d < QK)[None, :]
    query = tl.load(q + sequence * q_stride + own[:, None] * QK + d[None, :], known, 0.0).to(ROUNDED).to(MULTIPLIED)
    q_place = tl.zeros([HEAD_BLOCK], tl.int64) + place
    most = tl.full([HEAD_BLOCK], -float("inf"), tl.float32)
    total, acc = tl.zeros([HEAD_BLOCK], tl.float32), tl.zeros([HEAD_BLOCK, V_BLOCK], tl.float32)
    for number in range(part * each, tl.minimum((part + 1) * each, count)):
        index = tl.where(number < sink_pages, number, nearest + number - sink_pages)
        page = tl.load(pages + sequence * width + index)
        most, total, acc = attended(
            *(query, q_place, place, most, total, acc, keys, values, key_scales, value_scales, page, index, head, scale, window, sinks),
            *(KV_HEADS, QK, V, PAGE, PLACE_BLOCK, QK_BLOCK, V_BLOCK, True, ROUNDED, MULTIPLIED),
        )
    to = (sequence * HEADS + own) * parts + part
    tl.store(most_of + to, most, j < SHARED)
    tl.store(total_of + to, total, j < SHARED)
    tl.store(acc_of + to[:, None] * V + e[None, :], acc, (j < SHARED)[:, None] & (e < V)[None, :])


@triton.jit
def together(most_of, total_of, acc_of, out, parts, V: tl.constexpr, PART_BLOCK: tl.constexpr, V_BLOCK: tl.constexpr):
    """Grid (sequences * heads): the parts added up."""
    row = tl.program_id(0).to(tl.int64)
    part, e = tl.arange(0, PART_BLOCK), tl.arange(0, V_BLOCK)
    most = tl.load(most_of + row * parts + part, part < parts, -float("inf"))
    shrink = tl.exp2(most - tl.max(most, 0))
    total = tl.sum(tl.load(total_of + row * parts + part, part < parts, 0.0) * shrink, 0)
    known = (part < parts)[:, None] & (e < V)[None, :]
    acc = tl.load(acc_of + (row * parts + part)[:, None] * V + e[None, :], known, 0.0)
    tl.store(out + row * V + e, (tl.sum(acc * shrink[:, None], 0) / total).to(out.dtype.element_ty), e < V)


@triton.jit
def many(
    q, keys, values, key_scales, value_scales, pages, lengths, blocks, bounds, out, q_stride, width, scale, window, sinks,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, QK: tl.constexpr, V: tl.constexpr, PAGE: tl.constexpr, QUERY_BLOCK: tl.constexpr,
    PLACE_BLOCK: tl.constexpr, QK_BLOCK: tl.constexpr, V_BLOCK: tl.constexpr, ROUNDED: tl.constexpr, MULTIPLIED: tl.constexpr,
):  # fmt: skip
    """Grid (heads, blocks of queries), the last blocks first, because they see most."""
    head, piece = tl.program_id(0), tl.num_programs(1).to(tl.int64) - 1 - tl.program_id(1)
    sequence, start, stop = tl.load(blocks + 3 * piece), tl.load(blocks + 3 * piece + 1), tl.load(blocks + 3 * piece + 2)
    first_place = tl.load(lengths + sequence) - tl.load(bounds + sequence + 1) + start
    last_place = first_place + stop - start - 1
    m, d, e = tl.arange(0, QUERY_BLOCK), tl.arange(0, QK_BLOCK), tl.arange(0, V_BLOCK)
    live = m < stop - start
    known = live[:, None] & (d < QK)[None, :]
    query = tl.load(q + start * q_stride + head * QK + (m[:, None] * q_stride + d[None, :]), known, 0.0).to(ROUNDED).to(MULTIPLIED)
    most = tl.full([QUERY_BLOCK], -float("inf"), tl.float32)
    total, acc = tl.zeros([QUERY_BLOCK], tl.float32), tl.zeros([QUERY_BLOCK, V_BLOCK], tl.float32)
    count, sink_pages, nearest = seen_pages(first_place, last_place, window, sinks, PAGE)  # type: ignore[misc]
    whole = tl.where(window < 0, (first_place + 1) // PAGE, 0)  # pages that all queries see all of
    table, shared = pages + sequence * width, head // (HEADS // KV_HEADS)
    for index in range(whole):
        page = tl.load(table + index)
        most, total, acc = attended(
            *(query, first_place + m, last_place, most, total, acc, keys, values, key_scales, value_scales),
            *(page, index, shared, scale, window, sinks),
            *(KV_HEADS, QK, V, PAGE, PLACE_BLOCK, QK_BLOCK, V_BLOCK, PLACE_BLOCK != PAGE, ROUNDED, MULTIPLIED),
        )
    for number in range(whole, count):
        index = tl.where(number < sink_pages, number, nearest + number - sink_pages)
        page = tl.load(table + index)
        most, total, acc = attended(
            *(query, first_place + m, last_place, most, total, acc, keys, values, key_scales, value_scales),
            *(page, index, shared, scale, window, sinks),
            *(KV_HEADS, QK, V, PAGE, PLACE_BLOCK, QK_BLOCK, V_BLOCK, True, ROUNDED, MULTIPLIED),
        )
    to = out + (start * HEADS + head) * V + (m[:, None] * (HEADS * V) + e[None, :])
    tl.store(to, (acc / tl.where(live, total, 1.0)[:, None]).to(out.dtype.element_ty), live[:, None] & (e < V)[None, :])
