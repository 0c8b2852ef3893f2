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
    "values of other width": (4, 1, 16, 24, [(33, 33), (9, 20)]),
}


def arguments(case, dtype=torch.float32):
    heads, kv_heads, qk, v, lengths = CASES[case]
    torch.manual_seed(0)
    q = torch.randn(sum(queries for queries, _ in lengths), heads, qk).to(dtype)
    keys = [torch.randn(n, kv_heads, qk).to(dtype) for _, n in lengths]
    values = [torch.randn(n, kv_heads, v).to(dtype) for _, n in lengths]
    return [q, *keys, *values], bounds(*[queries for queries, _ in lengths])


def run(function, cu_seqlens, scale=0.3):
    def call(q, *kv):
        return function(q, kv[: len(kv) // 2], kv[len(kv) // 2 :], cu_seqlens=cu_seqlens, scale=scale)

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
