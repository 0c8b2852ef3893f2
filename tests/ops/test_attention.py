"""Attention against scores written out, itself against a loop over queries."""

import math

import pytest
import torch
from tests.ops.oracle import FP32, assert_close, bounds, with_gradients

from amaru.errors import ConfigError
from amaru.ops.attention import attention, reference, sdpa

# heads, kv heads, qk channels, v channels, (queries, keys) of each sequence
CASES = {
    "whole documents": (6, 2, 8, 8, [(63, 63), (1, 1), (2, 2)]),
    "prefill, continued and decoding": (4, 4, 8, 8, [(5, 5), (7, 40), (1, 33), (0, 3)]),
    "many of one length": (4, 2, 8, 8, [(32, 32), (9, 9), (32, 32), (4, 40), (32, 32), (9, 9), (4, 40)]),
    "values of other width": (4, 1, 16, 24, [(33, 33), (9, 20)]),
    "narrow values, longer than a block": (2, 1, 5, 3, [(sdpa.BLOCK + 45, sdpa.BLOCK + 45), (sdpa.BLOCK + 1, sdpa.BLOCK + 90), (1, 300)]),
}
WINDOWS = [(1, 0), (1, 3), (5, 0), (5, 3), (20, 31), (70, 2)]  # window, sinks


def arguments(case, dtype=torch.float32):
    heads, kv_heads, qk, v, lengths = CASES[case]
    torch.manual_seed(0)
    q = torch.randn(sum(queries for queries, _ in lengths), heads, qk).to(dtype)
    keys = [torch.randn(n, kv_heads, qk).to(dtype) for _, n in lengths]
    values = [torch.randn(n, kv_heads, v).to(dtype) for _, n in lengths]
    return [q, *keys, *values], bounds(*[queries for queries, _ in lengths])


