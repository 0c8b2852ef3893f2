"""The convolution's kernels against a sliding window, in float64: with states, and gradients without them."""

import pytest
import torch
from tests.ops.oracle import with_gradients
from tests.ops.test_causal_conv1d import CASES, arguments, double, run
from tests.ops.triton.on_device import assert_near, every, there

from amaru.ops.causal_conv1d import reference, triton


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", every(CASES, "shorter than the taps"))
def test_it_is_the_window_and_leaves_its_states(case, dtype):
    tensors, cu_seqlens = arguments(case, dtype)
    assert_near(run(triton.causal_conv1d, cu_seqlens)(*there(tensors)), run(reference.causal_conv1d, cu_seqlens)(*double(tensors)), dtype)


@pytest.mark.parametrize("activate", [True, pytest.param(False, marks=pytest.mark.soak)])
@pytest.mark.parametrize("case", every(CASES, "shorter than the taps"))
def test_gradients_equal_the_window(case, activate):
    (x, weight, bias, _), cu_seqlens = arguments(case)
    tensors = [x, weight, bias]

    def output(function):
        return lambda *t: function(*t, cu_seqlens=cu_seqlens, silu=activate)

    expected = with_gradients(output(reference.causal_conv1d), double(tensors))
    assert_near(with_gradients(output(triton.causal_conv1d), there(tensors)), expected, torch.float32)
