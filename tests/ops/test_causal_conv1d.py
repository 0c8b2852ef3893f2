"""The convolution: every backend against a sliding window, and that against torch's own convolution."""

from itertools import pairwise

import pytest
import torch
from tests.ops.oracle import BF16, FP32, assert_close, bounds, with_gradients
from torch.nn.functional import conv1d, silu

from amaru.errors import BackendError, ConfigError
from amaru.ops.causal_conv1d import causal_conv1d, native, reference, shifted

BACKENDS = {"shifted": shifted.causal_conv1d, "native": native.causal_conv1d}
# rows, taps, lengths of the sequences
CASES = {
    "one token": (6, 4, [1]),
    "130 tokens": (131, 4, [130]),
    "shorter than the taps": (9, 4, [2, 1, 0, 3, 40, 1]),
    "one tap": (5, 1, [7, 2]),
    "two taps": (257, 2, [3, 60]),
}


def arguments(case, dtype=torch.float32):
    """x, weight, bias, initial_states, and the boundaries."""
    rows, taps, lengths = CASES[case]
    torch.manual_seed(0)
    x, initial = torch.randn(sum(lengths), rows).to(dtype), torch.randn(len(lengths), rows, taps - 1).to(dtype)
    return [x, torch.randn(rows, taps), torch.randn(rows), initial], bounds(*lengths)


def run(function, cu_seqlens, activate=True):
    return lambda *t: function(*t[:3], cu_seqlens=cu_seqlens, initial_states=t[3], return_states=True, silu=activate)


def double(tensors):
    return [tensor.double() for tensor in tensors]


def test_reference_is_a_padded_convolution():
    (x, weight, bias, initial), cu_seqlens = arguments("130 tokens")
    y, states = run(reference.causal_conv1d, cu_seqlens)(x, weight, bias, initial)
    everything = torch.cat([initial[0], x.T], dim=1)
    assert_close([y], [silu(conv1d(everything[None], weight[:, None], bias, groups=131))[0].T], FP32)
    assert torch.equal(states[0], x[-3:].T)


@pytest.mark.parametrize("activate", [True, False])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_forward_and_gradients_equal_the_window(backend, case, activate):
    tensors, cu_seqlens = arguments(case)
    expected = with_gradients(run(reference.causal_conv1d, cu_seqlens, activate), double(tensors))
    assert_close(with_gradients(run(BACKENDS[backend], cu_seqlens, activate), tensors), expected, FP32)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_bfloat16_rounds_only_its_results(backend, case):
    tensors, cu_seqlens = arguments(case, torch.bfloat16)
    found = with_gradients(run(BACKENDS[backend], cu_seqlens), tensors)
    expected = with_gradients(run(reference.causal_conv1d, cu_seqlens), double(tensors))
    assert_close(found, expected, BF16)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_missing_state_is_zeros(backend):
    (x, weight, bias, initial), cu_seqlens = arguments("shorter than the taps")
    zeros = run(BACKENDS[backend], cu_seqlens)(x, weight, bias, torch.zeros_like(initial))
    missing = run(BACKENDS[backend], cu_seqlens)(x, weight, bias, None)
    assert all(torch.equal(one, other) for one, other in zip(zeros, missing, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_continued_token_by_token_equals_the_whole(backend):
    (x, weight, bias, initial), cu_seqlens = arguments("130 tokens")
    whole, final = run(BACKENDS[backend], cu_seqlens)(x, weight, bias, initial)
    parts, state = [], initial
    for start, stop in pairwise([0, 1, 2, 4, 60, 61, 130]):
        y, state = run(BACKENDS[backend], bounds(stop - start))(x[start:stop], weight, bias, state)
        parts.append(y)
    assert torch.equal(state, final)
    assert_close([torch.cat(parts)], [whole], FP32)


def test_native_gradients_are_bit_equal_for_any_number_of_threads():
    tensors, cu_seqlens = arguments("two taps")
    threads = torch.get_num_threads()
    try:
        results = []
        for number in (1, threads, 3):
            torch.set_num_threads(number)
            results.append(with_gradients(run(native.causal_conv1d, cu_seqlens), tensors))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(one, two) for one, two in zip(results[0], other, strict=True))


def test_more_taps_than_the_kernel_has_are_refused_and_still_served(monkeypatch):
    x, weight, bias = torch.randn(20, 3), torch.randn(3, 9), torch.randn(3)
    y, _ = causal_conv1d(x, weight, bias, cu_seqlens=bounds(20))
    assert_close([y], [reference.causal_conv1d(x, weight, bias, cu_seqlens=bounds(20))[0]], FP32)
    monkeypatch.setenv("AMARU_CAUSAL_CONV1D", "native")
    with pytest.raises(BackendError, match="up to 4 taps, got 9"):
        causal_conv1d(x, weight, bias, cu_seqlens=bounds(20))


def test_a_wrong_bias_is_named():
    with pytest.raises(ConfigError, match=r"bias must have shape \[3\]; got \[4\]"):
        causal_conv1d(torch.zeros(5, 3), torch.zeros(3, 4), torch.zeros(4), cu_seqlens=bounds(5))
