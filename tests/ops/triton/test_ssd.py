"""The scan's kernels against the recurrence, in float64: outputs, states and all gradients."""

import pytest
import torch
from tests.ops.oracle import with_gradients
from tests.ops.test_ssd import CASES, arguments, double, run
from tests.ops.triton.on_device import assert_near, every, there

from amaru.ops.ssd import reference, triton


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.soak)])
@pytest.mark.parametrize("case", every(CASES, "two chunks and an empty document"))
def test_forward_and_gradients_equal_the_recurrence(case, dtype):
    tensors, cu_seqlens = arguments(case, dtype)
    expected = with_gradients(run(reference.ssd, cu_seqlens), double(tensors))
    assert_near(with_gradients(run(triton.ssd, cu_seqlens), there(tensors)), expected, dtype)


@pytest.mark.soak
def test_strong_decay_stays_finite_and_exact():
    (x, dt, A, *rest), cu_seqlens = arguments("130 tokens, odd channels")
    dt[1::3] *= 1e4  # dt A down to -1e4, next to tokens that hardly decay
    A[0] = -16.0
    tensors = [x, dt, A, *rest]
    expected = with_gradients(run(reference.ssd, cu_seqlens), double(tensors))
    assert_near(with_gradients(run(triton.ssd, cu_seqlens), there(tensors)), expected, torch.float32)


@pytest.mark.soak
def test_slices_of_wider_rows_and_no_states():
    (x, dt, A, B, C, D, _), cu_seqlens = arguments("63 tokens", torch.bfloat16)
    wide = torch.randn(63, 2 * 16 + 2 * 16).bfloat16()
    x, B, C = (part.unflatten(1, (-1, 16)) for part in wide.split([32, 16, 16], dim=1))
    (found, none), (expected, _) = (
        triton.ssd(*there([x, dt, A, B, C, D]), cu_seqlens=cu_seqlens),
        triton.ssd(*there([x.contiguous(), dt, A, B.contiguous(), C.contiguous(), D]), cu_seqlens=cu_seqlens),
    )
    assert none is None and torch.equal(found, expected)
