"""The selective scan's kernels against the recurrence, in float64: outputs, states and all gradients."""

import pytest
import torch
from tests.ops.oracle import with_gradients
from tests.ops.test_selective_scan import CASES, arguments, double, run
from tests.ops.triton.on_device import DEVICE, assert_near, every, there

from amaru.ops.selective_scan import reference, triton


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """The interpreter scans number by number."""
    if DEVICE.type == "cpu":
        monkeypatch.setattr(triton, "CHUNK", 4)
        monkeypatch.setattr(triton, "HELD", 64)


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.soak)])
@pytest.mark.parametrize("case", every(CASES, "few channels and an empty document"))
def test_forward_and_gradients_equal_the_recurrence(case, dtype):
    tensors, cu_seqlens = arguments(case, dtype)
    expected = with_gradients(run(reference.selective_scan, cu_seqlens), double(tensors))
    assert_near(with_gradients(run(triton.selective_scan, cu_seqlens), there(tensors)), expected, dtype)