def run(function, cu_seqlens, scale=0.3, **window):
    def call(q, *kv):
        return function(q, kv[: len(kv) // 2], kv[len(kv) // 2 :], cu_seqlens=cu_seqlens, scale=scale, **window)

    return call


def double(tensors):
    return [tensor.double() for tensor in tensors]


def test_reference_is_a_loop_over_queries_and_heads():
    tensors, cu_seqlens = arguments("prefill, continued and decoding")
    q, k, v = tensors[0][5:12], tensors[2], tensors[6]  # 7 queries behind 33 earlier keys
    y = run(reference.attention, cu_seqlens)(*tensors)[5:12]
    for i in range(7):
        for head in range(4):
            weights = [math.exp(0.3 * float(q[i, head] @ k[j, head])) for j in range(33 + i + 1)]
            expected = sum(weight * v[j, head] for j, weight in enumerate(weights)) / sum(weights)
            assert_close([y[i, head]], [expected], FP32)


@pytest.mark.parametrize(("window", "sinks"), WINDOWS)
def test_reference_with_a_window_is_a_loop_over_visible_keys(window, sinks):
    tensors, cu_seqlens = arguments("prefill, continued and decoding")
    q, k, v = tensors[0][5:12], tensors[2], tensors[6]
    y = run(reference.attention, cu_seqlens, window=window, sinks=sinks)(*tensors)[5:12]
    for i in range(7):
        visible = [j for j in range(33 + i + 1) if 33 + i - j <= window or j < sinks]
        for head in range(4):
            weights = (0.3 * k[visible, head] @ q[i, head]).exp()
            assert_close([y[i, head]], [weights @ v[visible, head] / weights.sum()], FP32)


@pytest.mark.parametrize(("window", "sinks"), WINDOWS)
@pytest.mark.parametrize("case", CASES)
def test_fused_with_a_window_equals_written_out(case, window, sinks):
    tensors, cu_seqlens = arguments(case)
    seen = {"window": window, "sinks": sinks}
    expected = with_gradients(run(reference.attention, cu_seqlens, **seen), double(tensors))
    assert_close(with_gradients(run(sdpa.attention, cu_seqlens, **seen), tensors), expected, FP32)
    assert_close(with_gradients(run(sdpa.attention, cu_seqlens, **seen), double(tensors)), expected, 1e-13)


@pytest.mark.parametrize("case", CASES)
def test_a_window_over_everything_is_no_window(case):
    tensors, cu_seqlens = arguments(case)
    whole = with_gradients(run(sdpa.attention, cu_seqlens), tensors)
    longest = max(n for _, n in CASES[case][-1])
    for window, sinks in [(longest - 1, 0), (longest - 6, 5), (0, longest), (0, longest + 9)]:
        found = with_gradients(run(sdpa.attention, cu_seqlens, window=window, sinks=sinks), tensors)
        assert all(torch.equal(one, other) for one, other in zip(found, whole, strict=True))


def test_a_window_of_nothing_leaves_the_value_of_the_token_itself():
    q, k, v = torch.randn(9, 2, 6), torch.randn(9, 2, 6), torch.randn(9, 2, 7)
    assert_close([attention(q, [k], [v], cu_seqlens=bounds(9), scale=0.3, window=0)], [v], FP32)


@pytest.mark.parametrize("queries", [1, 6])
def test_keys_that_no_query_sees_are_not_even_read(queries):
    torch.manual_seed(0)
    q, k, v = torch.randn(queries, 4, 6), torch.randn(40, 2, 6), torch.randn(40, 2, 9)
    first = 40 - queries - 5  # of the window of the first query
    seen = {"cu_seqlens": bounds(queries), "scale": 0.3, "window": 5, "sinks": 3}
    clean = attention(q, [k], [v], **seen)
    k[3:first], v[3:first] = torch.nan, torch.nan
    assert torch.equal(attention(q, [k], [v], **seen), clean)


@pytest.mark.parametrize("cuts", [[7, 30], [1] * 37, [36, 1]])
def test_continued_queries_equal_the_whole(cuts):
    torch.manual_seed(0)
    q, k, v = torch.randn(37, 4, 6), torch.randn(37, 2, 6), torch.randn(37, 2, 9)
    seen = {"scale": 0.3, "window": 8, "sinks": 3}
    whole = attention(q, [k], [v], cu_seqlens=bounds(37), **seen)
    ends = bounds(*cuts)[1:].tolist()
    parts = [
        attention(part, [k[:end]], [v[:end]], cu_seqlens=bounds(len(part)), **seen) for part, end in zip(q.split(cuts), ends, strict=True)
    ]
    assert_close([torch.cat(parts)], [whole], FP32)


@pytest.mark.parametrize("case", ["values of other width", "many of one length"])
@pytest.mark.parametrize("seen", [{}, {"window": 6, "sinks": 2}], ids=["whole", "window"])
def test_packed_documents_equal_documents_alone(case, seen):
    (q, *kv), cu_seqlens = arguments(case)
    lengths = [queries for queries, _ in CASES[case][-1]]
    packed, count = run(attention, cu_seqlens, **seen)(q, *kv).split(lengths), len(lengths)
    for each, one, k, v in zip(packed, q.split(lengths), kv[:count], kv[count:], strict=True):
        assert torch.equal(each, run(attention, bounds(len(one)), **seen)(one, k, v))


@pytest.mark.parametrize("window", [None, 2])
def test_both_backends_pass_gradcheck(window):
    torch.manual_seed(0)
    shapes = (4, 2, 3), (7, 1, 3), (7, 1, 5)
    tensors = [torch.rand(shape, dtype=torch.float64).requires_grad_() for shape in shapes]
    for function in (sdpa.attention, reference.attention):
        assert torch.autograd.gradcheck(run(function, bounds(4), window=window, sinks=1), tensors)


@pytest.mark.parametrize("case", CASES)
def test_fused_equals_written_out(case):
    tensors, cu_seqlens = arguments(case)
    expected = with_gradients(run(reference.attention, cu_seqlens), double(tensors))
    assert_close(with_gradients(run(sdpa.attention, cu_seqlens), tensors), expected, FP32)
    assert_close(with_gradients(run(sdpa.attention, cu_seqlens), double(tensors)), expected, 1e-13)


@pytest.mark.parametrize("case", CASES)
def test_bfloat16_keeps_its_softmax_in_float32(case):
    tensors, cu_seqlens = arguments(case, torch.bfloat16)
    found = run(sdpa.attention, cu_seqlens)(*tensors)
    # The weights are rounded to bfloat16 for the product with v, and the result is rounded: two half-steps.
    assert_close([found], [run(reference.attention, cu_seqlens)(*double(tensors))], 2.0**-8)


def test_large_scores_do_not_overflow():
    tensors, cu_seqlens = arguments("whole documents")
    found = run(sdpa.attention, cu_seqlens, scale=1e4)(*tensors)
    assert_close([found], [run(reference.attention, cu_seqlens, scale=1e4)(*double(tensors))], FP32)


def test_fewer_keys_than_queries_are_named():
    q, k = torch.zeros(3, 2, 4), torch.zeros(2, 1, 4)
    with pytest.raises(ConfigError, match=r"3 queries \[2, 4\] need at least as many keys"):
        attention(q, [k], [k], cu_seqlens=bounds(3), scale=1.0)


@pytest.mark.parametrize("seen", [{"window": -1}, {"window": 4, "sinks": -2}])
def test_a_negative_window_is_named(seen):
    q = torch.zeros(3, 2, 4)
    with pytest.raises(ConfigError, match=r"0 keys or more, or None for all, and 0 sinks or more; got (-1|4) and (0|-2)"):
        attention(q, [q], [q], cu_seqlens=bounds(3), scale=1.0, **seen)
